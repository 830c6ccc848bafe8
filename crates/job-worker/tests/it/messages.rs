//! What `last_error` says of a function that cannot be reached or understood, and what it never says.

use std::time::Instant;

use job_testkit::function::raw::{RawAnswer, RawFunction};
use job_testkit::process::Program;
use job_testkit::{Answer, FakeFunction};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::connections::acceptor;
use super::misbehaviour::Misbehaving;
use super::support::Bench;
use super::tls::Certificates;

/// A worker that can use TLS, with this development map.
fn worker(bench: &Bench, made: &Certificates, map: &serde_json::Value) -> Program {
    bench
        .worker("http://127.0.0.1:9")
        .env("SSL_CERT_FILE", made.file("ours.crt").to_str().unwrap())
        .env("INTERNAL_GATEWAY_DEVELOPMENT_MAP", map.to_string())
}

/// A port that takes connections, and what is done with each.
pub(crate) async fn listening<F, Fut>(treat: F) -> u16
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(treat(stream));
        }
    });
    port
}

#[tokio::test]
async fn a_tls_error_says_what_to_look_at() {
    let made = Certificates::new();
    for authority in ["ours", "theirs"] {
        made.authority(authority);
    }
    made.server("server", "theirs");
    let foreign = acceptor(&made, b"http/1.1");
    made.server("server", "ours");
    let trusted = acceptor(&made, b"http/1.1");
    let accept = async |tls: &tokio_rustls::TlsAcceptor| {
        let tls = tls.clone();
        listening(move |stream| {
            let tls = tls.clone();
            async move { drop(tls.accept(stream).await) }
        })
        .await
    };
    let (foreign, trusted) = (accept(&foreign).await, accept(&trusted).await);
    let function = FakeFunction::answering(Answer::complete()).await;
    let plain = function.address().port();
    let closing = listening(async |mut stream: TcpStream| {
        let _ = stream.read(&mut [0; 1024]).await;
    })
    .await;
    let cases = [
        (
            "foreign",
            format!("https://localhost:{foreign}"),
            "UnknownIssuer (trusted are the system's root certificates, or those in SSL_CERT_FILE)",
        ),
        // The certificate is for localhost.
        ("number", format!("https://127.0.0.1:{trusted}"), "certificate not valid for name \"127.0.0.1\""),
        ("plain", format!("https://localhost:{plain}"), "(does the server speak TLS there? The URL is https)"),
        ("closing", format!("https://localhost:{closing}"), "(the server closed the connection instead)"),
    ];
    let map = cases.iter().map(|(task, url, _)| ((*task).to_owned(), json!(url))).collect();
    let bench = Bench::new().await;
    let _worker = worker(&bench, &made, &serde_json::Value::Object(map)).spawn();
    for (task, url, advice) in &cases {
        let failed = bench.failed(bench.add(task).await).await;
        let last_error = failed.last_error.unwrap();
        assert!(last_error.starts_with(&format!("cannot connect to {url}/: ")), "{last_error}");
        assert!(last_error.contains(advice), "{last_error}");
        assert_eq!(failed.attempts, 1, "{task}");
    }
}

#[tokio::test]
async fn a_tls_server_behind_an_http_url_is_suggested() {
    let bench = Bench::new().await;
    // What a TLS server says to plain HTTP: a fatal alert, protocol_version.
    let function = RawFunction::start(RawAnswer::bytes([0x15, 3, 3, 0, 2, 2, 70])).await;
    let _worker = bench.worker(&function.url()).spawn();
    let failed = bench.failed(bench.add("tls").await).await;
    let last_error = failed.last_error.unwrap();
    assert!(last_error.starts_with(&format!("no valid HTTP answer from {}/tls: ", function.url())), "{last_error}");
    assert!(last_error.contains("TLS needs an https URL"), "{last_error}");
    assert_eq!((failed.attempts, function.connections()), (1, 1));
}

#[tokio::test]
async fn a_connection_that_does_not_stand_in_time_is_given_up() {
    let made = Certificates::new();
    made.authority("ours");
    // It takes the connection and never says a word of TLS.
    let port = listening(async |mut stream: TcpStream| while stream.read_u8().await.is_ok() {}).await;
    let url = format!("https://localhost:{port}");
    for (total, last_error) in [
        ("1s", format!("cannot connect to {url}/ within 1s (JOBS_DISPATCH_TIMEOUT)")),
        ("1m", format!("cannot connect to {url}/ within 10s")),
    ] {
        let bench = Bench::new().await;
        let _worker = worker(&bench, &made, &json!({ "silent": url })).env("JOBS_DISPATCH_TIMEOUT", total).spawn();
        let started = Instant::now();
        let failed = bench.failed(bench.add("silent").await).await;
        assert_eq!((failed.last_error, failed.attempts), (Some(last_error), 1), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn no_failure_shows_what_is_secret_in_a_url() {
    let bench = Bench::new().await;
    // They say all they were sent.
    let echo = FakeFunction::start(async |request| {
        let told = format!(
            "{} {} {}",
            request.header("authorization").unwrap_or_default(),
            request.target,
            request.header("x-callback-url").unwrap_or_default()
        );
        match request.target.split('?').next() {
            Some("/text") => Answer::text(500, told),
            Some("/json") => Answer::json(500, &json!({ "error": told })),
            Some("/thrown") => Answer::json(200, &json!({ "message": told })).header("X-Job-Error", "true"),
            _ => Answer::text(503, told).header("Retry-After", "120"),
        }
    })
    .await;
    let refused = FakeFunction::answering(Answer::complete()).await.stop().await.to_string();
    let garbage = RawFunction::start(RawAnswer::bytes("I am no HTTP server\r\n\r\n")).await;
    let silent = RawFunction::start(RawAnswer::Silence).await;
    let drops = Misbehaving::start(async |mut stream: TcpStream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{").await.unwrap();
        let _ = stream.read_u8().await;
    })
    .await;
    let (plain, secure) = (echo.url(), format!("https://{}", echo.address()));
    let cases = [
        ("text", format!("{plain}/text")),
        ("json", format!("{plain}/json")),
        ("thrown", format!("{plain}/thrown")),
        ("busy", format!("{plain}/busy")),
        ("tls", format!("{secure}/tls")),
        ("refused", format!("http://{refused}/")),
        ("unknown", "http://no-such-host.invalid/".to_owned()),
        ("garbage", garbage.url()),
        ("silent", silent.url()),
        ("drops", drops.url.clone()),
    ];
    let secret = |url: &str| format!("{}?token=hunter2", url.replace("://", "://user:hunter2@"));
    let mut map: serde_json::Map<_, _> =
        cases.iter().map(|(task, url)| ((*task).to_owned(), secret(url).into())).collect();
    map.insert("nonsense".to_owned(), "ftp://user:hunter2@gateway/?token=hunter2".into());
    let made = Certificates::new();
    made.authority("ours");
    let worker = worker(&bench, &made, &serde_json::Value::Object(map)).env("JOBS_DISPATCH_TIMEOUT", "2s");
    let worker = worker.env("INTERNAL_JOBS_CALLBACK_URL", "http://user:hunter2@jobs/callback?key=hunter2");
    let mut worker = worker.env("JOBS_CALLBACK_SECRET", "hunter2 and his secret").spawn();
    for task in cases.iter().map(|(task, _)| *task).chain(["nonsense"]) {
        let failed = bench.failed(bench.add(task).await).await;
        let last_error = failed.last_error.unwrap();
        // In base64, too.
        let shows = ["hunter2", "dXNlcjpodW50ZXIy"].iter().any(|secret| last_error.contains(secret));
        assert!(!shows && last_error.len() > 10, "{task}: {last_error}");
        if ["text", "json", "thrown", "busy"].contains(&task) {
            let told = format!("Basic … /{task}?… http://user:…@jobs/callback?…&epoch=");
            assert!(last_error.contains(&told) && last_error.contains("&signature=…"), "{task}: {last_error}");
        }
    }
    worker.wait_for_line("job.task=\"nonsense\"", super::support::LIMIT).await;
    assert!(!worker.output().contains("hunter2"), "{}", worker.output());
}
