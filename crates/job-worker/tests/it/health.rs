//! Health checks of a worker that runs alone.

use std::time::Duration;

use job_testkit::cluster::free_port;
use job_testkit::{Answer, FakeFunction, Signal, TestDb, eventually};
use tokio::net::TcpStream;

use super::support::{Bench, LIMIT, migrated, program};

async fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let answer = reqwest::get(format!("http://127.0.0.1:{port}{path}")).await.ok()?;
    Some((answer.status().as_u16(), answer.text().await.ok()?))
}

#[tokio::test]
async fn a_worker_says_on_its_health_port_whether_it_lives_and_whether_it_can_work() {
    let db = TestDb::empty().await;
    let port = free_port().unwrap();
    let mut worker = program().envs(db.env()).env("JOBS_HEALTH_PORT", port.to_string()).spawn();
    eventually(LIMIT, async || get(port, "/healthz").await.is_some_and(|(status, _)| status == 200)).await;
    let (status, reason) = get(port, "/readyz").await.unwrap();
    assert_eq!(status, 503);
    assert!(reason.contains("job-service migrate"), "{reason}");
    migrated(db.url().to_owned()).await.unwrap();
    assert_eq!(get(port, "/readyz").await.unwrap().0, 200);
    assert_eq!(get(port, "/callback").await.unwrap().0, 404);
    assert_eq!(get(port, "/").await.unwrap().0, 404);
    worker.wait_for_line("worker looks for jobs", LIMIT).await;
    worker.signal(Signal::Term);
    assert_eq!(worker.exit_code(LIMIT).await, 0);
}

#[tokio::test]
async fn without_postgres_a_worker_is_alive_and_not_ready() {
    let nobody = free_port().unwrap();
    let port = free_port().unwrap();
    let worker = program().env("PGHOST", "127.0.0.1").env("PGPORT", nobody.to_string());
    let _worker = worker.env("JOBS_HEALTH_PORT", port.to_string()).spawn();
    eventually(LIMIT, async || get(port, "/healthz").await.is_some_and(|(status, _)| status == 200)).await;
    let (status, reason) = get(port, "/readyz").await.unwrap();
    assert_eq!(status, 503);
    assert!(reason.contains("no connection to Postgres") && reason.contains("refused"), "{reason}");
}

#[tokio::test]
async fn a_health_port_that_is_taken_is_a_failure_with_70() {
    let bench = Bench::new().await;
    let taken = std::net::TcpListener::bind("[::]:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut worker = bench.worker("http://127.0.0.1:9").env("JOBS_HEALTH_PORT", port.to_string()).spawn();
    assert_eq!(worker.exit_code(Duration::from_secs(10)).await, 70);
    let output = worker.output();
    assert!(output.contains(&port.to_string()) && output.contains("health"), "{output}");
}

#[tokio::test]
async fn a_connection_that_says_nothing_does_not_hold_up_a_stop() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let port = free_port().unwrap();
    let worker = bench.worker(&function.url()).env("JOBS_HEALTH_PORT", port.to_string());
    let mut worker = worker.env("JOBS_SHUTDOWN_GRACE", "2s").spawn();
    eventually(LIMIT, async || get(port, "/readyz").await.is_some_and(|(status, _)| status == 200)).await;
    worker.wait_for_line("worker looks for jobs", LIMIT).await;
    let _silent = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    // The server has accepted it when a later request on another connection is answered.
    get(port, "/healthz").await.unwrap();
    worker.signal(Signal::Term);
    assert_eq!(worker.exit_code(Duration::from_secs(8)).await, 0);
}

#[tokio::test]
async fn the_command_health_asks_the_worker_that_runs_here() {
    let db = TestDb::empty().await;
    let port = free_port().unwrap();
    // Of the whole configuration it reads the port alone.
    let health = || program().arg("health").env("JOBS_HEALTH_PORT", port.to_string()).env("PGPORT", "x").spawn();
    let mut nobody = health();
    assert_eq!(nobody.exit_code(LIMIT).await, 70);
    assert!(nobody.output().contains(&format!("no answer from port {port}")), "{}", nobody.output());

    let _worker = program().envs(db.env()).env("JOBS_HEALTH_PORT", port.to_string()).spawn();
    eventually(LIMIT, async || get(port, "/healthz").await.is_some()).await;
    let mut waiting = health();
    assert_eq!(waiting.exit_code(LIMIT).await, 70);
    assert!(waiting.output().contains("job-service migrate"), "{}", waiting.output());
    migrated(db.url().to_owned()).await.unwrap();
    let mut ready = health();
    assert_eq!(ready.exit_code(LIMIT).await, 0, "{}", ready.output());
    assert_eq!(ready.output().trim(), "");

    let mut unset = program().arg("health").spawn();
    assert_eq!(unset.exit_code(LIMIT).await, 64);
    assert!(unset.output().contains("JOBS_HEALTH_PORT: is not set"), "{}", unset.output());
}
