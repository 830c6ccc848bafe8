//! A configuration that cannot be used, and a start without what is needed.

use job_testkit::process::Program;
use job_testkit::{Answer, FakeFunction, TestDb, eventually};

use super::support::{Bench, LIMIT, callback, get, migrated, program};

#[tokio::test]
async fn a_bad_configuration_of_any_part_exits_with_64_and_names_every_fault_once() {
    let mut service = program()
        .env("PGPORT", "x")
        .env("PGPASSWORD", "hunter2")
        .env("INTERNAL_JOBS_CALLBACK_PORT", "x")
        .env("JOBS_CONCURRENCY", "x")
        .env("TZ", "Mars/Olympus")
        .env("JOBS_SUPPORT_ANY", "x")
        .env("JOBS_SHUTDOWN_GRACE", "x")
        .env("HOSTNAME", "abc")
        .env("RUST_LOG", "loud=very")
        .env("LOG_FORMAT", "x")
        .spawn();
    assert_eq!(service.exit_code(LIMIT).await, 64);
    let output = service.output();
    for name in [
        "RUST_LOG",
        "LOG_FORMAT",
        "PGPORT",
        "INTERNAL_JOBS_CALLBACK_PORT",
        "JOBS_CONCURRENCY",
        "TZ",
        "JOBS_SUPPORT_ANY",
        "JOBS_SHUTDOWN_GRACE",
        "HOSTNAME",
    ] {
        assert!(service.lines().iter().any(|line| line.trim().starts_with(&format!("{name}: "))), "{name}:\n{output}");
    }
    let mut lines = service.lines();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), service.lines().len(), "a fault is told twice:\n{output}");
    assert!(!output.contains("hunter2"), "{output}");
}

#[tokio::test]
async fn a_bad_log_filter_alone_exits_with_64() {
    let mut service = program().env("RUST_LOG", "loud=very").spawn();
    assert_eq!(service.exit_code(LIMIT).await, 64);
    assert!(service.output().contains("RUST_LOG: "), "{}", service.output());
}

#[tokio::test]
async fn a_bad_database_url_exits_with_64_and_names_the_part_without_the_password() {
    for (url, part) in [
        ("postgres://u:hunter2@localhost:54x2/db", "its port"),
        ("postgres://u:hunter2@localhost/db?sslmode=sure", "sslmode"),
        ("postgres://u:hunter2@localhost/db?connect_timeout=soon", "connect_timeout"),
        ("postgres://u:hun@ter2:x@localhost/db", "an @ too many"),
    ] {
        let mut service = program().env("DATABASE_URL", url).spawn();
        assert_eq!(service.exit_code(LIMIT).await, 64, "{}", service.output());
        let output = service.output();
        assert!(output.contains("DATABASE_URL: ") && output.contains(part), "{output}");
        assert!(!output.contains("hun") && !output.contains("ter2"), "{output}");
    }
}

#[tokio::test]
async fn unknown_arguments_exit_with_64() {
    for argument in ["--nonsense", "nonsense"] {
        let mut service = Program::at(env!("CARGO_BIN_EXE_job-service")).arg(argument).spawn();
        assert_eq!(service.exit_code(LIMIT).await, 64, "{argument}");
    }
}

#[tokio::test]
async fn a_callback_port_that_is_taken_is_a_failure_with_70() {
    let bench = Bench::new().await;
    let taken = std::net::TcpListener::bind("[::]:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut service = program().envs(bench.db.env()).env("INTERNAL_JOBS_CALLBACK_PORT", &port).spawn();
    assert_eq!(service.exit_code(LIMIT).await, 70);
    let output = service.output();
    assert!(output.contains("INTERNAL_JOBS_CALLBACK_PORT") && output.contains(&port), "{output}");
}

#[tokio::test]
async fn a_user_that_postgres_refuses_ends_the_whole_service_with_70() {
    let bench = Bench::new().await;
    let (_, callback) = callback();
    let mut service = program().envs(bench.db.env()).envs(callback).env("PGUSER", "no_such_role").spawn();
    assert_eq!(service.exit_code(LIMIT).await, 70);
    assert!(service.output().contains("no_such_role"), "{}", service.output());
}

#[tokio::test]
async fn the_service_waits_for_the_schema_alive_but_not_ready_and_then_works_without_a_restart() {
    let db = TestDb::empty().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let (port, callback) = callback();
    let mut service = program().envs(db.env()).envs(callback).env("KNATIVE_SERVICE_URL", function.url()).spawn();
    service.wait_for_line("job-service migrate", LIMIT).await;
    eventually(LIMIT, async || get(port, "/healthz").await == Some(200)).await;
    assert_eq!(get(port, "/readyz").await, Some(503));
    migrated(db.url().to_owned()).await.unwrap();
    assert_eq!(get(port, "/readyz").await, Some(200));
    db.connect().await.batch_execute("SELECT app_jobs.add_job('first')").await.unwrap();
    function.wait_for(1, LIMIT).await;
}

#[tokio::test]
async fn without_a_name_worker_and_scheduler_have_their_own() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::accepted()).await;
    let (_service, _) = bench.service(&function.url(), &[("HOSTNAME", "")]).await;
    let add =
        "SELECT app_jobs.add_job('job'), app_jobs.add_scheduled_job('x', '{}', '{\"rule\": \"0 0 1 1 *\"}'::json)";
    bench.sql.batch_execute(add).await.unwrap();
    assert_eq!(function.wait_for(1, LIMIT).await[0].header("x-worker-id"), Some("worker-0"));
    let holders = "SELECT count(*) FROM app_jobs.jobs j, app_jobs.scheduled_jobs s \
                   WHERE j.locked_by = 'worker-0' AND s.locked_by = 'scheduler-0'";
    eventually(LIMIT, async || bench.sql.query_one(holders, &[]).await.unwrap().get::<_, i64>(0) == 1).await;
}

#[tokio::test]
async fn the_health_port_of_a_part_that_runs_alone_is_nothing_to_the_service() {
    let bench = Bench::new().await;
    let (mut service, _) = bench.service("http://127.0.0.1:9", &[("JOBS_HEALTH_PORT", "70000")]).await;
    assert!(service.is_running());
}

#[tokio::test]
async fn a_service_that_takes_no_task_says_so_once() {
    let bench = Bench::new().await;
    let (service, _) = bench.service("http://127.0.0.1:9", &[("JOBS_SUPPORT_ANY", "false")]).await;
    let said = service.lines().iter().filter(|line| line.contains("JOBS_SUPPORTED is empty")).count();
    assert_eq!(said, 1, "{}", service.output());
}
