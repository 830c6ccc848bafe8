//! A configuration that cannot be used: exit code 64, every fault named, no secret shown.

use job_testkit::process::Program;
use job_testkit::{Answer, FakeFunction, Signal};

use super::support::{Bench, LIMIT, migrated_to, program};

const SECRET: &str = "hunter2";

#[tokio::test]
async fn a_bad_configuration_exits_with_64_and_names_every_fault_at_once() {
    let mut worker = program()
        .env("PGPORT", "eighty")
        .env("PGSSLMODE", "on")
        .env("PGPASSWORD", SECRET)
        .env("HOSTNAME", "abc")
        .env("JOBS_SCHEMA", "a-b")
        .env("JOBS_SUPPORT_ANY", "maybe")
        .env("JOBS_CONCURRENCY", "0")
        .env("JOBS_POLL_INTERVAL", "0")
        .env("JOBS_SHUTDOWN_GRACE", "soon")
        .env("JOBS_DISPATCH_TIMEOUT", "1d")
        .env("JOBS_CALLBACK_TIMEOUT", "-1")
        .env("JOBS_JOB_EXPIRY", "x")
        .env("JOBS_COMPLETE_ON_2XX", "2")
        .env("JOBS_HTTP2", "h2c")
        .env("JOBS_HEALTH_PORT", "70000")
        .env("INTERNAL_JOBS_CALLBACK_PORT", "-1")
        .env("INTERNAL_JOBS_CALLBACK_URL", "nonsense")
        .env("KNATIVE_SERVICE_URL", "gateway:8080")
        .env("INTERNAL_GATEWAY_DEVELOPMENT_MAP", "[]")
        .spawn();
    assert_eq!(worker.exit_code(LIMIT).await, 64);
    let output = worker.output();
    for name in [
        "PGPORT",
        "PGSSLMODE",
        "HOSTNAME",
        "JOBS_SCHEMA",
        "JOBS_SUPPORT_ANY",
        "JOBS_CONCURRENCY",
        "JOBS_POLL_INTERVAL",
        "JOBS_SHUTDOWN_GRACE",
        "JOBS_DISPATCH_TIMEOUT",
        "JOBS_CALLBACK_TIMEOUT",
        "JOBS_JOB_EXPIRY",
        "JOBS_COMPLETE_ON_2XX",
        "JOBS_HTTP2",
        "JOBS_HEALTH_PORT",
        "INTERNAL_JOBS_CALLBACK_PORT",
        "INTERNAL_JOBS_CALLBACK_URL",
        "KNATIVE_SERVICE_URL",
        "INTERNAL_GATEWAY_DEVELOPMENT_MAP",
    ] {
        assert!(worker.lines().iter().any(|line| line.trim().starts_with(&format!("{name}: "))), "{name}:\n{output}");
    }
    assert!(!output.contains(SECRET), "{output}");
}

#[tokio::test]
async fn what_has_no_effect_and_where_jobs_are_posted_is_told_at_the_start() {
    let nobody = job_testkit::cluster::free_port().unwrap().to_string();
    let start = |pairs: &[(&str, &str)]| {
        program().env("PGHOST", "127.0.0.1").env("PGPORT", &nobody).envs(pairs.iter().copied()).spawn()
    };
    let mut worker = start(&[("JOBS_SUPPORTED", "a,b"), ("JOBS_CONCURENCY", "4"), ("JOBS_DASHBOARD", "on")]);
    worker.wait_for_line("KNATIVE_SERVICE_URL: unset, so jobs are posted to http://gateway:8080/<task", LIMIT).await;
    let output = worker.output();
    for told in [
        "JOBS_CONCURENCY is set, and nothing reads it: did you mean JOBS_CONCURRENCY?",
        "JOBS_SUPPORTED: has no effect",
    ] {
        assert!(output.contains(told), "{told}: {output}");
    }
    assert!(!output.contains("JOBS_DASHBOARD"), "{output}");
    drop(worker);

    let only = [("JOBS_SUPPORT_ANY", "false"), ("JOBS_SUPPORTED", "a"), ("KNATIVE_SERVICE_URL", "http://gateway")];
    let mut worker = start(&only);
    worker.wait_for_line("waiting for", LIMIT).await;
    let output = worker.output();
    assert!(!output.contains("has no effect") && !output.contains("jobs are posted"), "{output}");
}

#[tokio::test]
async fn a_duration_of_zero_is_a_fault_where_it_makes_no_sense() {
    for name in ["JOBS_POLL_INTERVAL", "JOBS_DISPATCH_TIMEOUT", "JOBS_CALLBACK_TIMEOUT", "JOBS_JOB_EXPIRY"] {
        // Without Postgres, a worker that accepts the setting would wait; the limit ends it.
        let nobody = job_testkit::cluster::free_port().unwrap().to_string();
        let mut worker = program().env("PGHOST", "127.0.0.1").env("PGPORT", nobody).env(name, "0").spawn();
        assert_eq!(worker.exit_code(std::time::Duration::from_secs(5)).await, 64, "{name}");
        assert!(worker.output().contains(&format!("{name}: ")), "{}", worker.output());
    }
}

#[tokio::test]
async fn a_database_url_that_cannot_be_parsed_is_a_bad_configuration_and_is_not_shown() {
    for url in [
        "nonsense",
        "postgres://user:hunter2@localhost:port/jobs",
        "postgres://user:hunter2?@localhost/jobs",
        "postgres://user:x?hunter2@localhost/jobs",
        "postgres://user:hunter2@localhost/jobs?hunter2=1",
        "postgres://user@localhost/jobs?connect_timeout=hunter2",
        "host=localhost password=hunter2 nonsense",
        "host=localhost port=x password=hunter2",
        "mysql://user:hunter2@localhost/jobs",
    ] {
        let mut worker = program().env("DATABASE_URL", url).spawn();
        let code = worker.exit_code(LIMIT).await;
        let output = worker.output();
        assert!(code == 64 && output.contains("DATABASE_URL"), "{url}: exit {code}\n{output}");
        assert!(!output.contains(SECRET), "{url}:\n{output}");
    }
}

/// libpq's variables, of which none is ignored without a word.
#[tokio::test]
async fn variables_of_libpq_are_refused_by_name_told_or_honoured() {
    let refused =
        [("PGGSSENCMODE", "require"), ("PGREQUIREPEER", "postgres"), ("PGSSLCRL", "/crl"), ("PGSERVICE", "prod")];
    let mut worker = program().envs(refused).env("PGCONNECT_TIMEOUT", "soon").spawn();
    assert_eq!(worker.exit_code(LIMIT).await, 64);
    for name in refused.map(|(name, _)| name).into_iter().chain(["PGCONNECT_TIMEOUT"]) {
        let named = |line: &String| line.trim().starts_with(&format!("{name}: "));
        assert!(worker.lines().iter().any(named), "{name}: {}", worker.output());
    }

    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let honoured = [("PGAPPNAME", "of the shop"), ("PGHOSTADDR", "127.0.0.1"), ("PGTZ", "Asia/Tokyo")];
    let mut worker = bench.worker(&function.url()).envs(honoured).spawn();
    worker.wait_for_line("PGTZ: has no effect", LIMIT).await;
    worker.wait_for_line("worker looks for jobs", LIMIT).await;
    let named = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'of the shop'";
    assert!(bench.sql.query_one(named, &[]).await.unwrap().get::<_, i64>(0) > 0);
}

#[tokio::test]
async fn a_root_certificate_that_cannot_be_read_is_a_bad_configuration() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    for path in ["/no/such/file.pem", empty.path().to_str().unwrap(), "/"] {
        let mut worker = program().env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", path).spawn();
        let code = worker.exit_code(LIMIT).await;
        let output = worker.output();
        assert!(code == 64 && output.contains("PGSSLROOTCERT") && output.contains(path), "exit {code}\n{output}");
    }
}

#[tokio::test]
async fn a_url_with_a_password_is_not_shown_when_it_is_refused() {
    for name in ["KNATIVE_SERVICE_URL", "INTERNAL_GATEWAY_URL", "INTERNAL_JOBS_CALLBACK_URL"] {
        let mut worker = program().env(name, "ftp://user:hunter2@gateway/").spawn();
        assert_eq!(worker.exit_code(LIMIT).await, 64);
        let output = worker.output();
        assert!(output.contains(name) && !output.contains(SECRET), "{output}");
    }
}

#[tokio::test]
async fn no_secret_appears_in_the_logs_of_a_run() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::text(500, "down")).await;
    let gateway = format!("http://user:{SECRET}@{}/?token={SECRET}", function.address());
    let worker = bench
        .worker(&gateway)
        .env("PGPASSWORD", SECRET)
        .env("DATABASE_URL", bench.db.url_as("postgres", SECRET))
        .env("RUST_LOG", "debug");
    let mut worker = worker.spawn();
    let id = bench.add_with("private", r#"{"card": "payload-4711"}"#, "").await;
    let last_error = bench.failed(id).await.last_error.unwrap();
    worker.wait_for_line("attempt failed", LIMIT).await;
    drop(function);
    bench.run("UPDATE app_jobs.jobs SET last_error = NULL, run_at = now()").await;
    let refused = bench.failed(id).await.last_error.unwrap();
    worker.signal(Signal::Term);
    assert_eq!(worker.exit_code(LIMIT).await, 0);
    let told = format!("{last_error}\n{refused}\n{}", worker.output());
    assert!(!told.contains(SECRET), "{told}");
    assert!(!told.contains("payload-4711"), "{told}");
}

#[tokio::test]
async fn arguments_that_cannot_be_understood_exit_with_64_and_help_with_0() {
    let run = async |argument: &str| {
        let mut worker = Program::at(env!("CARGO_BIN_EXE_job-worker")).arg(argument).spawn();
        (worker.exit_code(LIMIT).await, worker.output())
    };
    assert_eq!(run("--nonsense").await.0, 64);
    assert_eq!(run("migrate").await.0, 64);
    assert_eq!(run("--help").await.0, 0);
    let (code, version) = run("--version").await;
    assert_eq!((code, version.trim()), (0, concat!("job-worker ", env!("CARGO_PKG_VERSION"))));
}

#[tokio::test]
async fn empty_variables_are_unset_ones() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let mut worker = bench.worker(&function.url());
    for name in [
        "DATABASE_URL",
        "PGPASSWORD",
        "PGSSLMODE",
        "PGSSLROOTCERT",
        "JOBS_SCHEMA",
        "JOBS_SUPPORT_ANY",
        "JOBS_SUPPORTED",
        "JOBS_CONCURRENCY",
        "JOBS_HEALTH_PORT",
        "INTERNAL_GATEWAY_DEVELOPMENT_MAP",
        "NODE_ENV",
        "HOSTNAME",
        "RUST_LOG",
        "INTERNAL_JOBS_CALLBACK_PORT",
        "JOBS_CALLBACK_HOST",
        "INTERNAL_GATEWAY_URL",
        "LOG_FORMAT",
        "TZ",
    ] {
        worker = worker.env(name, "");
    }
    let _worker = worker.spawn();
    bench.gone(bench.add("task").await).await;
    assert_eq!(function.requests()[0].header("x-worker-id"), Some("worker-0"));
}

#[tokio::test]
async fn another_schema_is_worked_on_when_it_is_configured() {
    let bench = Bench::new().await;
    bench.run("DROP SCHEMA app_jobs CASCADE").await;
    let function = FakeFunction::answering(Answer::complete()).await;
    migrated_to(bench.db.url().to_owned(), "My_Jobs").await.unwrap();
    let _worker = bench.worker(&function.url()).env("JOBS_SCHEMA", "My_Jobs").spawn();
    bench.run("SELECT \"My_Jobs\".add_job('there')").await;
    assert_eq!(function.wait_for(1, LIMIT).await[0].target, "/there");
}
