//! Functions that answer in ways they should not. Those that do not answer, or not in HTTP, are in `failures`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use job_testkit::{Answer, FakeFunction, Gate, Process, eventually};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::failures::read_head;
use super::support::{Bench, LIMIT};

/// A function that reads one request of a connection, whose body is `{}`, and then does with the connection what a test
/// says.
pub(crate) struct Misbehaving {
    pub(crate) url: String,
    requests: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl Misbehaving {
    pub(crate) async fn start<F, Fut>(treat: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (requests, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (count, over) = (requests.clone(), ended.clone());
        let server = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                if read_head(&mut stream).await {
                    count.fetch_add(1, Ordering::Relaxed);
                    let (treated, over) = (treat(stream), over.clone());
                    open.spawn(async move {
                        treated.await;
                        over.fetch_add(1, Ordering::Relaxed);
                    });
                }
            }
        });
        Self { url, requests, ended, server }
    }

    /// How many requests came.
    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Waits until it is done with this many connections.
    async fn ended(&self, count: usize) {
        eventually(LIMIT, async || self.ended.load(Ordering::Relaxed) == count).await;
    }
}

impl Drop for Misbehaving {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Writes a piece every 50 ms, until the worker hangs up.
async fn drip(stream: &mut TcpStream, piece: &[u8]) {
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    loop {
        tick.tick().await;
        if stream.write_all(piece).await.is_err() {
            return;
        }
    }
}

/// Writes this and then waits until the worker hangs up.
async fn answer(mut stream: TcpStream, text: impl AsRef<[u8]>) {
    stream.write_all(text.as_ref()).await.unwrap();
    let _ = stream.read_u8().await;
}

#[tokio::test]
async fn headers_that_do_not_end_are_given_up_and_the_setting_is_named() {
    let bench = Bench::new().await;
    let function = Misbehaving::start(async |mut stream: TcpStream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        drip(&mut stream, b"X-Slow: 1\r\n").await;
    })
    .await;
    for (first, total, name) in [("1s", "20s", "JOBS_DISPATCH_FIRST_BYTE_TIMEOUT"), ("", "1s", "JOBS_DISPATCH_TIMEOUT")]
    {
        let worker = bench.worker(&function.url).env("JOBS_DISPATCH_TIMEOUT", total);
        let mut worker = worker.env("JOBS_DISPATCH_FIRST_BYTE_TIMEOUT", first).spawn();
        let failed = bench.failed(bench.add_with("slow", "{}", ", max_attempts := 1").await).await;
        let last_error = format!("no answer from {}/slow within 1s ({name})", function.url);
        assert_eq!((failed.last_error, failed.attempts), (Some(last_error), 1));
        end(&mut worker).await;
    }
    // What it would have said later reaches nobody.
    function.ended(2).await;
    assert_eq!(function.requests(), 2);
}

async fn end(worker: &mut Process) {
    worker.signal(job_testkit::Signal::Term);
    assert_eq!(worker.exit_code(LIMIT).await, 0);
}

#[tokio::test]
async fn the_time_for_the_head_is_not_the_time_for_the_body() {
    let bench = Bench::new().await;
    let function = Misbehaving::start(async |mut stream: TcpStream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n").await.unwrap();
        let mut tick = tokio::time::interval(Duration::from_millis(1500));
        tick.tick().await;
        tick.tick().await;
        answer(stream, b"{\"complete\": true}").await;
    })
    .await;
    let _worker = bench.worker(&function.url).env("JOBS_DISPATCH_FIRST_BYTE_TIMEOUT", "1s").spawn();
    bench.gone(bench.add_with("slow", "{}", ", max_attempts := 1").await).await;
}

#[tokio::test]
async fn a_body_that_comes_by_drops_is_given_up_after_the_dispatch_timeout() {
    let bench = Bench::new().await;
    let function = Misbehaving::start(async |mut stream: TcpStream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        drip(&mut stream, b"1\r\nx\r\n").await;
    })
    .await;
    let _worker = bench.worker(&function.url).env("JOBS_DISPATCH_TIMEOUT", "1s").spawn();
    let failed = bench.failed(bench.add("drops").await).await;
    let last_error = failed.last_error.unwrap();
    let told =
        format!("no end of the answer of {}/drops within 1s (JOBS_DISPATCH_TIMEOUT): HTTP 200 and ", function.url);
    let length = last_error.strip_prefix(&told).and_then(|rest| rest.strip_suffix(" bytes so far"));
    assert!(length.is_some_and(|length| length.parse::<u32>().unwrap() > 0), "{last_error}");
    assert_eq!(failed.attempts, 1);
    function.ended(1).await;
}

#[tokio::test]
async fn a_success_without_an_end_fails_when_it_is_larger_than_any_answer() {
    let bench = Bench::new().await;
    let written = Arc::<AtomicUsize>::default();
    let count = written.clone();
    let function = Misbehaving::start(move |mut stream: TcpStream| {
        let count = count.clone();
        async move {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while stream.write_all(&[b'x'; 1 << 16]).await.is_ok() {
                count.fetch_add(1 << 16, Ordering::Relaxed);
            }
        }
    })
    .await;
    let _worker = bench.worker(&function.url).spawn();
    let failed = bench.failed(bench.add("endless").await).await;
    let last_error = format!("the answer of {}/endless has no end: HTTP 200 and more than 64 MiB", function.url);
    assert_eq!((failed.last_error, failed.attempts), (Some(last_error), 1));
    function.ended(1).await;
    // And what the sockets hold.
    let written = written.load(Ordering::Relaxed) >> 20;
    assert!((64..96).contains(&written), "{written} MiB");
}

#[tokio::test]
async fn of_a_large_answer_the_first_mib_counts() {
    let bench = Bench::new().await;
    let rows = "x".repeat(8 << 20);
    let function = FakeFunction::start(move |request| {
        let body = match request.target.as_str() {
            "/first" => format!(r#"{{"complete": true, "rows": "{rows}"}}"#),
            "/last" => format!(r#"{{"rows": "{rows}", "complete": true}}"#),
            _ => format!(r#"{{"error": "{rows}"}}"#),
        };
        std::future::ready(Answer::text(if request.target == "/fails" { 500 } else { 200 }, body))
    })
    .await;
    let mut worker = bench.worker(&function.url()).spawn();
    bench.gone(bench.add("first").await).await;
    let failed = bench.failed(bench.add("fails").await).await;
    let last_error = failed.last_error.unwrap();
    assert!(last_error.starts_with(r#"HTTP 500: {"error": "xxx"#) && last_error.len() < 1000, "{last_error}");
    assert_eq!(failed.attempts, 1);
    // What it says later is not seen: it is accepted, and the log tells why. A function that calls back loses nothing.
    let last = bench.add("last").await;
    let line = worker.wait_for_line("the answer is large", LIMIT).await;
    assert!(line.contains(&format!("job.id={last}")), "{line}");
    worker.wait_for_line(&format!("job accepted job.id={last}"), LIMIT).await;
}

#[tokio::test]
async fn large_answers_do_not_fill_the_memory() {
    const JOBS: usize = 8;
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let passed = gate.clone();
    let function = Misbehaving::start(move |mut stream: TcpStream| {
        let gate = passed.clone();
        async move {
            gate.passed().await;
            stream
                .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 40 << 20).as_bytes())
                .await
                .unwrap();
            for _ in 0..40 {
                stream.write_all(&vec![b'x'; 1 << 20]).await.unwrap();
            }
            let _ = stream.read_u8().await;
        }
    })
    .await;
    let worker = bench.worker(&function.url).spawn();
    for _ in 0..JOBS {
        bench.add("large").await;
    }
    eventually(LIMIT, async || function.requests() == JOBS).await;
    gate.open();
    for n in 1..=JOBS {
        eventually(LIMIT, async || worker.output().matches("job accepted").count() >= n).await;
    }
    let peak = worker.peak_memory();
    assert!(peak < 150 << 20, "{peak} bytes for answers of {} MiB", JOBS * 40);
}

#[tokio::test]
async fn a_connection_that_is_reset_fails_the_attempt_and_the_message_says_what_may_have_happened() {
    let bench = Bench::new().await;
    let before = Misbehaving::start(async |stream: TcpStream| stream.set_zero_linger().unwrap()).await;
    let within = Misbehaving::start(async |mut stream: TcpStream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{\"com").await.unwrap();
        stream.set_zero_linger().unwrap();
    })
    .await;
    let map = json!({"before": before.url, "within": within.url}).to_string();
    let _worker = bench.worker("http://127.0.0.1:9").env("INTERNAL_GATEWAY_DEVELOPMENT_MAP", map).spawn();
    for (task, function) in [("before", &before), ("within", &within)] {
        let failed = bench.failed(bench.add(task).await).await;
        let last_error = failed.last_error.unwrap();
        assert!(last_error.starts_with(&format!("no valid HTTP answer from {}/: ", function.url)), "{last_error}");
        assert!(last_error.contains("Connection reset by peer"), "{last_error}");
        assert!(last_error.ends_with("(the connection ended too early: has the function crashed, or been restarted?)"));
        assert_eq!((failed.attempts, function.requests()), (1, 1), "{task}: a POST is not repeated");
    }
}

#[tokio::test]
async fn http_1_0_is_understood() {
    let bench = Bench::new().await;
    let closing = Misbehaving::start(async |mut stream: TcpStream| {
        // Its end is the end of the connection.
        stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{\"complete\"").await.unwrap();
        stream.write_all(b": true}").await.unwrap();
    })
    .await;
    let keeping = Misbehaving::start(async |stream| {
        answer(stream, b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 18\r\n\r\n{\"complete\": true}")
            .await;
    })
    .await;
    let failing = Misbehaving::start(async |mut stream: TcpStream| {
        stream.write_all(b"HTTP/1.0 500 Down\r\n\r\nout of order").await.unwrap();
    })
    .await;
    let map = json!({"closing": closing.url, "keeping": keeping.url, "failing": failing.url}).to_string();
    let _worker = bench.worker("http://127.0.0.1:9").env("INTERNAL_GATEWAY_DEVELOPMENT_MAP", map).spawn();
    for (task, function) in [("closing", &closing), ("keeping", &keeping)] {
        bench.gone(bench.add_with(task, "{}", ", max_attempts := 1").await).await;
        assert_eq!(function.requests(), 1, "{task}");
    }
    // The closed connection is not used again.
    bench.gone(bench.add_with("closing", "{}", ", max_attempts := 1").await).await;
    let failed = bench.failed(bench.add("failing").await).await;
    let told = format!("HTTP 500: out of order (POST {}/)", failing.url);
    assert_eq!((failed.last_error, failed.attempts), (Some(told), 1));
}

#[tokio::test]
async fn a_wrong_content_length_harms_its_own_job_only() {
    let bench = Bench::new().await;
    let short = Misbehaving::start(async |mut stream: TcpStream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{\"complete\": true}").await.unwrap();
    })
    .await;
    let two = Misbehaving::start(async |stream| {
        answer(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 18\r\nContent-Length: 2\r\n\r\n{\"complete\": true}").await;
    })
    .await;
    // What follows the answer looks like one to the next job.
    let long = Misbehaving::start(async |mut stream: TcpStream| {
        let done = "HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{\"complete\": true}";
        stream.write_all(format!("{done}HTTP/1.1 500 Down\r\nContent-Length: 0\r\n\r\n").as_bytes()).await.unwrap();
        while read_head(&mut stream).await {
            stream.write_all(done.as_bytes()).await.unwrap();
        }
    })
    .await;
    let map = json!({"short": short.url, "two": two.url, "long": long.url}).to_string();
    let _worker = bench.worker("http://127.0.0.1:9").env("INTERNAL_GATEWAY_DEVELOPMENT_MAP", map).spawn();
    let failed = bench.failed(bench.add("short").await).await;
    let last_error = failed.last_error.unwrap();
    assert!(last_error.starts_with(&format!("no valid HTTP answer from {}/: ", short.url)), "{last_error}");
    assert!(last_error.contains("before message length reached"), "{last_error}");
    assert!(last_error.contains("(the connection ended too early: "), "{last_error}");
    assert_eq!(failed.attempts, 1);
    let failed = bench.failed(bench.add("two").await).await;
    let last_error = failed.last_error.unwrap();
    assert!(last_error.contains("invalid content-length parsed"), "{last_error}");
    assert_eq!(failed.attempts, 1);
    for _ in 0..5 {
        bench.gone(bench.add_with("long", "{}", ", max_attempts := 1").await).await;
    }
}

#[tokio::test]
async fn an_answer_that_comes_when_the_job_has_been_taken_away_is_stale_and_no_error() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let function = FakeFunction::waiting(&gate, |_| true, Answer::text(500, "too late")).await;
    let mut worker = bench.worker(&function.url()).spawn();
    let id = bench.add("slow").await;
    function.wait_for(1, LIMIT).await;
    // In one transaction, so that the worker cannot claim it again in between.
    bench.run("SELECT app_jobs.release_jobs('worker-test'); SELECT app_jobs.get_job('somebody-else')").await;
    let taken = bench.job(id).await;
    assert_eq!(taken.as_ref().unwrap().locked_by.as_deref(), Some("somebody-else"));
    gate.open();
    worker.wait_for_line(&format!("job already settled job.id={id}"), LIMIT).await;
    assert_eq!(bench.job(id).await, taken);
    end(&mut worker).await;
    let output = worker.output();
    assert!(!output.contains("ERROR") && !output.contains("too late"), "{output}");
}
