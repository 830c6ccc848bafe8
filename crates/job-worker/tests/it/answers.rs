//! Answers as they are in the field: encoded, with many headers, final, or without a word.

use job_testkit::function::raw::{RawAnswer, RawFunction};
use job_testkit::{Answer, FakeFunction, Signal};
use serde_json::json;

use super::support::{Bench, LIMIT};

/// `{"complete":true}` as gzip.
const GZIP: &[u8] = &[
    31, 139, 8, 0, 0, 0, 0, 0, 2, 3, 171, 86, 74, 206, 207, 45, 200, 73, 45, 73, 85, 178, 42, 41, 42, 77, 173, 5, 0,
    40, 183, 54, 96, 17, 0, 0, 0,
];

/// The same as deflate.
const DEFLATE: &[u8] =
    &[120, 156, 171, 86, 74, 206, 207, 45, 200, 73, 45, 73, 85, 178, 42, 41, 42, 77, 173, 5, 0, 57, 210, 6, 144];

/// An answer byte by byte.
fn raw(head: &str, body: &[u8]) -> RawAnswer {
    let head = format!("HTTP/1.1 200 OK\r\n{head}Content-Length: {}\r\n\r\n", body.len());
    RawAnswer::bytes([head.as_bytes(), body].concat())
}

#[tokio::test]
async fn a_completion_is_understood_however_it_is_encoded_and_among_many_headers() {
    let bench = Bench::new().await;
    let headers: String = (0..120).map(|n| format!("X-Header-{n}: {n}\r\n")).collect();
    let plain = br#"{"complete":true}"#;
    for (name, answer) in [
        ("bom", raw("", &[b"\xef\xbb\xbf", &plain[..]].concat())),
        ("gzip", raw("Content-Encoding: gzip\r\n", GZIP)),
        ("deflate", raw("Content-Encoding: deflate\r\n", DEFLATE)),
        ("latin-1", raw("", b"{\"complete\":true,\"name\":\"Jos\xe9\"}")),
        ("120 headers", raw(&headers, plain)),
    ] {
        let function = RawFunction::start(answer).await;
        let mut worker = bench.worker(&function.url()).spawn();
        let id = bench.add_with("task", "{}", ", max_attempts := 1").await;
        worker.wait_for_line(&format!("job completed job.id={id}"), LIMIT).await;
        bench.gone(id).await;
        worker.signal(Signal::Term);
        assert_eq!(worker.exit_code(LIMIT).await, 0, "{name}");
    }
}

#[tokio::test]
async fn what_is_not_understood_is_a_failure_and_no_acceptance() {
    let bench = Bench::new().await;
    for (answer, told) in [
        (raw("Content-Encoding: br\r\n", b"\x0b\x08\x80{}\x03"), "HTTP 200: its Content-Encoding is \"br\""),
        (raw("Content-Encoding: gzip\r\n", &GZIP[..20]), "HTTP 200: its Content-Encoding is gzip, and it is broken"),
        (raw("Content-Encoding: gzip, gzip\r\n", GZIP), "HTTP 200: its Content-Encoding is \"gzip, gzip\""),
    ] {
        let function = RawFunction::start(answer).await;
        let mut worker = bench.worker(&function.url()).spawn();
        let failed = bench.failed(bench.add_with("task", "{}", ", max_attempts := 1").await).await;
        let last_error = failed.last_error.unwrap();
        assert!(last_error.starts_with(told), "{last_error}");
        assert!(last_error.ends_with(&format!(" (POST {}/task)", function.url())), "{last_error}");
        worker.signal(Signal::Term);
        assert_eq!(worker.exit_code(LIMIT).await, 0);
    }
}

#[tokio::test]
async fn a_function_can_say_that_trying_again_is_useless() {
    let bench = Bench::new().await;
    let function = FakeFunction::start(async |request| match request.target.as_str() {
        "/body" => Answer::json(400, &json!({"error": "no such user", "retry": false})),
        "/header" => {
            Answer::json(200, &json!({"message": "gone"})).header("X-Job-Error", "true").header("X-Job-Retry", "false")
        }
        _ => Answer::json(400, &json!({"error": "busy", "retry": true})),
    })
    .await;
    let mut worker = bench.worker(&function.url()).spawn();
    for (task, error) in [("body", "no such user"), ("header", "gone")] {
        let id = bench.add(task).await;
        worker.wait_for_line(&format!("job failed job.id={id}"), LIMIT).await;
        let job = bench.failed(id).await;
        assert_eq!((job.attempts, job.last_error.as_deref()), (25, Some(error)), "{task}");
    }
    assert_eq!(bench.failed(bench.add("other").await).await.attempts, 1);
    let first = &function.requests()[0];
    assert_eq!(first.header("accept-encoding"), Some("identity"));
    assert_eq!(first.header("x-job-attempt"), Some("1"));
    assert_eq!(first.header("x-job-max-attempts"), Some("25"));
    assert_eq!(first.header("x-job-task"), Some("body"));
}

#[tokio::test]
async fn a_tasks_name_is_a_header_whatever_is_in_it() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let _worker = bench.worker(&function.url()).spawn();
    for (task, header) in [("a b", "a%20b"), ("größe 50%", "gr%C3%B6%C3%9Fe%2050%25"), ("mail:a/b?c", "mail:a/b?c")] {
        bench.gone(bench.add(task).await).await;
        assert_eq!(function.requests().last().unwrap().header("x-job-task"), Some(header));
    }
}

#[tokio::test]
async fn the_first_acceptance_without_a_word_is_told_once_a_task() {
    let bench = Bench::new().await;
    let function = FakeFunction::start(async |request| match request.target.as_str() {
        "/later" => Answer::text(202, "ok"),
        // As functions do that call back.
        "/knows" => Answer::text(200, "ok").header("X-Job-Id", request.header("x-job-id").unwrap()),
        _ => Answer::text(200, "ok"),
    })
    .await;
    let mut worker = bench.worker(&function.url()).spawn();
    for task in ["later", "knows", "plain", "plain", "other"] {
        let id = bench.add(task).await;
        worker.wait_for_line(&format!("job accepted job.id={id}"), LIMIT).await;
    }
    let output = worker.output();
    let told: Vec<_> = output.lines().filter(|line| line.contains("JOBS_COMPLETE_ON_2XX")).collect();
    assert_eq!(told.len(), 2, "{output}");
    for (line, task) in told.iter().zip(["plain", "other"]) {
        assert!(line.contains("WARN") && line.contains(&format!("job.task=\"{task}\"")), "{line}");
    }
}
