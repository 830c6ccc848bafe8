//! Bodies and paths of callbacks as they come from the field: what the original takes is stored.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use job_pg::Db;
use job_server::ServerConfig;
use job_testkit::{TestDb, eventually};
use job_utils::config::Secret;
use job_utils::outcome::{AfterFailure, Outcome};
use job_utils::shutdown::Shutdown;
use job_utils::wire::callback::{LARGEST_BODY, read_outcome};
use job_utils::wire::signature::{CallbackSecrets, CallbackUrls};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder};

use super::support::{Bench, HOLDER, LIMIT, migrated, send};

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn deflate(body: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// A callback with a JSON body in an encoding.
fn encoded(request: RequestBuilder, encoding: &str, body: Vec<u8>) -> RequestBuilder {
    let request = request.header("Content-Type", "application/json").body(body);
    if encoding.is_empty() { request } else { request.header("Content-Encoding", encoding) }
}

/// What a failed callback left.
async fn last_error(bench: &Bench, id: i64) -> String {
    bench.job(id).await.expect("a failed job").last_error.expect("a stored error")
}

#[tokio::test]
async fn a_bom_an_encoding_bytes_that_are_not_utf_8_and_many_headers_do_not_lose_an_outcome() {
    let bench = Bench::new().await;
    let success = br#"{"status":"success"}"#;
    let bodies = [
        ("", [b"\xef\xbb\xbf", &success[..]].concat()),
        ("gzip", gzip(success)),
        ("GZIP", gzip(&[b"\xef\xbb\xbf", &success[..]].concat())),
        ("x-gzip", gzip(success)),
        ("deflate", deflate(success)),
        ("identity", b"{\"status\":\"success\",\"name\":\"caf\xe9\"}".to_vec()),
        ("gzip", Vec::new()),
    ];
    for (encoding, body) in bodies {
        let id = bench.held().await;
        let answer = send(encoded(bench.callback(id), encoding, body)).await;
        assert_eq!((answer.0, bench.job(id).await), (200, None), "{encoding}: {}", answer.1);
    }
    let failure = b"{\"error\":\"caf\xe9 closed\"}";
    for (encoding, body) in [("", failure.to_vec()), ("gzip", gzip(failure)), ("deflate", deflate(failure))] {
        let id = bench.held().await;
        let request = bench.callback(id).header("X-Job-Error", "true");
        assert_eq!(send(encoded(request, encoding, body)).await.0, 200, "{encoding}");
        assert_eq!(last_error(&bench, id).await, "caf\u{fffd} closed", "{encoding}");
    }
    let id = bench.held().await;
    let headers = (0..120).fold(bench.callback(id), |request, n| request.header(format!("X-Trace-{n}"), "1"));
    assert_eq!((send(headers).await.0, bench.job(id).await), (200, None));
}

#[tokio::test]
async fn a_large_body_is_read_to_its_end_and_stored_in_short() {
    let bench = Bench::new().await;
    let text = "x".repeat(5 << 20);
    let cut = format!("{}… ({} bytes)", &text[..4000], text.len());
    // The reason is at the end.
    let body = format!(r#"{{"trace":"{text}","error":"late"}}"#);
    for (encoding, body, expected) in [
        ("", format!(r#"{{"error":"{text}"}}"#).into_bytes(), &*cut),
        ("", body.clone().into_bytes(), "late"),
        ("gzip", gzip(body.as_bytes()), "late"),
    ] {
        let id = bench.held().await;
        let request = bench.callback(id).header("X-Job-Error", "true");
        assert_eq!(send(encoded(request, encoding, body)).await.0, 200);
        assert!(last_error(&bench, id).await == expected);
    }
    let id = bench.held().await;
    let success = format!(r#"{{"status":"success","rows":"{text}"}}"#);
    assert_eq!(send(encoded(bench.callback(id), "", success.into_bytes())).await.0, 200);
    assert_eq!(bench.job(id).await, None);
    // Of what is larger than anything that is read, X-Job-Error alone counts.
    let id = bench.held().await;
    let huge = format!(r#"{{"error":"early","trace":"{}"}}"#, "x".repeat(20 << 20));
    for (encoding, body) in [("", huge.clone().into_bytes()), ("gzip", gzip(huge.as_bytes()))] {
        let (status, answer) = send(encoded(bench.callback(id), encoding, body)).await;
        assert!(status == 413 && answer.contains("larger than"), "{status} {answer}");
    }
    assert!(bench.job(id).await.unwrap().last_error.is_none());
    let failed = bench.callback(id).header("X-Job-Error", "true");
    assert_eq!(send(encoded(failed, "", huge.into_bytes())).await.0, 200);
    assert_eq!(last_error(&bench, id).await, "early");
}

/// Asks for a health check after the other until told to stop; returns how long the longest took.
fn longest_health_check(port: u16, checks: &AtomicUsize, stop: &Shutdown) -> Duration {
    let mut longest = Duration::ZERO;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut answer = [0; 4096];
    while !stop.is_triggered() {
        let begun = Instant::now();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut length = 0;
        while !answer[..length].ends_with(b"alive") {
            let read = stream.read(&mut answer[length..]).unwrap();
            assert!(read > 0, "the connection ended");
            length += read;
        }
        longest = longest.max(begun.elapsed());
        checks.fetch_add(1, Ordering::SeqCst);
    }
    longest
}

#[tokio::test]
async fn health_checks_are_answered_while_16_mib_are_decoded() {
    // A server that has one thread, this one: what it decodes itself holds up everything.
    let db = TestDb::from_template("server", migrated).await;
    let pool = Db::from_url(db.url()).unwrap();
    let listener = job_server::bind(0).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let stop = Shutdown::new();
    let server =
        tokio::spawn(job_server::run_with(ServerConfig::default(), pool, listener, Default::default(), stop.clone()));
    let body = format!(r#"{{"rows":[{}1]}}"#, "1,".repeat(LARGEST_BODY / 2 - 100));
    let body = gzip(body.as_bytes());
    let headers = HeaderMap::from_iter([
        (CONTENT_ENCODING, HeaderValue::from_static("gzip")),
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
    ]);
    let begun = Instant::now();
    assert_eq!(read_outcome(&headers, &body, false).unwrap(), Outcome::Complete);
    let decoding = begun.elapsed();
    let mut rounds = Vec::new();
    // Other programs may hold up a check as well, but not in every round.
    while !rounds.iter().any(|longest| *longest < decoding / 2) && rounds.len() < 10 {
        let (checks, enough) = (Arc::new(AtomicUsize::new(0)), Shutdown::new());
        let checking = {
            let (checks, enough) = (checks.clone(), enough.clone());
            tokio::task::spawn_blocking(move || longest_health_check(port, &checks, &enough))
        };
        eventually(LIMIT, async || checks.load(Ordering::SeqCst) > 0).await;
        let callback = reqwest::Client::new().post(format!("http://127.0.0.1:{port}/callback"));
        let callback = callback.header("X-Worker-Id", HOLDER).header("X-Job-Id", 1).headers(headers.clone());
        let (status, answer) = send(callback.body(body.clone())).await;
        assert!(status == 200 && answer.contains("stale"), "{status} {answer}");
        enough.trigger();
        rounds.push(checking.await.unwrap());
    }
    assert!(rounds.iter().any(|longest| *longest < decoding / 2), "{decoding:?} {rounds:?}");
    stop.trigger();
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn x_job_error_ends_the_attempt_whatever_the_body_is() {
    let bench = Bench::new().await;
    let bodies: [(&str, &[u8], &str); 8] = [
        ("", b"{", "UNKNOWN_ERROR"),
        ("", b"nonsense", "UNKNOWN_ERROR"),
        ("", br#"{"error":"boom","value":NaN}"#, "boom"),
        ("", br#"{"error":"boom"} {}"#, "boom"),
        ("", &[0, 159, 255], "UNKNOWN_ERROR"),
        ("br", &[0x0b, 0x02, 0x80], "UNKNOWN_ERROR"),
        ("gzip", br#"{"error":"not compressed"}"#, "UNKNOWN_ERROR"),
        ("gzip, gzip", &[0x1f, 0x8b], "UNKNOWN_ERROR"),
    ];
    for (encoding, body, expected) in bodies {
        let id = bench.held().await;
        let request = encoded(bench.callback(id).header("X-Job-Error", "true"), encoding, body.to_vec());
        assert_eq!(send(request).await.0, 200, "{encoding} {body:?}");
        assert_eq!(last_error(&bench, id).await, expected, "{encoding} {body:?}");
        bench.sql.batch_execute("DELETE FROM app_jobs.jobs").await.unwrap();
    }
    // Without it, what is not understood is refused and not taken for a success.
    let id = bench.held().await;
    for (encoding, body, refused) in
        [("br", &[0x0b, 0x02, 0x80][..], 415), ("gzip", b"{}", 415), ("", br#"{"value":NaN}"#, 400)]
    {
        let (status, answer) = send(encoded(bench.callback(id), encoding, body.to_vec())).await;
        assert_eq!(status, refused, "{encoding} {body:?}: {answer}");
    }
    assert!(bench.job(id).await.unwrap().last_error.is_none());
}

#[tokio::test]
async fn any_value_of_x_job_error_but_false_0_and_none_is_an_error() {
    let bench = Bench::new().await;
    for (value, failed) in [
        ("true", true),
        ("True", true),
        ("TRUE", true),
        ("1", true),
        ("yes", true),
        ("false", false),
        ("False", false),
        ("0", false),
        ("", false),
    ] {
        let id = bench.held().await;
        let request = encoded(bench.callback(id).header("X-Job-Error", value), "", br#"{"error":"x"}"#.to_vec());
        assert_eq!(send(request).await.0, 200, "{value:?}");
        assert_eq!(bench.job(id).await.and_then(|job| job.last_error), failed.then(|| "x".to_owned()), "{value:?}");
        bench.sql.batch_execute("DELETE FROM app_jobs.jobs").await.unwrap();
    }
    // Twice, as by a framework and a handler that both set it.
    for (first, second) in [("false", "true"), ("true", "false")] {
        let id = bench.held().await;
        let request = bench.callback(id).header("X-Job-Error", first).header("X-Job-Error", second);
        assert_eq!(send(encoded(request, "", br#"{"error":"x"}"#.to_vec())).await.0, 200);
        assert_eq!(bench.job(id).await.and_then(|job| job.last_error).as_deref(), Some("x"), "{first}, {second}");
        bench.sql.batch_execute("DELETE FROM app_jobs.jobs").await.unwrap();
    }
}

#[tokio::test]
async fn a_callback_arrives_by_any_spelling_of_the_path_and_with_a_path_appended_to_the_query() {
    let secret = "a secret of the callback server";
    let bench = Bench::with(&[("JOBS_CALLBACK_SECRET", secret)]).await;
    let secrets = CallbackSecrets::parse(&Secret::new(secret));
    for path in ["/callback", "/callback/", "/Callback", "/CALLBACK//"] {
        for appended in ["", "/callback", "/callback/", "/Callback"] {
            let id = bench.held().await;
            let epoch = "SELECT epoch FROM app_jobs.jobs WHERE id = $1";
            let epoch: i64 = bench.sql.query_one(epoch, &[&id]).await.unwrap().get(0);
            let urls = |path: &str| CallbackUrls::new(&format!("http://x{path}").parse().unwrap(), secrets.clone());
            let target = |path: &str| {
                let url = urls(path).of(id, HOLDER, epoch, AfterFailure::Usual);
                format!("{}{appended}", url.strip_prefix("http://x").unwrap())
            };
            let request =
                |target: &str| bench.request(Method::POST, target).header("X-Worker-Id", HOLDER).header("X-Job-Id", id);
            let extend = target(&format!("{}/extend", path.trim_end_matches('/')));
            let (status, answer) = send(request(&extend).body(r#"{"seconds": 60}"#)).await;
            assert!(status == 200 && !answer.contains("stale"), "{extend}: {status} {answer}");
            let target = target(path);
            let (status, answer) = send(request(&target)).await;
            assert!(status == 200 && !answer.contains("stale"), "{target}: {status} {answer}");
            assert_eq!(bench.job(id).await, None, "{target}");
        }
    }
}
