//! What somebody can do who reaches the port and has no signature: take no memory, no descriptors, and no time of
//! others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use job_testkit::process::Program;
use job_testkit::{Process, TestDb, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::support::{Bench, HOLDER, LIMIT, migrated, port, send};

/// How many connections want memory at once.
const MANY: usize = 200;

/// A body of 1 MiB each: 200 MiB.
const BODY: usize = 1 << 20;

/// What they may get: the budget for large bodies (32 MiB), and for each what it may read ahead (64 KiB) and what needs
/// no budget (64 KiB). The rest is room for the allocator.
const GRANTED: u64 = 96 << 20;

/// Answers a health check in time, again and again.
async fn is_healthy(port: u16) -> bool {
    let asked = reqwest::Client::new().get(format!("http://127.0.0.1:{port}/healthz"));
    let answer = asked.timeout(Duration::from_secs(5)).send().await;
    answer.is_ok_and(|answer| answer.status().as_u16() == 200)
}

/// The head of a callback with a body of [`BODY`] bytes.
fn head(id: i64) -> String {
    format!(
        "POST /callback HTTP/1.1\r\nHost: x\r\nX-Worker-Id: {HOLDER}\r\nX-Job-Id: {id}\r\n\
         Content-Type: application/json\r\nContent-Length: {BODY}\r\n\r\n"
    )
}

/// Connections that send a callback each, all but its last byte, as far as the server takes it.
async fn bodies(port: u16, id: i64) -> JoinSet<TcpStream> {
    let mut sending = JoinSet::new();
    let head = head(id);
    for _ in 0..MANY {
        let head = head.clone();
        sending.spawn(async move {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&vec![b' '; BODY - 1]).await.unwrap();
            stream
        });
    }
    sending
}

#[tokio::test]
async fn unsigned_callbacks_take_no_memory_for_their_bodies() {
    let bench = Bench::with(&[("JOBS_CALLBACK_SECRET", "a secret of the callback server")]).await;
    let id = bench.held().await;
    assert!(is_healthy(bench.port).await);
    let before = bench.server.peak_memory();
    let mut sending = bodies(bench.port, id).await;
    let mut streams = Vec::new();
    while let Some(stream) = tokio::time::timeout(LIMIT, sending.join_next()).await.expect("bodies are read") {
        streams.push(stream.unwrap());
    }
    assert!(is_healthy(bench.port).await);
    let taken = bench.server.peak_memory() - before;
    assert!(taken < GRANTED / 2, "{} MiB for bodies that nobody looks at", taken >> 20);
    let mut refused = streams.swap_remove(0);
    refused.write_all(b" ").await.unwrap();
    let mut answer = [0; 12];
    refused.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 401");
    assert!(bench.job(id).await.is_some());
}

#[tokio::test]
async fn without_a_secret_the_bodies_of_all_callbacks_together_have_a_limit() {
    let bench = Bench::new().await;
    let (id, other) = (bench.held().await, bench.held().await);
    assert!(is_healthy(bench.port).await);
    let before = bench.server.peak_memory();
    let mut sending = bodies(bench.port, id).await;
    // As many as the budget is for are read; the others wait at their senders.
    for _ in 0..20 {
        tokio::time::timeout(LIMIT, sending.join_next()).await.expect("some bodies are read").unwrap().unwrap();
    }
    assert!(is_healthy(bench.port).await);
    assert_eq!(send(bench.failure(other, r#"{"error":"small"}"#)).await.0, 200);
    assert_eq!(bench.job(other).await.unwrap().last_error.as_deref(), Some("small"));
    let taken = bench.server.peak_memory() - before;
    assert!(taken < GRANTED, "{} MiB", taken >> 20);
}

/// A server that may have 256 descriptors: 128 connections.
async fn small_server(db: &TestDb) -> (Process, u16) {
    let server = Program::with_descriptors(env!("CARGO_BIN_EXE_job-server"), 256);
    let mut server = server.env("INTERNAL_JOBS_CALLBACK_PORT", "0").envs(db.env()).spawn();
    let port = port(&mut server).await;
    (server, port)
}

#[tokio::test]
async fn half_sent_heads_are_closed_in_time_and_health_checks_answer_meanwhile() {
    let db = TestDb::from_template("server", migrated).await;
    let (server, port) = small_server(&db).await;
    let mut halves = Vec::new();
    for _ in 0..400 {
        let mut half = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        half.write_all(b"POST /callback HTTP/1.1\r\nX-Job-Id: ").await.unwrap();
        halves.push(half);
    }
    assert!(is_healthy(port).await, "{}", server.output());
    for mut half in halves {
        let ended = tokio::time::timeout(LIMIT, half.read(&mut [0; 100])).await.expect("a limit for heads");
        assert!(!matches!(ended, Ok(read) if read > 0), "{ended:?}");
    }
    assert!(server.output().contains("no more connections are taken"), "{}", server.output());
}

#[tokio::test]
async fn idle_connections_beyond_every_limit_keep_nobody_out() {
    let db = TestDb::from_template("server", migrated).await;
    let (mut server, port) = small_server(&db).await;
    let mut idle = Vec::new();
    for _ in 0..400 {
        idle.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    for _ in 0..3 {
        assert!(is_healthy(port).await, "{}", server.output());
    }
    let sql = db.connect().await;
    let id = super::support::held(&sql).await;
    let callback = reqwest::Client::new().post(format!("http://127.0.0.1:{port}/callback"));
    assert_eq!(send(callback.header("X-Worker-Id", HOLDER).header("X-Job-Id", id)).await.0, 200);
    drop(idle);
    assert!(server.is_running());
}

/// Half a head, an endless one, and unsigned callbacks with a body that nobody wants and with one for a job.
fn beginnings() -> [String; 4] {
    [
        "P".to_owned(),
        "POST /callback HTTP/1.1\r\nX-Job-Id: 1".to_owned(),
        "POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".to_owned(),
        head(1),
    ]
}

#[tokio::test]
async fn strangers_who_drip_over_every_connection_keep_no_health_check_waiting() {
    const STRANGERS: usize = 128;
    let db = TestDb::from_template("server", migrated).await;
    let server = Program::with_descriptors(env!("CARGO_BIN_EXE_job-server"), 2 * 128);
    let server = server.env("INTERNAL_JOBS_CALLBACK_PORT", "0").env("JOBS_CALLBACK_SECRET", "a secret of the server");
    let mut server = server.envs(db.env()).spawn();
    let port = port(&mut server).await;
    let mut strangers = JoinSet::new();
    let mut sent = Vec::new();
    for n in 0..STRANGERS {
        let (begin, bytes) = (beginnings()[n % 4].clone(), Arc::new(AtomicUsize::new(0)));
        sent.push(bytes.clone());
        strangers.spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_millis(100));
            loop {
                let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                let mut written = stream.write_all(begin.as_bytes()).await;
                while written.is_ok() {
                    bytes.fetch_add(1, Ordering::SeqCst);
                    pace.tick().await;
                    written = stream.write_all(b"1").await;
                }
            }
        });
    }
    eventually(LIMIT, async || sent.iter().all(|bytes| bytes.load(Ordering::SeqCst) > 5)).await;
    let mut took = Vec::new();
    for _ in 0..9 {
        let begun = Instant::now();
        assert!(is_healthy(port).await, "{took:?} {}", server.output());
        took.push(begun.elapsed());
    }
    took.sort();
    // The longest may be another's: this machine has other things to do.
    assert!(took[5] < Duration::from_secs(1), "{took:?}");
    assert!(server.output().contains("no more connections are taken"), "{}", server.output());
}

#[tokio::test]
async fn without_descriptors_the_server_waits_and_goes_on() {
    let bench = Bench::new().await;
    // As if the worker beside it had used up all but a few: the limit of connections is beyond what is left.
    let fd = || std::fs::read_dir(format!("/proc/{}/fd", bench.server.pid())).unwrap().count();
    assert!(is_healthy(bench.port).await);
    let limit = u64::try_from(fd() + 4).unwrap();
    let limit = rustix::process::Rlimit { current: Some(limit), maximum: Some(limit) };
    let pid = rustix::process::Pid::from_raw(i32::try_from(bench.server.pid()).unwrap());
    rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit).unwrap();
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(TcpStream::connect(("127.0.0.1", bench.port)).await.unwrap());
    }
    eventually(LIMIT, async || is_healthy(bench.port).await).await;
    assert!(bench.server.output().contains("cannot accept a connection"), "{}", bench.server.output());
}

#[tokio::test]
async fn a_refused_callback_leaves_a_line_a_second_at_most_that_counts_the_others() {
    let mut bench = Bench::with(&[("JOBS_CALLBACK_SECRET", "a secret of the callback server")]).await;
    let id = bench.held().await;
    for _ in 0..20 {
        let refused = bench.request(reqwest::Method::POST, "/callback?epoch=1&signature=secret-token");
        assert_eq!(send(refused.header("X-Worker-Id", HOLDER).header("X-Job-Id", id)).await.0, 401);
    }
    let line = bench.server.wait_for_line("callback refused", LIMIT).await;
    assert!(line.contains("WARN") && line.contains("not signed for this job"), "{line}");
    assert!(line.contains(&format!("job.id={id}")) && line.contains("status=401"), "{line}");
    // Until a second has passed, the others are only counted.
    eventually(LIMIT, async || {
        let refused = bench.request(reqwest::Method::POST, "/callbacks").header("X-Job-Id", id);
        assert_eq!(send(refused).await.0, 404);
        bench.server.output().contains("no such route")
    })
    .await;
    let output = bench.server.output();
    let told: Vec<&str> = output.lines().filter(|line| line.contains("callback refused")).collect();
    let left_out =
        |line: &str| line.split("left_out=").nth(1).unwrap().split(' ').next().unwrap().parse::<u32>().unwrap();
    assert_eq!(left_out(told[0]), 0, "{}", told[0]);
    assert!(told[1..].iter().any(|line| left_out(line) >= 1), "{output}");
    assert!(!output.contains("secret-token"), "{output}");
    bench.server.signal(job_testkit::Signal::Term);
    let stopped = bench.server.wait_for_line("callback server stopped", LIMIT).await;
    assert!(!stopped.contains("refused=0"), "{stopped}");
}
