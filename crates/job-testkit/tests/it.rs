//! What the other crates' tests rely on.
#![allow(clippy::unwrap_used, reason = "this whole file is a test; the lint's own exception ends at helper functions")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use job_testkit::function::raw::{RawAnswer, RawFunction};
use job_testkit::process::Program;
use job_testkit::{Answer, Cluster, FakeFunction, Gate, Signal, TestDb, eventually, postgres, throughout};

const LIMIT: Duration = Duration::from_secs(20);

async fn databases(like: &str) -> i64 {
    let db = TestDb::empty().await;
    let client = db.connect().await;
    client.query_one("SELECT count(*) FROM pg_database WHERE datname = $1", &[&like]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_database_is_its_tests_own_and_gone_with_it() {
    let first = TestDb::empty().await;
    let second = TestDb::empty().await;
    let client = first.connect().await;
    client.batch_execute("CREATE TABLE mine (id int)").await.unwrap();
    let there: bool =
        second.connect().await.query_one("SELECT to_regclass('mine') IS NOT NULL", &[]).await.unwrap().get(0);
    assert!(!there);
    let name = first.name().to_owned();
    assert_eq!(databases(&name).await, 1);
    drop(first); // while `client` is still connected
    assert_eq!(databases(&name).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_is_made_once_however_many_ask_at_once() {
    let made = Arc::new(AtomicUsize::new(0));
    let mut tests = tokio::task::JoinSet::new();
    // A name that no earlier run of this build has used.
    let name: &str = format!("once_{}", std::process::id()).leak();
    for _ in 0..6 {
        let made = made.clone();
        tests.spawn(async move {
            let db = TestDb::from_template(name, async |url| {
                made.fetch_add(1, Ordering::Relaxed);
                let client = postgres::connect(&url).await;
                client.batch_execute("CREATE TABLE migrated (id int)").await
            })
            .await;
            db.connect().await.batch_execute("INSERT INTO migrated VALUES (1)").await.unwrap();
        });
    }
    tests.join_all().await;
    assert_eq!(made.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_template_that_failed_half_way_is_made_anew() {
    let failed = tokio::spawn(TestDb::from_template("failing", async |url: String| {
        postgres::connect(&url).await.batch_execute("CREATE TABLE half (id int)").await.unwrap();
        Err("out of ideas")
    }));
    assert!(failed.await.unwrap_err().is_panic());
    let db = TestDb::from_template("failing", async |url: String| {
        postgres::connect(&url).await.batch_execute("CREATE TABLE half (id int)").await
    })
    .await;
    db.connect().await.batch_execute("SELECT FROM half").await.unwrap();
}

#[tokio::test]
async fn a_cluster_keeps_what_is_committed_over_a_restart_and_a_kill() {
    let mut cluster = Cluster::temporary().await.unwrap();
    let url = cluster.url("postgres");
    postgres::connect(&url).await.batch_execute("CREATE TABLE kept (id int)").await.unwrap();
    cluster.restart().await.unwrap();
    postgres::connect(&url).await.batch_execute("INSERT INTO kept VALUES (1)").await.unwrap();
    cluster.kill().await.unwrap();
    assert!(tokio_postgres::connect(&url, tokio_postgres::NoTls).await.is_err());
    cluster.start_again().await.unwrap();
    let count: i64 = postgres::connect(&url).await.query_one("SELECT count(*) FROM kept", &[]).await.unwrap().get(0);
    assert_eq!(count, 1);
    let directory = cluster.directory().to_owned();
    drop(cluster);
    assert!(tokio_postgres::connect(&url, tokio_postgres::NoTls).await.is_err());
    assert!(!directory.exists());
}

#[tokio::test]
async fn a_second_start_in_a_directory_replaces_the_server_of_a_killed_run() {
    let parent = tempfile::tempdir_in("/tmp").unwrap();
    let wanted = parent.path().join("pg");
    let first = Cluster::start(&wanted, Default::default()).await.unwrap();
    let url = first.url("postgres");
    std::mem::forget(first); // what kill -9 does to the handle
    let second = Cluster::start(&wanted, Default::default()).await.unwrap();
    assert!(second.port() == port(&url) || tokio_postgres::connect(&url, tokio_postgres::NoTls).await.is_err());
    postgres::connect(&second.url("postgres")).await.batch_execute("SELECT 1").await.unwrap();
    let directory = second.directory().to_owned();
    drop(second);
    std::fs::remove_dir_all(directory).unwrap();
}

fn port(url: &str) -> u16 {
    url.parse::<tokio_postgres::Config>().unwrap().get_ports()[0]
}

#[tokio::test]
async fn a_fake_function_records_the_request_and_waits_at_a_gate() {
    let gate = Gate::closed();
    let inside = gate.clone();
    let function = FakeFunction::start(move |request| {
        let gate = inside.clone();
        async move {
            gate.passed().await;
            Answer::json(418, &request.json()).header("x-job-error", "true")
        }
    })
    .await;
    let url = format!("{}/a%2Fb:c?d=%20", function.url());
    let sent = tokio::spawn(reqwest::Client::new().post(url).header("x-job-id", "7").body(r#"{"n":1}"#).send());
    let seen = function.wait_for(1, LIMIT).await.remove(0);
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/a%2Fb:c?d=%20"));
    assert_eq!((seen.header("x-job-id"), seen.text().as_str()), (Some("7"), r#"{"n":1}"#));
    assert!(!sent.is_finished());
    gate.open();
    let answer = sent.await.unwrap().unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["x-job-error"].to_str().unwrap()), (418, "true"));
}

#[tokio::test]
async fn a_stopped_function_refuses_and_cuts_connections_and_can_start_again_at_its_address() {
    let client = reqwest::Client::new();
    let function = FakeFunction::answering(Answer::complete()).await;
    let url = function.url();
    assert_eq!(client.get(&url).send().await.unwrap().text().await.unwrap(), r#"{"complete":true}"#);
    let address: SocketAddr = function.stop().await;
    eventually(LIMIT, async || client.get(&url).send().await.is_err()).await;
    let _again = FakeFunction::start_at(address, async |_| Answer::status(204)).await;
    assert_eq!(client.get(&url).send().await.unwrap().status(), 204);
}

#[tokio::test]
async fn a_raw_function_breaks_http_in_three_ways() {
    let post = async |function: &RawFunction| {
        reqwest::Client::new()
            .post(function.url())
            .body("x".repeat(100_000))
            .timeout(Duration::from_millis(500))
            .send()
            .await
    };
    let garbage = RawFunction::start(RawAnswer::bytes("garbage\r\n\r\n")).await;
    assert!(!post(&garbage).await.unwrap_err().is_timeout());
    let closed = RawFunction::start(RawAnswer::Close).await;
    assert!(!post(&closed).await.unwrap_err().is_timeout());
    let silent = RawFunction::start(RawAnswer::Silence).await;
    assert!(post(&silent).await.unwrap_err().is_timeout());
    assert_eq!(silent.connections(), 1);
}

#[tokio::test]
async fn a_process_shows_its_lines_its_exit_code_and_takes_signals() {
    let script = "trap 'echo told >&2; exit 3' TERM; echo up $WORD ${HOME:-homeless}; while :; do sleep 0.05; done";
    let mut process = Program::at("/bin/sh").arg("-c").arg(script).env("WORD", "word").spawn();
    assert_eq!(process.wait_for_line("up", LIMIT).await, "up word homeless");
    process.signal(Signal::Term);
    assert_eq!(process.exit_code(LIMIT).await, 3);
    assert_eq!(process.lines().last().unwrap(), "told");
}

#[tokio::test]
async fn a_process_is_killed_with_its_handle() {
    let process = Program::at("/bin/sh").arg("-c").arg("echo $$; exec sleep 600").spawn();
    let pid = rustix::process::Pid::from_raw(process.pid().cast_signed()).unwrap();
    assert!(rustix::process::test_kill_process(pid).is_ok());
    drop(process);
    eventually(LIMIT, async || rustix::process::test_kill_process(pid).is_err()).await;
}

#[tokio::test]
async fn a_condition_that_is_never_met_names_the_place_and_the_limit() {
    let waited = tokio::spawn(async { eventually(Duration::from_millis(50), async || false).await }).await;
    let message = *waited.unwrap_err().into_panic().downcast::<String>().unwrap();
    assert!(message.contains("tests/it.rs:") && message.contains("50ms"), "{message}");
}

#[tokio::test]
async fn a_condition_that_does_not_hold_throughout_ends_the_wait_at_once() {
    let begun = std::time::Instant::now();
    throughout(Duration::from_millis(50), async || true).await;
    assert!(begun.elapsed() >= Duration::from_millis(50));
    let broken = async { throughout(LIMIT, async || false).await };
    let message = *tokio::spawn(broken).await.unwrap_err().into_panic().downcast::<String>().unwrap();
    assert!(message.contains("tests/it.rs:") && begun.elapsed() < LIMIT, "{message}");
}

#[tokio::test]
async fn a_replica_follows_its_primary_and_takes_its_place() {
    let mut primary = Cluster::temporary().await.unwrap();
    let mut replica = primary.replica().await.unwrap();
    let client = postgres::connect(&primary.url("postgres")).await;
    client.batch_execute("CREATE TABLE t AS SELECT 1 AS one").await.unwrap();
    let copy = postgres::connect(&replica.url("postgres")).await;
    let there = "SELECT to_regclass('t') IS NOT NULL";
    eventually(LIMIT, async || copy.query_one(there, &[]).await.unwrap().get(0)).await;
    assert!(copy.batch_execute("INSERT INTO t VALUES (2)").await.is_err());
    primary.kill().await.unwrap();
    replica.promote().await.unwrap();
    copy.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
}
