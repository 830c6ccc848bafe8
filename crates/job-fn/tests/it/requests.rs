//! What a function takes, and what it refuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use job_fn::{App, Context, FunctionError};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::receiver::Receiver;
use crate::{Function, json};

/// Long enough for a busy machine; nothing waits for it when all goes well.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(serde::Deserialize)]
struct Order {
    customer: Customer,
    count: u32,
}

#[derive(serde::Deserialize)]
struct Customer {
    name: String,
}

/// A function that counts its runs.
fn counting() -> (App, Arc<AtomicUsize>) {
    let runs = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&runs);
    let app = App::new(move |_: Context, order: Order| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move { Ok::<_, FunctionError>(format!("{} × {}", order.count, order.customer.name)) }
    });
    (app, runs)
}

#[tokio::test]
async fn a_payload_that_does_not_fit_is_refused_with_the_fields_name_and_without_a_run() {
    let receiver = Receiver::start([]).await;
    let (app, runs) = counting();
    let function = Function::start(app).await;
    for (body, error) in [
        (r#"{"customer":{"name":5},"count":1}"#, "the payload does not fit: customer.name: invalid type: integer `5`"),
        (r#"{"customer":{},"count":1}"#, "the payload does not fit: customer: missing field `name`"),
        (r#"{"customer":{"name":"Ada"}}"#, "the payload does not fit: missing field `count`"),
        (r#"{"customer":{"name":"Ada"},"count":-1}"#, "the payload does not fit: count: invalid value: integer `-1`"),
        ("[]", "the payload does not fit: "),
        ("{", "the body is not JSON: "),
        (r#"{"customer":{"name":"Ada"},"count":1} x"#, "the body is not JSON: "),
        ("", "the body is not JSON: "),
    ] {
        let answer = function.dispatch(&receiver.url(), body).send().await.unwrap();
        assert_eq!(answer.headers()["x-job-error"], "true", "{body}");
        let (status, answer) = json(answer).await;
        assert_eq!(status, 200, "{body}");
        assert!(answer["message"].as_str().unwrap().starts_with(error), "{body}: {answer}");
    }
    assert_eq!(runs.load(Ordering::SeqCst), 0);
    for callback in receiver.wait_for(8).await {
        assert_eq!(callback.header("x-job-error"), Some("true"));
        let error = callback.body["error"].as_str().unwrap();
        assert!(
            error.starts_with("the payload does not fit: ") || error.starts_with("the body is not JSON: "),
            "{error}"
        );
    }
    let answer = function.dispatch(&receiver.url(), r#"{"customer":{"name":"Ada"},"count":2}"#).send().await.unwrap();
    assert_eq!(json(answer).await, (200, json!("2 × Ada")));
}

#[tokio::test]
async fn a_post_is_taken_on_any_path_and_with_any_content_type() {
    let function = Function::start(App::new(async |_: Context, payload: Value| anyhow::Ok(payload))).await;
    for path in ["", "email:send_verification_link", "a/b%3Fc?d=e", "healthz", "..%2Fx"] {
        let answer = reqwest::Client::new()
            .post(format!("{}{path}", function.url()))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(r#"{"a":[1]}"#)
            .send()
            .await
            .unwrap();
        assert_eq!(json(answer).await, (200, json!({ "a": [1] })), "{path}");
    }
}

#[tokio::test]
async fn other_methods_are_refused_and_healthz_answers_probes() {
    let (app, runs) = counting();
    let function = Function::start(app).await;
    let client = reqwest::Client::new();
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let answer = client.request(method.parse().unwrap(), function.url()).body("{}").send().await.unwrap();
        assert_eq!(answer.headers()["allow"], "POST", "{method}");
        assert_eq!(json(answer).await, (405, json!({ "error": "POST a job's payload as JSON" })), "{method}");
    }
    let answer = client.get(format!("{}healthz", function.url())).send().await.unwrap();
    assert_eq!(json(answer).await, (200, json!({ "status": "ok" })));
    assert_eq!(runs.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_chunked_body_is_read_to_its_end() {
    let function = Function::start(App::new(async |_: Context, payload: Value| anyhow::Ok(payload))).await;
    let mut stream = TcpStream::connect(function.address).await.unwrap();
    stream
        .write_all(b"POST /x HTTP/1.1\r\nhost: f\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    for chunk in ["{\"text\"", ":\"in pie", "ces\"}"] {
        stream.write_all(format!("{:x}\r\n{chunk}\r\n", chunk.len()).as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with(r#"{"text":"in pieces"}"#), "{answer}");
}

/// A connection that has sent the head of a request, and then the beginning of its body.
async fn begun(function: &Function, headers: &str, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(function.address).await.unwrap();
    let head = format!("POST /x HTTP/1.1\r\nhost: f\r\n{headers}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // The function need not take all of it.
    let _ = stream.write_all(body).await;
    stream
}

/// All that comes until the end of the connection.
async fn answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("an answer in time");
    // What was not read of the request may reset the connection after its answer.
    let _ = read;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_large_chunked_body_that_has_not_ended_keeps_no_other_from_arriving() {
    let function = Function::start(App::new(async |_: Context, text: String| anyhow::Ok(text.len()))).await;
    let text = format!("\"{}\"", "x".repeat(1 << 20));
    let chunk = format!("{:x}\r\n{text}\r\n", text.len());
    let headers = "transfer-encoding: chunked";
    let mut unended = Vec::new();
    for _ in 0..3 {
        unended.push(begun(&function, headers, chunk.as_bytes()).await);
    }
    let mut whole = begun(&function, headers, format!("{chunk}0\r\n\r\n").as_bytes()).await;
    let told = answer(&mut whole).await;
    assert!(told.starts_with("HTTP/1.1 200 ") && told.ends_with(&format!("{}", 1 << 20)), "{told}");
    for mut stream in unended {
        stream.write_all(b"0\r\n\r\n").await.unwrap();
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200 "));
    }
}

#[tokio::test]
async fn payloads_wait_for_room_and_those_that_are_too_many_are_told_when_to_come_again() {
    const MANY: usize = 300;
    const LENGTH: usize = 100_000;
    let receiver = Receiver::start([]).await;
    let function = Function::start(App::new(async |_: Context, text: String| anyhow::Ok(text.len()))).await;
    let announced = |length: usize| format!("content-length: {length}");
    let beginning = [&b"\""[..], &vec![b'x'; LENGTH - 1]].concat();
    // They have all the room there is.
    let mut large = Vec::new();
    for length in [64 << 20, 32 << 20] {
        large.push(begun(&function, &announced(length), &beginning).await);
    }
    let text = format!("\"{}\"", "x".repeat(LENGTH));
    let mut sending = JoinSet::new();
    let mut streams = Vec::new();
    for _ in 0..MANY {
        let job = format!("x-worker-id: w\r\nx-job-id: 1\r\nx-callback-url: {}", receiver.url());
        let headers = format!("{}\r\n{job}", announced(text.len()));
        streams.push(begun(&function, &headers, text.as_bytes()).await);
    }
    for mut stream in streams {
        sending.spawn(async move { answer(&mut stream).await });
    }
    let refused = sending.join_next().await.unwrap().unwrap();
    assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
    assert!(refused.contains("\r\nretry-after: 10\r\n") && refused.contains("too many large requests"), "{refused}");
    drop(large);
    let mut done = 0;
    while let Some(told) = sending.join_next().await {
        let told = told.unwrap();
        let retry = told.contains("\r\nretry-after: 10\r\n");
        assert!(told.starts_with("HTTP/1.1 200 ") || told.starts_with("HTTP/1.1 429 ") && retry, "{told}");
        done += usize::from(told.ends_with(&LENGTH.to_string()));
    }
    assert!(done >= 200, "{done} of {MANY} had room in time");
    // A stop waits for all callbacks.
    assert_eq!(function.stop().await.abandoned, 0);
    let callbacks = receiver.received();
    assert_eq!(callbacks.len(), done, "a callback for what ran, and none for what had no room");
    assert!(callbacks.iter().all(|callback| callback.header("x-job-error").is_none()));
}

#[tokio::test]
async fn a_payload_of_some_mebibytes_arrives_whole_and_one_beyond_64_is_refused() {
    let function = Function::start(App::new(async |_: Context, text: String| anyhow::Ok(text.len()))).await;
    let body = format!("\"{}\"", "x".repeat(5 << 20));
    let answer = reqwest::Client::new().post(function.url()).body(body).send().await.unwrap();
    assert_eq!(json(answer).await, (200, json!(5 << 20)));

    let mut stream = TcpStream::connect(function.address).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nhost: f\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", (64 << 20) + 1);
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains(r#"{"error":"#), "{answer}");
}

#[tokio::test]
async fn the_handler_is_told_who_asks_and_an_empty_header_counts_as_absent() {
    async fn who(context: Context, _: Value) -> anyhow::Result<Value> {
        let beyond = [context.entity_id, context.organization_id];
        Ok(json!([context.worker_id, context.job_id, context.database_id, context.actor_id, beyond]))
    }
    let function = Function::start(App::new(who)).await;
    let client = reqwest::Client::new();
    let request =
        client.post(function.url()).header("X-Worker-Id", "w").header("X-Job-Id", "7").header("X-Actor-Id", "a");
    let request = request.header("X-Entity-Id", "e").header("X-Organization-Id", "o");
    let answer = request.header("X-Database-Id", "").body("{}").send().await.unwrap();
    assert!(!answer.headers().contains_key("x-database-id"));
    assert_eq!(json(answer).await, (200, json!(["w", "7", null, "a", ["e", "o"]])));
}
