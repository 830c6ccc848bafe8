//! Connections that functions' servers close while they are idle, announced or not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use job_testkit::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::support::{Bench, LIMIT};

/// A server that closes connections which have been idle for a time.
struct Server {
    url: String,
    /// How many it has read.
    requests: Arc<AtomicUsize>,
    listening: JoinHandle<()>,
}

#[derive(Clone, Copy)]
struct Closing {
    after: Duration,
    /// Told in every answer.
    announced: Option<u64>,
    /// Whether the closing crosses the next request on its way, as it does on a slow network: the server closes without
    /// having read it, and the client learns of it only then.
    crosses: bool,
}

impl Server {
    async fn start(closing: Closing) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::<AtomicUsize>::default();
        let count = requests.clone();
        let listening = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, closing, count.clone()));
            }
        });
        Self { url, requests, listening }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn serve(mut stream: TcpStream, closing: Closing, count: Arc<AtomicUsize>) {
    let keep_alive = closing.announced.map(|seconds| format!("Keep-Alive: timeout={seconds}\r\n")).unwrap_or_default();
    let answer = format!("HTTP/1.1 200 OK\r\n{keep_alive}Content-Length: 17\r\n\r\n{{\"complete\":true}}");
    let mut idle_since: Option<Instant> = None;
    loop {
        let closes = idle_since.filter(|_| !closing.crosses).map_or(Duration::from_secs(60), |_| closing.after);
        let mut head = Vec::new();
        let mut buffer = [0; 4096];
        match timeout(closes, stream.peek(&mut buffer[..1])).await {
            Ok(Ok(1)) => {}
            // Its time is up, or the worker has closed it.
            _ => return,
        }
        if closing.crosses && idle_since.is_some_and(|since| since.elapsed() >= closing.after) {
            // With something unread, the end is a reset.
            return;
        }
        while !head.ends_with(b"\r\n\r\n{}") {
            match stream.read(&mut buffer).await {
                Ok(length) if length > 0 => head.extend_from_slice(&buffer[..length]),
                _ => return,
            }
        }
        count.fetch_add(1, Ordering::Relaxed);
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        idle_since = Some(Instant::now());
    }
}

/// Runs waves of jobs that have one attempt each; returns how many lost it.
async fn run(closing: Closing, waves: u32, jobs: u32, pause: Duration) -> usize {
    let bench = Bench::new().await;
    let server = Server::start(closing).await;
    let _worker = bench.worker(&server.url).env("JOBS_CONCURRENCY", "41").spawn();
    bench
        .run(&format!(
            "SELECT app_jobs.add_job('wave', run_at := now() + interval '500 ms' + w * interval '{} ms', max_attempts := 1) \
             FROM generate_series(0, {waves} - 1) w, generate_series(1, {jobs}) j",
            pause.as_millis()
        ))
        .await;
    eventually(LIMIT, async || bench.count("attempts = 0 OR locked_at IS NOT NULL").await == 0).await;
    let lost = usize::try_from(bench.count("true").await).unwrap();
    let (requests, jobs) = (server.requests.load(Ordering::Relaxed), (waves * jobs) as usize);
    assert_eq!(requests, jobs - lost, "each request that was read was answered, and none was sent twice");
    lost
}

#[tokio::test]
async fn an_announced_keep_alive_of_a_second_loses_no_attempt() {
    let after = Duration::from_secs(1);
    for crosses in [true, false] {
        let lost = run(Closing { after, announced: Some(1), crosses }, 6, 41, Duration::from_millis(1001)).await;
        assert_eq!(lost, 0, "crossing: {crosses}");
    }
}

#[tokio::test]
async fn connections_closed_after_two_seconds_without_a_word_are_learned_of() {
    const JOBS: u32 = 41;
    let after = Duration::from_secs(2);
    // At worst, each connection of one wave is lost, and none afterwards.
    let lost = run(Closing { after, announced: None, crosses: true }, 6, JOBS, Duration::from_millis(2200)).await;
    assert!((1..=JOBS as usize).contains(&lost), "{lost}");
    let lost = run(Closing { after, announced: None, crosses: false }, 6, JOBS, Duration::from_millis(2001)).await;
    assert!(lost <= JOBS as usize, "{lost}");
}
