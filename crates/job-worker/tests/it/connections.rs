//! The ways to a function: HTTP/2, TLS, passwords, and connections that end when they like.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use job_testkit::{Answer, FakeFunction, Gate, eventually};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::support::{Bench, LIMIT};
use super::tls::Certificates;

/// What a function received.
#[derive(Debug, Clone)]
struct Received {
    version: http::Version,
    target: String,
    headers: HeaderMap,
    body: Bytes,
    connection: usize,
}

/// A function that speaks HTTP/2 only, over TLS or without.
#[derive(Clone)]
struct Http2Function {
    received: Arc<Mutex<Vec<Received>>>,
    /// Answers wait for it.
    gate: Gate,
}

impl Http2Function {
    /// Starts it; returns it and its port.
    async fn start(tls: Option<TlsAcceptor>, gate: Gate) -> (Self, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let function = Self { received: Arc::default(), gate };
        let serving = function.clone();
        tokio::spawn(async move {
            let connections = AtomicUsize::new(0);
            while let Ok((stream, _)) = listener.accept().await {
                let connection = connections.fetch_add(1, Ordering::Relaxed);
                let (function, tls) = (serving.clone(), tls.clone());
                let service = service_fn(move |request| function.clone().answer(connection, request));
                tokio::spawn(async move {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    match tls {
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => server.serve_connection(TokioIo::new(stream), service).await,
                            // The client does not trust it.
                            Err(_) => Ok(()),
                        },
                        None => server.serve_connection(TokioIo::new(stream), service).await,
                    }
                });
            }
        });
        (function, port)
    }

    async fn answer(self, connection: usize, request: Request<Incoming>) -> hyper::Result<Response<Full<Bytes>>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        self.received.lock().unwrap().push(Received {
            version: head.version,
            target: head.uri.to_string(),
            headers: head.headers,
            body,
            connection,
        });
        self.gate.passed().await;
        Ok(Response::new(Full::from(r#"{"complete": true}"#)))
    }

    fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn over_http_2_all_jobs_share_one_connection() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let (function, port) = Http2Function::start(None, gate.clone()).await;
    let place = format!("http://127.0.0.1:{port}");
    let worker = bench.worker(&format!("{place}/base")).env("JOBS_HTTP2", "true").env("JOBS_CONCURRENCY", "40");
    let _worker = worker.spawn();
    let big = format!("{{\"text\":\"{}\"}}", "x".repeat(1 << 20));
    let id = bench.add_with("first:task", &big, "").await;
    for n in 0..39 {
        bench.add_with("task", &format!("{{ \"n\" : {n} }}"), "").await;
    }
    // All are in flight at once.
    eventually(LIMIT, async || function.received().len() == 40).await;
    gate.open();
    bench.empty().await;
    let received = function.received();
    assert_eq!(received.len(), 40, "one request a job");
    assert!(received.iter().all(|request| request.version == http::Version::HTTP_2 && request.connection == 0));
    let first = received.iter().find(|request| request.headers["x-job-id"] == id.to_string().as_str()).unwrap();
    assert_eq!((first.target.as_str(), first.body.as_ref()), (&*format!("{place}/base/first:task"), big.as_bytes()));
    assert_eq!(first.headers["content-type"], "application/json");
    let callback = first.headers["x-callback-url"].to_str().unwrap();
    assert!(callback.starts_with("http://jobs-callback:12345/callback?epoch="), "{callback}");
    assert!(received.iter().any(|request| request.body == "{ \"n\" : 38 }"));
}

#[tokio::test]
async fn an_idle_http_2_connection_is_replaced_after_four_seconds_and_what_is_under_way_on_it_goes_on() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let (function, port) = Http2Function::start(None, gate.clone()).await;
    let _worker = bench.worker(&format!("http://127.0.0.1:{port}")).env("JOBS_HTTP2", "true").spawn();
    bench.add("slow").await;
    eventually(LIMIT, async || function.received().len() == 1).await;
    bench.add_with("late", "{}", ", run_at := now() + interval '4.6 seconds'").await;
    eventually(LIMIT, async || function.received().len() == 2).await;
    gate.open();
    bench.empty().await;
    let connections: Vec<_> = function.received().iter().map(|request| request.connection).collect();
    assert_eq!(connections, [0, 1], "each job was sent once, and both were answered");
}

#[tokio::test]
async fn a_request_that_the_server_refused_over_http_2_loses_no_attempt() {
    let bench = Bench::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // The first request is refused, the second is answered.
    let server = tokio::spawn(async move {
        let mut requests = 0;
        while let Ok((stream, _)) = listener.accept().await {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                requests += 1;
                match requests {
                    1 => respond.send_reset(h2::Reason::REFUSED_STREAM),
                    _ => {
                        let mut body = respond.send_response(Response::new(()), false).unwrap();
                        body.send_data(Bytes::from(r#"{"complete": true}"#), true).unwrap();
                    }
                }
            }
        }
    });
    let mut worker = bench.worker(&url).env("JOBS_HTTP2", "true").spawn();
    let id = bench.add_with("task", "{}", ", max_attempts := 1").await;
    let line = worker.wait_for_line("job snoozed", LIMIT).await;
    assert!(line.contains(&format!("job.id={id}")) && line.contains("refused by"), "{line}");
    bench.gone(id).await;
    server.abort();
}

#[tokio::test]
async fn with_http_2_set_a_function_that_does_not_speak_it_fails_its_jobs_and_the_setting_is_named() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let _worker = bench.worker(&function.url()).env("JOBS_HTTP2", "true").spawn();
    let last_error = bench.failed(bench.add("greet").await).await.last_error.unwrap();
    let place = format!("no valid HTTP answer from {}/greet: ", function.url());
    assert!(last_error.starts_with(&place) && last_error.contains("JOBS_HTTP2"), "{last_error}");
}

/// A server's side of TLS, with a certificate for localhost that `ours` signed.
pub(crate) fn acceptor(made: &Certificates, protocol: &[u8]) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(made.file("server.crt")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(made.file("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn an_https_function_is_reached_when_its_certificate_is_trusted_and_only_then() {
    let made = Certificates::new();
    made.authority("ours");
    made.authority("theirs");
    made.server("server", "ours");
    let bench = Bench::new().await;
    let tls = acceptor(&made, b"http/1.1");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let tls = tls.clone();
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                let answer = async |_| hyper::Result::Ok(Response::new(Full::<Bytes>::from(r#"{"complete": true}"#)));
                let server = hyper::server::conn::http1::Builder::new();
                let _ = server.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
            });
        }
    });
    let worker = |root: &str| bench.worker(&url).env("SSL_CERT_FILE", made.file(root).to_str().unwrap());
    let id = bench.add("greet").await;
    let mut distrustful = worker("theirs.crt").spawn();
    let last_error = bench.failed(id).await.last_error.unwrap();
    assert!(last_error.starts_with(&format!("cannot connect to {url}/greet: ")), "{last_error}");
    assert!(last_error.contains("certificate"), "{last_error}");
    distrustful.signal(job_testkit::Signal::Term);
    assert_eq!(distrustful.exit_code(LIMIT).await, 0);
    let mut trusting = worker("ours.crt").spawn();
    bench.gone(id).await;
    trusting.signal(job_testkit::Signal::Term);
    assert_eq!(trusting.exit_code(LIMIT).await, 0);

    // HTTP/2 has to be agreed upon.
    let id = bench.add("agreed").await;
    let mut disagreeing = worker("ours.crt").env("JOBS_HTTP2", "true").spawn();
    let last_error = bench.failed(id).await.last_error.unwrap();
    assert!(last_error.starts_with(&format!("cannot connect to {url}/agreed: ")), "{last_error}");
    disagreeing.signal(job_testkit::Signal::Term);
    assert_eq!(disagreeing.exit_code(LIMIT).await, 0);
    let gate = Gate::closed();
    gate.open();
    let (function, port) = Http2Function::start(Some(acceptor(&made, b"h2")), gate).await;
    let worker = worker("ours.crt").env("KNATIVE_SERVICE_URL", format!("https://localhost:{port}"));
    let _worker = worker.env("JOBS_HTTP2", "true").spawn();
    bench.gone(id).await;
    assert_eq!(function.received()[0].target, format!("https://localhost:{port}/agreed"));
    server.abort();
}

#[tokio::test]
async fn user_and_password_of_a_url_are_sent_as_basic_authentication() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let _worker = bench.worker(&format!("http://user:p%40ss@{}", function.address())).spawn();
    bench.gone(bench.add("task").await).await;
    let request = &function.requests()[0];
    assert_eq!(request.header("authorization"), Some("Basic dXNlcjpwQHNz"));
    assert_eq!(request.header("host"), Some(function.address().to_string().as_str()));
}

/// Reads a request's head, whatever its body is.
async fn read_head(stream: &mut tokio::net::TcpStream) -> bool {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => text.push(byte),
            Err(_) => return false,
        }
    }
    true
}

const DONE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{\"complete\": true}";

#[tokio::test]
async fn a_connection_that_the_server_has_closed_meanwhile_is_not_used() {
    let bench = Bench::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            // Answers once, and closes without a word.
            read_head(&mut stream).await;
            let mut body = [0; 2];
            stream.read_exact(&mut body).await.unwrap();
            stream.write_all(DONE).await.unwrap();
        }
    });
    let _worker = bench.worker(&format!("http://{address}")).spawn();
    for task in ["one", "two", "three"] {
        let id = bench.add_with(task, "{}", ", max_attempts := 1").await;
        bench.gone(id).await;
    }
    server.abort();
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_counts_and_its_connection_holds_nobody_up() {
    let bench = Bench::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        // Reads no body, and keeps the connections open.
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await;
            stream.write_all(DONE).await.unwrap();
            open.push(stream);
        }
    });
    let _worker = bench.worker(&format!("http://{address}")).env("JOBS_DISPATCH_TIMEOUT", "20s").spawn();
    let big = format!("\"{}\"", "x".repeat(15 << 20));
    let id = bench.add_with("big", &big, ", max_attempts := 1").await;
    bench.gone(id).await;
    let started = std::time::Instant::now();
    for task in ["one", "two"] {
        let id = bench.add_with(task, &big, ", max_attempts := 1").await;
        bench.gone(id).await;
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(15), "{:?}", started.elapsed());
    server.abort();
}
