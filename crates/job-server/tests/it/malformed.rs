//! Callbacks that are not what they should be: 4xx with a JSON body, nothing changed, and the server lives on.

use reqwest::Method;

use super::support::{Bench, HOLDER, send};

/// The body is `{"error": "…"}`.
fn is_error(body: &str) -> bool {
    body.starts_with(r#"{"error":""#) && body.ends_with(r#""}"#) && body.len() > 14
}

#[tokio::test]
async fn a_request_without_a_job_id_is_a_health_probe() {
    let mut bench = Bench::new().await;
    let id = bench.held().await;
    let before = bench.job(id).await;
    assert_eq!(send(bench.post()).await, (200, r#""OK""#.to_owned()));
    assert_eq!(send(bench.post().header("X-Worker-Id", HOLDER)).await, (200, r#""OK""#.to_owned()));
    assert_eq!(send(bench.post().header("X-Job-Error", "true").body("x")).await, (200, r#""OK""#.to_owned()));
    assert_eq!(bench.job(id).await, before);
    bench.lives_on().await;
}

#[tokio::test]
async fn broken_json_under_a_json_content_type_is_refused() {
    let mut bench = Bench::new().await;
    let id = bench.held().await;
    let before = bench.job(id).await;
    let bodies: [&[u8]; 8] = [b"{", b"}", b"nonsense", b"{\"error\":}", b"{} {}", b"\0", b"{'error':'x'}", b"[1,]"];
    for body in bodies {
        let request = bench.callback(id).header("X-Job-Error", "false").header("Content-Type", "application/json");
        let (status, answer) = send(request.body(body.to_vec())).await;
        assert!(status == 400 && is_error(&answer), "{body:?}: {status} {answer}");
        assert_eq!(bench.job(id).await, before, "{body:?}");
    }
    let deep = "[".repeat(100_000);
    let (status, answer) = send(bench.callback(id).header("Content-Type", "application/json").body(deep)).await;
    assert!(status == 400 && is_error(&answer), "{status} {answer}");
    assert_eq!(bench.job(id).await, before);
    bench.lives_on().await;
}

#[tokio::test]
async fn another_method_or_path_is_refused() {
    let mut bench = Bench::new().await;
    let id = bench.held().await;
    let before = bench.job(id).await;
    for method in [Method::GET, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
        let request = bench.request(method.clone(), "/callback").header("X-Worker-Id", HOLDER).header("X-Job-Id", id);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 405, "{method}");
        assert_eq!(answer.headers()["allow"], "POST", "{method}");
        assert!(is_error(&answer.text().await.unwrap()), "{method}");
    }
    for path in ["/", "/callback/1", "//callback", "/callbacks", "/%63allback/x", "/../callback/y"] {
        let request = bench.request(Method::POST, path).header("X-Worker-Id", HOLDER).header("X-Job-Id", id);
        let (status, answer) = send(request).await;
        assert!(status == 404 && is_error(&answer), "{path}: {status} {answer}");
    }
    assert_eq!(bench.job(id).await, before);
    bench.lives_on().await;
}

#[tokio::test]
async fn the_query_string_of_the_callback_url_is_no_obstacle() {
    let bench = Bench::new().await;
    let id = bench.held().await;
    let request = bench.request(Method::POST, "/callback?token=a%20b&x").header("X-Worker-Id", HOLDER);
    assert_eq!(send(request.header("X-Job-Id", id)).await.0, 200);
    assert_eq!(bench.job(id).await, None);
}

#[tokio::test]
async fn a_job_id_without_a_worker_id_is_refused() {
    let mut bench = Bench::new().await;
    let id = bench.held().await;
    let before = bench.job(id).await;
    let missing = bench.post().header("X-Job-Id", id);
    let (status, answer) = send(missing).await;
    assert_eq!((status, answer.as_str()), (400, r#"{"error":"Missing X-Worker-Id header"}"#));
    for worker in ["", " ", "abc", "a"] {
        let (status, answer) = send(bench.post().header("X-Job-Id", id).header("X-Worker-Id", worker)).await;
        assert!(status == 400 && is_error(&answer), "{worker:?}: {status} {answer}");
    }
    assert_eq!(bench.job(id).await, before);
    bench.lives_on().await;
}

#[tokio::test]
async fn a_job_id_that_is_no_number_is_refused() {
    let mut bench = Bench::new().await;
    let id = bench.held().await;
    let before = bench.job(id).await;
    for text in [
        "",
        "x",
        "-1",
        "+1",
        "1.0",
        "1e3",
        "0x1",
        "1 2",
        "NaN",
        "null",
        "1; drop table app_jobs.jobs",
        "9223372036854775808",
        "99999999999999999999999999",
        "1,2",
    ] {
        let request = bench.post().header("X-Worker-Id", HOLDER).header("X-Job-Id", text);
        let (status, answer) = send(request).await;
        assert!(status == 400 && is_error(&answer), "{text:?}: {status} {answer}");
    }
    let many = bench.post().header("X-Worker-Id", HOLDER).header("X-Job-Id", "1".repeat(10_000));
    assert_eq!(send(many).await.0, 400);
    assert_eq!(bench.job(id).await, before);
    bench.lives_on().await;
}

#[tokio::test]
async fn headers_that_are_not_text_are_refused() {
    let mut bench = Bench::new().await;
    let id = bench.held().await;
    let before = bench.job(id).await;
    let request = |headers: &[u8]| {
        let mut bytes = b"POST /callback HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n".to_vec();
        bytes.extend_from_slice(headers);
        bytes.extend_from_slice(b"\r\n\r\n");
        bytes
    };
    let job_id = format!("X-Job-Id: {id}\r\n");
    let mut bad_worker = job_id.clone().into_bytes();
    bad_worker.extend_from_slice(b"X-Worker-Id: worker-\xff\xfe");
    let mut utf8_worker = job_id.clone().into_bytes();
    utf8_worker.extend_from_slice("X-Worker-Id: wörker-test".as_bytes());
    let bad_job = b"X-Worker-Id: worker-test\r\nX-Job-Id: 1\xff".to_vec();
    let mut nul = job_id.into_bytes();
    nul.extend_from_slice(b"X-Worker-Id: worker-\0test");
    for headers in [bad_worker, utf8_worker, bad_job, nul] {
        let answer = bench.raw(&request(&headers)).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{:?}: {answer}", String::from_utf8_lossy(&headers));
    }
    assert_eq!(bench.job(id).await, before);
    bench.lives_on().await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_and_the_caller_gets_to_read_why() {
    let mut bench = Bench::new().await;
    let id = bench.held().await;
    let before = bench.job(id).await;
    let request = bench.callback(id).header("Content-Type", "application/json").body(vec![b' '; 20 << 20]);
    let (status, answer) = send(request).await;
    assert!(status == 413 && is_error(&answer), "{status} {answer}");
    let extension = bench.request(Method::POST, "/callback/extend").header("X-Worker-Id", HOLDER);
    let (status, answer) = send(extension.header("X-Job-Id", id).body(vec![b' '; 1 << 20])).await;
    assert!(status == 413 && is_error(&answer), "{status} {answer}");
    assert_eq!(bench.job(id).await, before);
    // A body that is not read may have any size.
    assert_eq!(send(bench.callback(id).body(vec![b'x'; 20 << 20])).await.0, 200);
    assert_eq!(bench.job(id).await, None);
    bench.lives_on().await;
}

#[tokio::test]
async fn a_body_that_breaks_off_changes_nothing() {
    let mut bench = Bench::new().await;
    let id = bench.held().await;
    let before = bench.job(id).await;
    let head = format!("POST /callback HTTP/1.1\r\nHost: x\r\nX-Worker-Id: {HOLDER}\r\nX-Job-Id: {id}\r\n");
    for rest in [
        "Content-Length: 100\r\n\r\n{\"status\":",
        "Transfer-Encoding: chunked\r\n\r\n8\r\n{\"stat",
        "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        "Content-Length: -1\r\n\r\n",
        "Content-Length: x\r\n\r\n",
        "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        "No colon here\r\n\r\n",
    ] {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", bench.port)).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, format!("{head}{rest}").as_bytes()).await.unwrap();
        tokio::io::AsyncWriteExt::shutdown(&mut stream).await.unwrap();
        let mut answer = String::new();
        // Closed without an answer, or refused.
        let _ = tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{rest:?}: {answer}");
        assert_eq!(bench.job(id).await, before, "{rest:?}");
    }
    bench.lives_on().await;
}

#[tokio::test]
async fn what_is_no_http_changes_nothing() {
    let mut bench = Bench::new().await;
    for bytes in
        [&b"\r\n\r\n"[..], b"nonsense\r\n\r\n", &[0xff; 1000], b"GET\r\n\r\n", b"POST /callback HTTP/9.9\r\n\r\n"]
    {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", bench.port)).await.unwrap();
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, bytes).await;
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut stream).await;
        let mut answer = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{bytes:?}: {answer}");
    }
    bench.lives_on().await;
}

#[tokio::test]
async fn a_worker_id_of_any_length_is_compared_not_trusted() {
    let mut bench = Bench::new().await;
    let id = bench.held().await;
    let before = bench.job(id).await;
    let request = bench.post().header("X-Worker-Id", "w".repeat(8000)).header("X-Job-Id", id);
    let (status, _) = send(request).await;
    assert!(status == 200 || (400..500).contains(&status), "{status}");
    assert_eq!(bench.job(id).await, before);
    bench.lives_on().await;
}
