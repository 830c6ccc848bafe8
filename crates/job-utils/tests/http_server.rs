//! The HTTP server's limits, with clients that keep to nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a helper of a test fails its test")]

use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use job_testkit::{Gate, eventually};
use job_utils::http_server::{BodyBudget, Limits, serve};
use job_utils::shutdown::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(30);
const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

struct Running {
    port: u16,
    stop: Shutdown,
    serving: JoinHandle<()>,
}

async fn start(router: Router, limits: Limits) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let stop = Shutdown::new();
    let serving = tokio::spawn(serve(listener, router, limits, stop.clone()));
    Running { port, stop, serving }
}

/// Limits of which none is reached within a test, but those that it sets.
fn limits() -> Limits {
    let mut limits = Limits::new(1000);
    (limits.head, limits.idle, limits.silence) = (LIMIT, LIMIT, LIMIT);
    limits
}

impl Running {
    async fn send(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }

    async fn answers(&self) {
        let mut stream = self.send(HEAD).await;
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200 OK"));
    }
}

/// What comes over a connection until an answer has begun, or it ends.
async fn answer(stream: &mut TcpStream) -> String {
    let mut bytes = vec![0; 1 << 16];
    let read = tokio::time::timeout(LIMIT, stream.read(&mut bytes)).await.expect("an answer or an end");
    String::from_utf8_lossy(&bytes[..read.unwrap_or(0)]).into_owned()
}

fn hello() -> Router {
    Router::new().route("/", get(|| async { "hello" }))
}

#[tokio::test]
async fn a_head_that_does_not_come_a_pause_that_is_too_long_and_a_body_that_stops_end_a_connection() {
    let mut limits = limits();
    (limits.head, limits.idle) = (Duration::from_millis(300), LIMIT);
    let server = start(hello(), limits).await;
    let begun = Instant::now();
    let (mut silent, mut half) = (server.send(b"").await, server.send(&HEAD[..9]).await);
    let mut kept = server.send(HEAD).await;
    assert!(answer(&mut kept).await.contains("hello"));
    assert_eq!(answer(&mut silent).await, "");
    assert_eq!(answer(&mut half).await, "");
    assert!(begun.elapsed() >= limits.head, "{:?}", begun.elapsed());
    // Another time holds between requests, and the next head has its own again.
    kept.write_all(HEAD).await.unwrap();
    assert!(answer(&mut kept).await.contains("hello"));
    kept.write_all(&HEAD[..9]).await.unwrap();
    assert_eq!(answer(&mut kept).await, "");

    limits.idle = Duration::from_millis(300);
    let server = start(hello(), limits).await;
    let mut kept = server.send(HEAD).await;
    assert!(answer(&mut kept).await.contains("hello"));
    assert_eq!(answer(&mut kept).await, "");

    limits.silence = Duration::from_millis(300);
    let server = start(Router::new().route("/", post(async |_: String| "read")), limits).await;
    let mut stopped = server.send(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n12").await;
    assert_eq!(answer(&mut stopped).await, "");
}

#[tokio::test]
async fn at_the_limit_the_longest_silent_connection_gives_way_and_none_that_is_served() {
    let gate = Gate::closed();
    let passed = gate.clone();
    let busy = move || {
        let gate = passed.clone();
        async move {
            gate.passed().await;
            "done"
        }
    };
    let mut limits = limits();
    (limits.connections, limits.least_silence) = (8, Duration::from_millis(10));
    let server = start(hello().route("/busy", get(busy)), limits).await;
    let mut served = Vec::new();
    for _ in 0..4 {
        served.push(server.send(b"GET /busy HTTP/1.1\r\nHost: x\r\n\r\n").await);
    }
    let mut silent = Vec::new();
    for n in 0..40 {
        silent.push(server.send(&HEAD[..n % 20]).await);
    }
    server.answers().await;
    // The first of them have given way.
    assert_eq!(answer(&mut silent[0]).await, "");
    gate.open();
    for mut stream in served {
        assert!(answer(&mut stream).await.contains("done"));
    }
    server.answers().await;
}

#[tokio::test]
async fn who_finds_every_connection_busy_waits_for_one_to_end() {
    let gate = Gate::closed();
    let passed = gate.clone();
    let busy = move || {
        let gate = passed.clone();
        async move { gate.passed().await }
    };
    let mut limits = limits();
    limits.connections = 8;
    let server = start(hello().route("/busy", get(busy)), limits).await;
    let mut served = Vec::new();
    for _ in 0..8 {
        served.push(server.send(b"GET /busy HTTP/1.1\r\nHost: x\r\n\r\n").await);
    }
    let mut waiting = server.send(HEAD).await;
    assert!(tokio::time::timeout(Duration::from_millis(500), answer(&mut waiting)).await.is_err());
    gate.open();
    assert!(answer(&mut waiting).await.contains("hello"));
}

#[tokio::test]
async fn a_stop_ends_silent_connections_and_waits_for_requests() {
    let gate = Gate::closed();
    let passed = gate.clone();
    let busy = move || {
        let gate = passed.clone();
        async move {
            gate.passed().await;
            "done"
        }
    };
    let server = start(hello().route("/busy", get(busy)), limits()).await;
    let mut kept = server.send(HEAD).await;
    assert!(answer(&mut kept).await.contains("hello"));
    let mut served = server.send(b"GET /busy HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut silent = server.send(b"").await;
    server.answers().await;
    server.stop.trigger();
    assert_eq!(answer(&mut kept).await, "");
    assert_eq!(answer(&mut silent).await, "");
    eventually(LIMIT, async || TcpStream::connect(("127.0.0.1", server.port)).await.is_err()).await;
    assert!(!server.serving.is_finished());
    gate.open();
    assert!(answer(&mut served).await.contains("done"));
    tokio::time::timeout(LIMIT, server.serving).await.expect("an end").unwrap();
}

#[tokio::test]
async fn large_bodies_share_a_budget_and_small_ones_need_none() {
    let budget = BodyBudget::new(1 << 20);
    let body = |bytes: usize| Body::from(vec![b'x'; bytes]);
    let large = budget.read(body(900_000), 16 << 20, 64 << 20).await.unwrap();
    assert_eq!((large.bytes.len(), large.cut), (900_000, false));
    let small = budget.read(body(1000), 16 << 20, 64 << 20).await.unwrap();
    assert_eq!((small.bytes.len(), small.cut), (1000, false));
    // Another large one waits for the first to be dropped.
    let waits = tokio::time::timeout(Duration::from_millis(200), budget.read(body(900_000), 16 << 20, 64 << 20)).await;
    assert!(waits.is_err());
    let (other, ()) = tokio::join!(budget.read(body(900_000), 16 << 20, 64 << 20), async { drop(large) });
    assert_eq!(other.unwrap().bytes.len(), 900_000);
    // What is larger than the limit is cut, and what is larger than the budget has all of it.
    let cut = budget.read(body(5 << 20), 2 << 20, 64 << 20).await.unwrap();
    assert_eq!((cut.bytes.len(), cut.cut), (2 << 20, true));
    drop(cut);
    let chunks = futures_util::stream::iter((0..100).map(|_| Ok::<_, std::io::Error>(vec![b'y'; 10_000])));
    let chunked = budget.read(Body::from_stream(chunks), 16 << 20, 64 << 20).await.unwrap();
    assert_eq!((chunked.bytes.len(), chunked.cut), (1_000_000, false));
}
