//! The HTTP server's limits, with clients that keep to nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a helper of a test fails its test")]

use std::io::Write;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::routing::{get, post};
use axum::{Extension, Router};
use job_testkit::process::Program;
use job_testkit::{Gate, eventually};
use job_utils::http_server::{BodyBudget, BodyError, Limits, Newcomers, serve};
use job_utils::shutdown::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;
use tokio::task::{JoinHandle, JoinSet};

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
        answers(self.port).await;
    }
}

/// A client that sends its request at once is served.
async fn answers(port: u16) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(HEAD).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200 OK"));
}

/// A route whose requests wait for a gate, and how many have come to it.
fn busy(gate: &Gate) -> (Router, Arc<AtomicUsize>) {
    let begun = Arc::new(AtomicUsize::new(0));
    let (gate, counted) = (gate.clone(), begun.clone());
    let handler = move || {
        let gate = gate.clone();
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            gate.passed().await;
            "done"
        }
    };
    (hello().route("/busy", get(handler)), begun)
}

const BUSY: &[u8] = b"GET /busy HTTP/1.1\r\nHost: x\r\n\r\n";

/// A client that sends a byte of a request every 100 ms, over a connection after the other; it counts the bytes.
fn drip(port: u16, begin: &'static [u8]) -> (JoinHandle<()>, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let dripping = tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_millis(100));
        loop {
            let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
            let mut written = stream.write_all(begin).await;
            while written.is_ok() {
                counted.fetch_add(1, Ordering::SeqCst);
                pace.tick().await;
                written = stream.write_all(b"x").await;
            }
        }
    });
    (dripping, sent)
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
    // Long enough for a client that sends its head at once on a busy machine.
    limits.head = Duration::from_secs(3);
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
async fn at_the_limit_the_connection_waited_for_longest_gives_way_and_none_that_is_served() {
    let gate = Gate::closed();
    let (router, begun) = busy(&gate);
    let mut limits = limits();
    (limits.connections, limits.least_turn) = (8, Duration::from_millis(10));
    let server = start(router, limits).await;
    let mut served = Vec::new();
    for _ in 0..4 {
        served.push(server.send(BUSY).await);
    }
    eventually(LIMIT, async || begun.load(Ordering::SeqCst) == 4).await;
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
    let (router, begun) = busy(&gate);
    let mut limits = limits();
    limits.connections = 8;
    let server = start(router, limits).await;
    let mut served = Vec::new();
    for _ in 0..8 {
        served.push(server.send(BUSY).await);
    }
    eventually(LIMIT, async || begun.load(Ordering::SeqCst) == 8).await;
    let mut waiting = server.send(HEAD).await;
    assert!(tokio::time::timeout(Duration::from_millis(500), answer(&mut waiting)).await.is_err());
    gate.open();
    assert!(answer(&mut waiting).await.contains("hello"));
}

/// Heads and bodies that never end, a byte at a time.
const DRIPS: [&[u8]; 3] =
    [b"G", b"GET / HTTP/1.1\r\nX-Long: ", b"POST /body HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n"];

fn hello_and_bodies() -> Router {
    hello().route("/body", post(async |body: String| body))
}

#[tokio::test]
async fn clients_that_drip_over_every_connection_keep_no_newcomer_waiting() {
    let mut limits = limits();
    limits.connections = 16;
    let server = start(hello_and_bodies(), limits).await;
    let drips: Vec<_> = (0..16).map(|n| drip(server.port, DRIPS[n % DRIPS.len()])).collect();
    // None has been silent for a quarter of a second, and all of them are there for longer.
    eventually(LIMIT, async || drips.iter().all(|(_, sent)| sent.load(Ordering::SeqCst) > 5)).await;
    let mut took = Vec::new();
    for _ in 0..9 {
        let begun = Instant::now();
        server.answers().await;
        took.push(begun.elapsed());
    }
    took.sort();
    // The longest may be another's: this machine has other things to do.
    assert!(took[5] < Duration::from_secs(1) && took[8] < limits.head / 3, "{took:?}");
    drips.into_iter().for_each(|(dripping, _)| dripping.abort());
}

#[tokio::test]
async fn a_slow_client_below_the_limit_is_served() {
    let mut limits = limits();
    limits.connections = 16;
    let server = start(hello_and_bodies(), limits).await;
    let drips: Vec<_> = (0..13).map(|n| drip(server.port, DRIPS[n % DRIPS.len()])).collect();
    eventually(LIMIT, async || drips.iter().all(|(_, sent)| sent.load(Ordering::SeqCst) > 5)).await;
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    let mut slow = server.send(b"").await;
    for byte in b"POST /body HTTP/1.1\r\nContent-Length: 5\r\n\r\nslow!" {
        pace.tick().await;
        slow.write_all(&[*byte]).await.unwrap();
        server.answers().await;
    }
    assert!(answer(&mut slow).await.ends_with("slow!"));
    drips.into_iter().for_each(|(dripping, _)| dripping.abort());
}

#[tokio::test]
async fn who_asks_again_and_again_gives_way_with_an_answer() {
    let mut limits = limits();
    limits.connections = 8;
    let server = start(hello(), limits).await;
    let answered = Arc::new(AtomicUsize::new(0));
    let asking: Vec<_> = (0..8)
        .map(|_| {
            let (port, answered) = (server.port, answered.clone());
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                loop {
                    stream.write_all(HEAD).await.unwrap();
                    let answer = answer(&mut stream).await;
                    assert!(answer.contains("hello"), "{answer:?}");
                    answered.fetch_add(1, Ordering::SeqCst);
                    if answer.contains("connection: close") {
                        return;
                    }
                }
            })
        })
        .collect();
    eventually(LIMIT, async || answered.load(Ordering::SeqCst) > 100).await;
    server.answers().await;
    eventually(LIMIT, async || asking.iter().any(JoinHandle::is_finished)).await;
    for asking in asking {
        asking.abort();
        assert!(asking.await.err().is_none_or(|error| error.is_cancelled()), "a request without an answer");
    }
}

#[tokio::test]
async fn a_handler_is_told_when_newcomers_wait() {
    let mut limits = limits();
    limits.connections = 8;
    let begun = Arc::new(AtomicUsize::new(0));
    let counted = begun.clone();
    let linger = move |Extension(newcomers): Extension<Newcomers>| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            newcomers.waiting().await;
            "after you"
        }
    };
    let server = start(hello().route("/linger", get(linger)), limits).await;
    let mut lingering = Vec::new();
    for n in 0..8 {
        lingering.push(server.send(b"GET /linger HTTP/1.1\r\nHost: x\r\n\r\n").await);
        eventually(LIMIT, async || begun.load(Ordering::SeqCst) > n).await;
    }
    let early = tokio::time::timeout(Duration::from_millis(300), answer(&mut lingering[0])).await;
    assert!(early.is_err(), "nobody waits: {early:?}");
    server.answers().await;
    for mut stream in lingering {
        assert!(answer(&mut stream).await.ends_with("after you"));
    }
}

/// Set for [`two_servers`].
const PORTS: &str = "HTTP_SERVER_TEST_PORTS";

#[tokio::test]
#[ignore = "a program that the test below starts"]
async fn two_servers() {
    if job_testkit::env::var(PORTS).is_none() {
        return;
    }
    let (callbacks, health) = (start(hello(), Limits::new(1024)).await, start(hello(), Limits::new(64)).await);
    writeln!(std::io::stderr(), "{PORTS} {} {}", callbacks.port, health.port).unwrap();
    std::future::pending().await
}

#[tokio::test]
async fn the_servers_of_a_process_have_half_of_its_descriptors_together() {
    let this = std::env::current_exe().unwrap();
    let program = Program::with_descriptors(this, 128).arg("two_servers").arg("--exact").arg("--ignored");
    let mut program = program.arg("--nocapture").env(PORTS, "1").spawn();
    let line = program.wait_for_line(PORTS, LIMIT).await;
    let ports: Vec<u16> = line.split(' ').filter_map(|word| word.trim().parse().ok()).collect();
    assert_eq!(ports.len(), 2, "{line}");
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", program.pid())).unwrap().count();
    let own = descriptors();
    let mut idle = Vec::new();
    for n in 0..300 {
        idle.push(TcpStream::connect(("127.0.0.1", ports[n % 2])).await.unwrap());
        assert!(descriptors() <= own + 64 + ports.len(), "{own} and {}", descriptors() - own);
    }
    for _ in 0..3 {
        for port in &ports {
            answers(*port).await;
        }
    }
    // The last of each port is accepted, and waits.
    assert!((own + 48..=own + 64 + ports.len()).contains(&descriptors()), "{own} and {}", descriptors() - own);
    assert!(program.is_running());
}

#[tokio::test]
async fn a_stop_ends_silent_connections_and_waits_for_requests() {
    let gate = Gate::closed();
    let (router, begun) = busy(&gate);
    let server = start(router, limits()).await;
    let mut kept = server.send(HEAD).await;
    assert!(answer(&mut kept).await.contains("hello"));
    let mut served = server.send(BUSY).await;
    let mut silent = server.send(b"").await;
    eventually(LIMIT, async || begun.load(Ordering::SeqCst) == 1).await;
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

/// More than any body here.
const LARGEST: usize = 16 << 20;
const END: usize = 64 << 20;

fn known(bytes: usize) -> Body {
    Body::from(vec![b'x'; bytes])
}

/// A body whose length is not announced, in pieces of 10,000 bytes.
fn chunked(pieces: usize) -> Body {
    let pieces = futures_util::stream::iter((0..pieces).map(|_| Ok::<_, std::io::Error>(vec![b'y'; 10_000])));
    Body::from_stream(pieces)
}

#[tokio::test]
async fn large_bodies_share_a_budget_and_small_ones_need_none() {
    let budget = BodyBudget::new(1 << 20);
    let large = budget.read(known(900_000), LARGEST, END).await.unwrap();
    assert_eq!((large.bytes.len(), large.cut), (900_000, false));
    let small = budget.read(known(1000), LARGEST, END).await.unwrap();
    assert_eq!((small.bytes.len(), small.cut), (1000, false));
    // There is room for one beside the budget. A third large one waits for the first to be dropped.
    let second = budget.read(known(900_000), LARGEST, END).await.unwrap();
    let mut third = pin!(budget.read(known(900_000), LARGEST, END));
    assert!(futures_util::poll!(&mut third).is_pending());
    drop(large);
    assert_eq!(third.await.unwrap().bytes.len(), 900_000);
    drop(second);
    // What is larger than the limit is cut, and what is larger than the budget has the room for one.
    let cut = budget.read(known(5 << 20), 2 << 20, END).await.unwrap();
    assert_eq!((cut.bytes.len(), cut.cut), (2 << 20, true));
    let chunked = budget.read(chunked(100), LARGEST, END).await.unwrap();
    assert_eq!((chunked.bytes.len(), chunked.cut), (1_000_000, false));
}

#[tokio::test]
async fn a_body_without_an_announced_length_takes_what_it_needs_and_not_the_most_it_could() {
    let budget = BodyBudget::new(2 << 20);
    let mut arrived = Vec::new();
    // In room for 262,144 bytes each.
    for _ in 0..8 {
        let mut body = pin!(budget.read(chunked(20), LARGEST, END));
        let Poll::Ready(body) = futures_util::poll!(&mut body) else { panic!("it waits behind {}", arrived.len()) };
        arrived.push(body.unwrap());
    }
    assert!(arrived.iter().all(|body| body.bytes.len() == 200_000 && !body.cut));
}

#[tokio::test]
async fn bodies_that_grow_beyond_the_budget_do_not_wait_for_each_other_for_ever() {
    let budget = BodyBudget::new(2 << 20);
    // Each has a quarter of the budget when all go on, and then none is left.
    let all = Arc::new(Barrier::new(4));
    let growing = |all: Arc<Barrier>| {
        let pieces = futures_util::stream::unfold(0, move |piece| {
            let all = all.clone();
            async move {
                if piece == 30 {
                    all.wait().await;
                }
                (piece < 100).then(|| (Ok::<_, std::io::Error>(vec![b'z'; 10_000]), piece + 1))
            }
        });
        Body::from_stream(pieces)
    };
    let mut reading = JoinSet::new();
    for _ in 0..4 {
        let (budget, body) = (budget.clone().wait_timeout(2 * LIMIT), growing(all.clone()));
        reading.spawn(async move { budget.read(body, LARGEST, END).await.unwrap().bytes.len() });
    }
    let mut lengths = Vec::new();
    while let Some(length) = tokio::time::timeout(LIMIT, reading.join_next()).await.expect("none waits for ever") {
        lengths.push(length.unwrap());
    }
    assert_eq!(lengths, [1_000_000; 4]);
}

#[tokio::test]
async fn who_waits_for_room_is_refused_when_many_do_or_when_it_has_taken_too_long() {
    let budget = BodyBudget::new(100_000);
    let (shared, one) = (known(100_000), known(200_000));
    let held = [budget.read(shared, LARGEST, END).await.unwrap(), budget.read(one, LARGEST, END).await.unwrap()];
    let hasty = budget.clone().wait_timeout(Duration::from_millis(50)).read(known(80_000), LARGEST, END).await;
    assert!(matches!(hasty, Err(BodyError::NoRoom)), "{hasty:?}");
    let mut waiting = Vec::new();
    let refused = loop {
        let mut body = Box::pin(budget.read(known(80_000), LARGEST, END));
        match futures_util::poll!(&mut body) {
            Poll::Pending => waiting.push(body),
            Poll::Ready(refused) => break refused,
        }
    };
    assert!(matches!(refused, Err(BodyError::NoRoom)), "{refused:?}");
    assert_eq!(waiting.len(), 256);
    drop(held);
    assert_eq!(waiting.remove(0).await.unwrap().bytes.len(), 80_000);
}
