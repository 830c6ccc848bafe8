//! Start, health checks, configuration, stop.

use std::time::{Duration, Instant};

use job_testkit::process::Program;
use job_testkit::{Signal, TestDb};
use reqwest::Method;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::support::{Bench, LIMIT, held, migrated, port, program, send};

async fn get(port: u16, path: &str) -> (u16, String) {
    send(reqwest::Client::new().get(format!("http://127.0.0.1:{port}{path}"))).await
}

#[tokio::test]
async fn the_server_lives_without_the_schema_and_is_ready_with_it_without_a_restart() {
    let db = TestDb::empty().await;
    let mut server = program().envs(db.env()).spawn();
    let port = port(&mut server).await;
    assert_eq!(get(port, "/healthz").await.0, 200);
    let (status, reason) = get(port, "/readyz").await;
    assert_eq!(status, 503);
    assert!(reason.contains("job-service migrate"), "{reason}");
    migrated(db.url().to_owned()).await.unwrap();
    assert_eq!(get(port, "/readyz").await.0, 200);
    let sql = db.connect().await;
    let id = held(&sql).await;
    let callback = reqwest::Client::new().post(format!("http://127.0.0.1:{port}/callback"));
    assert_eq!(send(callback.header("X-Worker-Id", "worker-test").header("X-Job-Id", id)).await.0, 200);
    assert_eq!(super::support::state(&sql, id).await, None);
}

#[tokio::test]
async fn without_postgres_the_server_is_alive_and_not_ready() {
    let nobody = job_testkit::cluster::free_port().unwrap();
    let mut server = program().env("PGHOST", "127.0.0.1").env("PGPORT", nobody.to_string()).spawn();
    let port = port(&mut server).await;
    assert_eq!(get(port, "/healthz").await.0, 200);
    let (status, reason) = get(port, "/readyz").await;
    assert_eq!(status, 503);
    assert!(reason.contains("no connection to Postgres") && reason.contains("refused"), "{reason}");
}

#[tokio::test]
async fn the_server_listens_on_all_interfaces() {
    let bench = Bench::new().await;
    let line = bench.server.lines().into_iter().find(|line| line.contains("callback server listens")).unwrap();
    assert!(line.contains("[::]:") || line.contains("0.0.0.0:"), "{line}");
    assert_eq!(get(bench.port, "/healthz").await.0, 200);
}

#[tokio::test]
async fn a_port_that_is_taken_is_a_failure_with_70_that_names_the_variable() {
    let bench = Bench::new().await;
    let mut second = program().envs(bench.db.env()).env("INTERNAL_JOBS_CALLBACK_PORT", bench.port.to_string()).spawn();
    assert_eq!(second.exit_code(LIMIT).await, 70);
    let output = second.output();
    assert!(output.contains("INTERNAL_JOBS_CALLBACK_PORT") && output.contains(&bench.port.to_string()), "{output}");
}

#[tokio::test]
async fn a_bad_configuration_exits_with_64_and_names_every_fault_but_no_secret() {
    let mut server = program()
        .env("INTERNAL_JOBS_CALLBACK_PORT", "http")
        .env("PGPORT", "0")
        .env("PGPASSWORD", "hunter2")
        .env("JOBS_SHUTDOWN_GRACE", "x")
        .env("JOBS_SCHEMA", "a;b")
        .env("RUST_LOG", "info")
        .spawn();
    assert_eq!(server.exit_code(LIMIT).await, 64);
    let output = server.output();
    for name in ["INTERNAL_JOBS_CALLBACK_PORT", "PGPORT", "JOBS_SHUTDOWN_GRACE", "JOBS_SCHEMA"] {
        assert!(output.contains(&format!("{name}: ")), "{name}:\n{output}");
    }
    assert!(!output.contains("hunter2"), "{output}");
    let mut server = Program::at(env!("CARGO_BIN_EXE_job-server")).arg("--nonsense").spawn();
    assert_eq!(server.exit_code(LIMIT).await, 64);
}

#[tokio::test]
async fn a_stop_ends_with_0_at_once_when_nobody_is_connected() {
    for signal in [Signal::Term, Signal::Int] {
        let mut bench = Bench::new().await;
        let started = Instant::now();
        bench.server.signal(signal);
        assert_eq!(bench.server.exit_code(LIMIT).await, 0);
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_callback_in_flight_during_a_stop_is_stored_and_answered() {
    let mut bench = Bench::new().await;
    let id = bench.held().await;
    // The outcome has to wait: somebody holds the row.
    bench.sql.batch_execute("BEGIN; SELECT FROM app_jobs.jobs FOR UPDATE").await.unwrap();
    let answer = tokio::spawn(send(bench.callback(id)));
    let other = bench.db.connect().await;
    let waiting = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock' AND application_name = 'jobs'";
    job_testkit::eventually(LIMIT, async || other.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 1).await;
    bench.server.signal(Signal::Term);
    bench.server.wait_for_line("stopping", LIMIT).await;
    bench.sql.batch_execute("COMMIT").await.unwrap();
    assert_eq!(answer.await.unwrap().0, 200);
    assert_eq!(bench.job(id).await, None);
    assert_eq!(bench.server.exit_code(LIMIT).await, 0);
}

#[tokio::test]
async fn a_callback_that_still_waits_for_its_outcome_when_the_grace_is_over_is_answered_503() {
    let bench = Bench::new().await;
    let id = bench.held().await;
    let mut server = program().envs(bench.db.env()).env("JOBS_SHUTDOWN_GRACE", "1s").spawn();
    let port = port(&mut server).await;
    bench.sql.batch_execute("BEGIN; LOCK TABLE app_jobs.jobs IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let callback = reqwest::Client::new().post(format!("http://127.0.0.1:{port}/callback"));
    let callback = tokio::spawn(callback.header("X-Worker-Id", "worker-test").header("X-Job-Id", id).send());
    let other = bench.db.connect().await;
    let waiting = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock' AND application_name = 'jobs'";
    job_testkit::eventually(LIMIT, async || other.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) > 0).await;
    let before = Instant::now();
    server.signal(Signal::Term);
    let answer = callback.await.unwrap().expect("an answer");
    assert_eq!(answer.status().as_u16(), 503);
    assert_eq!(answer.headers()["retry-after"], "1");
    assert_eq!(server.exit_code(LIMIT).await, 0);
    assert!(before.elapsed() < Duration::from_secs(3), "{:?}", before.elapsed());
    bench.sql.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test]
async fn connections_that_say_nothing_hold_up_a_stop_no_longer_than_the_grace() {
    let bench = Bench::new().await;
    let mut server = program().envs(bench.db.env()).env("JOBS_SHUTDOWN_GRACE", "2s").spawn();
    let port = port(&mut server).await;
    let _silent = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut slow = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    slow.write_all(b"POST /callback HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nab").await.unwrap();
    let kept = reqwest::Client::new();
    assert_eq!(send(kept.get(format!("http://127.0.0.1:{port}/healthz"))).await.0, 200);
    server.signal(Signal::Term);
    assert_eq!(server.exit_code(Duration::from_secs(6)).await, 0);
}

#[tokio::test]
async fn neither_payload_nor_address_of_a_caller_is_logged() {
    let bench = Bench::new().await;
    let id = bench.held().await;
    let request = bench.request(Method::POST, "/callback?token=secret-token").header("X-Worker-Id", "worker-test");
    let request = request.header("X-Job-Id", id).header("Content-Type", "application/json");
    assert_eq!(send(request.body(r#"{"status":"success","card":"payload-4711"}"#)).await.0, 200);
    let output = bench.server.output();
    assert!(!output.contains("secret-token") && !output.contains("payload-4711"), "{output}");
}

#[tokio::test]
async fn the_command_health_asks_the_server_that_runs_here() {
    let bench = Bench::new().await;
    let health = || Program::at(env!("CARGO_BIN_EXE_job-server")).arg("health").env("PGPORT", "x");
    let mut asked = health().env("INTERNAL_JOBS_CALLBACK_PORT", bench.port.to_string()).spawn();
    assert_eq!(asked.exit_code(LIMIT).await, 0, "{}", asked.output());
    let nobody = job_testkit::cluster::free_port().unwrap();
    let mut asked = health().env("INTERNAL_JOBS_CALLBACK_PORT", nobody.to_string()).spawn();
    assert_eq!(asked.exit_code(LIMIT).await, 70, "{}", asked.output());
}
