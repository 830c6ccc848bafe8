//! What can go wrong between the worker and a function: each is a failed attempt whose last_error says what to do.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use job_testkit::function::raw::{RawAnswer, RawFunction};
use job_testkit::{Answer, FakeFunction, Gate};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::support::{Bench, LIMIT};

async fn refused() -> SocketAddr {
    FakeFunction::answering(Answer::complete()).await.stop().await
}

#[tokio::test]
async fn a_refused_connection_fails_the_attempt_and_the_job_runs_when_the_function_is_up_again() {
    let bench = Bench::new().await;
    let address = refused().await;
    let _worker = bench.worker(&format!("http://{address}")).spawn();
    let id = bench.add("greet").await;
    let failed = bench.failed(id).await;
    let last_error = failed.last_error.unwrap();
    assert!(last_error.starts_with(&format!("cannot connect to http://{address}/greet: ")), "{last_error}");
    assert!(last_error.contains("Connection refused"), "{last_error}");
    assert_eq!(failed.attempts, 1);
    let function = FakeFunction::start_at(address, async |_| Answer::complete()).await;
    bench.gone(id).await;
    assert_eq!(function.requests().len(), 1);
}

#[tokio::test]
async fn a_host_that_does_not_exist_is_named_in_last_error() {
    let bench = Bench::new().await;
    let _worker = bench.worker("http://no-such-host.invalid:8080").spawn();
    let last_error = bench.failed(bench.add("greet").await).await.last_error.unwrap();
    assert!(last_error.contains("http://no-such-host.invalid:8080/greet"), "{last_error}");
}

#[tokio::test]
async fn a_function_that_does_not_answer_in_time_fails_the_attempt() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let passed = gate.clone();
    let slow = FakeFunction::start(move |_| {
        let gate = passed.clone();
        async move {
            gate.passed().await;
            Answer::complete()
        }
    })
    .await;
    let silent = RawFunction::start(RawAnswer::Silence).await;
    let never_ends =
        RawFunction::start(RawAnswer::bytes("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")).await;
    let map = format!(r#"{{"silent": "{}", "cut": "{}"}}"#, silent.url(), never_ends.url());
    let worker = bench.worker(&slow.url()).env("JOBS_DISPATCH_TIMEOUT", "1s");
    let _worker = worker.env("INTERNAL_GATEWAY_DEVELOPMENT_MAP", map).spawn();
    let (slow_job, silent_job, cut) = (bench.add("slow").await, bench.add("silent").await, bench.add("cut").await);
    let last_error = bench.failed(slow_job).await.last_error.unwrap();
    assert_eq!(last_error, format!("no answer from {}/slow within 1s (JOBS_DISPATCH_TIMEOUT)", slow.url()));
    let last_error = bench.failed(silent_job).await.last_error.unwrap();
    assert!(last_error.ends_with("within 1s (JOBS_DISPATCH_TIMEOUT)"), "{last_error}");
    // The connection was closed in the middle of the body.
    let last_error = bench.failed(cut).await.last_error.unwrap();
    assert!(last_error.starts_with("no valid HTTP answer from "), "{last_error}");
    assert_eq!(silent.connections(), 1);
    gate.open();
}

#[tokio::test]
async fn malformed_http_fails_the_attempt_and_says_where() {
    let bench = Bench::new().await;
    let answers = [
        ("closed", RawAnswer::Close),
        ("nothing", RawAnswer::bytes("")),
        ("garbage", RawAnswer::bytes("I am no HTTP server\r\n\r\n")),
        ("binary", RawAnswer::bytes([0u8, 159, 146, 150].repeat(100))),
        ("short", RawAnswer::bytes("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"complete\": true}")),
        ("chunk", RawAnswer::bytes("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{\"complete\":true}")),
        ("length", RawAnswer::bytes("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{\"complete\":true}")),
        ("header", RawAnswer::bytes(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(2 << 20)))),
        ("status", RawAnswer::bytes("HTTP/1.1 9999 OK\r\nContent-Length: 0\r\n\r\n")),
    ];
    let mut functions = Vec::new();
    for (task, answer) in answers {
        functions.push((task, RawFunction::start(answer).await));
    }
    let map: serde_json::Map<_, _> =
        functions.iter().map(|(task, function)| ((*task).to_owned(), function.url().into())).collect();
    let map = serde_json::Value::Object(map).to_string();
    let _worker = bench.worker("http://127.0.0.1:9").env("INTERNAL_GATEWAY_DEVELOPMENT_MAP", map).spawn();
    for (task, function) in &functions {
        let last_error = bench.failed(bench.add(task).await).await.last_error.unwrap();
        let place = format!("no valid HTTP answer from {}/: ", function.url());
        assert!(last_error.starts_with(&place) && last_error.len() > place.len(), "{task}: {last_error}");
        // What a person can look at, when it is known.
        let hint = match *task {
            "closed" | "nothing" | "short" => "(the connection ended too early: ",
            "garbage" | "binary" => "(does an HTTP/1.1 server listen there? ",
            _ => "",
        };
        assert!(last_error.contains(hint), "{task}: {last_error}");
        assert_eq!(function.connections(), 1, "{task}: a POST is not repeated");
    }
}

/// Answers one request of a connection as it should, reads the next to its end and hangs up.
async fn hang_up_on_the_second(listener: TcpListener, received: tokio::sync::watch::Sender<usize>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let received = received.clone();
        tokio::spawn(async move {
            read_head(&mut stream).await;
            received.send_modify(|count| *count += 1);
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 18\r\nConnection: keep-alive\r\n\r\n{\"complete\": true}";
            stream.write_all(answer).await.unwrap();
            if read_head(&mut stream).await {
                received.send_modify(|count| *count += 1);
            }
        });
    }
}

/// Reads a request whose body is `{}`; false when the connection is closed.
pub(crate) async fn read_head(stream: &mut TcpStream) -> bool {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n{}") {
        match stream.read_u8().await {
            Ok(byte) => text.push(byte),
            Err(_) => return false,
        }
    }
    true
}

#[tokio::test]
async fn a_post_whose_connection_breaks_is_not_repeated_silently() {
    let bench = Bench::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (count, received) = tokio::sync::watch::channel(0);
    let server = tokio::spawn(hang_up_on_the_second(listener, count));
    let mut worker = bench.worker(&format!("http://{address}")).spawn();
    let first = bench.add("first").await;
    bench.gone(first).await;
    worker.wait_for_line("job completed", LIMIT).await;
    let second = bench.add("second").await;
    let failed = bench.failed(second).await;
    assert_eq!(failed.attempts, 1);
    let last_error = failed.last_error.unwrap();
    assert!(last_error.starts_with("no valid HTTP answer from "), "{last_error}");
    assert_eq!(*received.borrow(), 2, "one request a job");
    server.abort();
}

#[tokio::test]
async fn an_idle_connection_is_used_again_within_seconds_and_not_after_four() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let _worker = bench.worker(&function.url()).spawn();
    bench.gone(bench.add("one").await).await;
    bench.gone(bench.add("two").await).await;
    // Node's servers close an idle connection after 5 s; ours must be closed before.
    bench.gone(bench.add_with("three", "{}", ", run_at := now() + interval '4.4 seconds'").await).await;
    let requests = function.requests();
    assert_eq!(requests[0].peer, requests[1].peer);
    assert_ne!(requests[1].peer, requests[2].peer);
}

#[tokio::test]
async fn an_endless_answer_is_cut_and_holds_nobody_up() {
    let bench = Bench::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                read_head(&mut stream).await;
                let _ = stream.write_all(b"HTTP/1.1 500 Down\r\n\r\n").await;
                // Until the worker hangs up.
                while stream.write_all(&[b'x'; 1 << 16]).await.is_ok() {}
            });
        }
    });
    let worker = bench.worker(&format!("http://{address}")).env("JOBS_DISPATCH_TIMEOUT", "20s");
    let _worker = worker.spawn();
    let started = Instant::now();
    let last_error = bench.failed(bench.add("endless").await).await.last_error.unwrap();
    assert!(last_error.starts_with("HTTP 500: xxx") && last_error.len() < 1000, "{} characters", last_error.len());
    assert!(started.elapsed() < Duration::from_secs(15), "it did not wait for the end");
    server.abort();
}

#[tokio::test]
async fn the_last_attempt_leaves_the_job_with_its_error_and_is_not_followed_by_another() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::text(500, "down")).await;
    let _worker = bench.worker(&function.url()).spawn();
    let id = bench.add_with("never", "{}", ", max_attempts := 1").await;
    let failed = bench.failed(id).await;
    let told = format!("HTTP 500: down (POST {}/never)", function.url());
    assert_eq!((failed.attempts, failed.last_error), (1, Some(told)));
    // Made due again it still is not taken; a job after it is.
    bench.run("UPDATE app_jobs.jobs SET run_at = now() - interval '1 hour'").await;
    let other = bench.add("other").await;
    bench.failed(other).await;
    let targets: Vec<_> = function.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/never", "/other"]);
}
