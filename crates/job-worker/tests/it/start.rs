//! A worker that starts before what it needs.

use std::time::{Duration, Instant};

use job_testkit::{Answer, FakeFunction, Signal, TestDb};

use super::support::{Bench, LIMIT, migrated, program};

#[tokio::test]
async fn a_worker_waits_for_the_schema_names_the_command_and_then_works_without_a_restart() {
    let db = TestDb::empty().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let mut worker = program().envs(db.env()).env("KNATIVE_SERVICE_URL", function.url()).spawn();
    let line = worker.wait_for_line("job-service migrate", LIMIT).await;
    assert!(line.contains("app_jobs") && line.contains(db.name()), "{line}");
    migrated(db.url().to_owned()).await.unwrap();
    let started = Instant::now();
    db.connect().await.batch_execute("SELECT app_jobs.add_job('first')").await.unwrap();
    function.wait_for(1, LIMIT).await;
    assert!(started.elapsed() < Duration::from_secs(4), "it looks at least once a second: {:?}", started.elapsed());
    let said = worker.lines().iter().filter(|line| line.contains("job-service migrate")).count();
    assert_eq!(said, 1, "the same reason is said once:\n{}", worker.output());
}

#[tokio::test]
async fn a_worker_waits_for_a_database_that_does_not_exist_yet() {
    let bench = Bench::new().await;
    let name = format!("{}_later", bench.db.name());
    let mut worker = bench.worker("http://127.0.0.1:9").env("PGDATABASE", &name).spawn();
    let line = worker.wait_for_line("waiting for Postgres", LIMIT).await;
    assert!(line.contains(&name), "{line}");
    bench.run(&format!("CREATE DATABASE {name}")).await;
    let url = bench.db.url().replace(bench.db.name(), &name);
    migrated(url).await.unwrap();
    worker.wait_for_line("worker looks for jobs", LIMIT).await;
    worker.signal(Signal::Term);
    assert_eq!(worker.exit_code(LIMIT).await, 0);
    bench.run(&format!("DROP DATABASE {name} WITH (FORCE)")).await;
}

#[tokio::test]
async fn a_worker_that_waits_stops_when_told() {
    let port = job_testkit::cluster::free_port().unwrap();
    let mut worker = program().env("PGHOST", "127.0.0.1").env("PGPORT", port.to_string()).spawn();
    let line = worker.wait_for_line("waiting for Postgres", LIMIT).await;
    assert!(line.contains(&format!("127.0.0.1:{port}")), "{line}");
    worker.signal(Signal::Term);
    assert_eq!(worker.exit_code(Duration::from_secs(5)).await, 0);
}

#[tokio::test]
async fn a_user_that_postgres_refuses_is_a_failure_with_70() {
    let bench = Bench::new().await;
    let mut worker = bench.worker("http://127.0.0.1:9").env("PGUSER", "no_such_role").spawn();
    assert_eq!(worker.exit_code(LIMIT).await, 70);
    assert!(worker.output().contains("no_such_role"), "{}", worker.output());
}

#[tokio::test]
async fn a_worker_alone_does_not_bind_the_callback_port() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let worker = bench.worker(&function.url()).env("INTERNAL_JOBS_CALLBACK_PORT", port.to_string());
    let _worker = worker.spawn();
    bench.gone(bench.add("task").await).await;
    drop(taken);
    let free = std::net::TcpListener::bind(("0.0.0.0", port));
    assert!(free.is_ok(), "{free:?}");
}

#[tokio::test]
async fn a_schema_that_changes_or_is_made_anew_under_a_worker_is_worked_on_without_a_restart() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let mut worker = bench.worker(&function.url()).env("JOBS_POLL_INTERVAL", "500ms").spawn();
    bench.gone(bench.add("before").await).await;
    // Statements are prepared by now.
    bench.run("ALTER TABLE app_jobs.jobs ADD COLUMN note text DEFAULT 'mine'").await;
    bench.gone(bench.add("wider").await).await;

    bench.run("DROP SCHEMA app_jobs CASCADE").await;
    worker.wait_for_line("cannot claim, trying again", LIMIT).await;
    migrated(bench.db.url().to_owned()).await.unwrap();
    bench.gone(bench.add("anew").await).await;
    worker.wait_for_line("claiming again", LIMIT).await;
    let said = worker.lines().iter().filter(|line| line.contains("cannot claim")).count();
    assert_eq!(said, 1, "one line an outage:\n{}", worker.output());
}

#[tokio::test]
async fn a_worker_whose_role_sees_one_tenant_only_says_so_and_waits() {
    let bench = Bench::new().await;
    let role = format!("role_{}", bench.db.name());
    bench
        .run(&format!(
            "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA app_jobs TO {role};
             GRANT ALL ON ALL TABLES IN SCHEMA app_jobs TO {role}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA app_jobs TO {role}"
        ))
        .await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let mut worker = bench.worker(&function.url()).env("PGUSER", &role).spawn();
    let line = worker.wait_for_line("waiting for rights", LIMIT).await;
    assert!(line.contains(&format!("GRANT jobs_runtime TO {role}")), "{line}");
    bench.run(&format!("GRANT jobs_runtime TO {role}")).await;
    bench.gone(bench.add("seen").await).await;
    worker.signal(Signal::Term);
    assert_eq!(worker.exit_code(LIMIT).await, 0);
    bench.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn a_role_that_may_only_what_administrator_may_can_be_the_workers() {
    let bench = Bench::new().await;
    let role = format!("role_{}", bench.db.name());
    bench.run(&format!("CREATE ROLE {role} LOGIN IN ROLE administrator")).await;
    let function = FakeFunction::start(
        async |request| {
            if request.target == "/bad" { Answer::status(500) } else { Answer::complete() }
        },
    )
    .await;
    let mut worker = bench.worker(&function.url()).env("PGUSER", &role).spawn();
    bench.gone(bench.add_with("good", "{}", ", queue_name := 'line'").await).await;
    bench.failed(bench.add_with("bad", "{}", ", queue_name := 'line'").await).await;
    worker.signal(Signal::Term);
    assert_eq!(worker.exit_code(LIMIT).await, 0);
    bench.run(&format!("DROP ROLE {role}")).await;
}
