//! A minimal function over HTTP/1.1 and HTTP/2 by prior knowledge, in one thread.
//!
//! `function answer` answers `{"complete":true}`: the answer ends the job. `function callback` answers 200 `{}` and then
//! posts to the request's `X-Callback-Url`, over kept-alive connections. The first line of stdout is the base URL.

use std::convert::Infallible;
use std::io::Write;
use std::rc::Rc;

use anyhow::{Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Callbacks under way at once, and with them connections to the callback server. More wait in line.
const CALLBACKS: usize = 64;

/// What a callback must bring along from the request.
const ECHOED: [&str; 3] = ["x-worker-id", "x-job-id", "x-database-id"];

struct Callbacks {
    client: Client<HttpConnector, Full<Bytes>>,
    room: Semaphore,
}

impl Callbacks {
    fn new() -> Callbacks {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Callbacks { client, room: Semaphore::new(CALLBACKS) }
    }

    /// Posts the callback of a request with these headers.
    async fn post(&self, headers: &HeaderMap) -> Result<()> {
        let Some(url) = headers.get("x-callback-url") else { bail!("a request without X-Callback-Url") };
        let mut request = Request::post(url.to_str()?).header(CONTENT_TYPE, "application/json");
        for name in ECHOED {
            if let Some(value) = headers.get(name) {
                request = request.header(name, value);
            }
        }
        let _place = self.room.acquire().await?;
        let answer = self.client.request(request.body(Full::new(Bytes::from_static(b"{}")))?).await?;
        let status = answer.status();
        // Read to its end, so that the connection can be used again.
        let body = answer.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            bail!("the callback server answered {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(())
    }
}

async fn answer(
    request: Request<Incoming>,
    callbacks: Option<Rc<Callbacks>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    // The payload is read, as any function would.
    let whole = body.collect().await.is_ok();
    let text = match callbacks {
        None => &br#"{"complete":true}"#[..],
        Some(callbacks) => {
            tokio::task::spawn_local(async move {
                if let Err(error) = callbacks.post(&head.headers).await {
                    eprintln!("callback: {error:#}");
                }
            });
            b"{}"
        }
    };
    let mut response = Response::new(Full::new(Bytes::from_static(text)));
    if !whole {
        *response.status_mut() = hyper::StatusCode::BAD_REQUEST;
    }
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Runs what hyper spawns in this thread.
#[derive(Clone)]
struct Here;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Here {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

async fn serve(callbacks: Option<Rc<Callbacks>>) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let callbacks = callbacks.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| answer(request, callbacks.clone()));
            // A worker that stops cuts its connections; that is no error of ours.
            let _ = auto::Builder::new(Here).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let callbacks = match std::env::args().nth(1).as_deref() {
        Some("answer") => None,
        Some("callback") => Some(Rc::new(Callbacks::new())),
        _ => bail!("usage: function answer|callback"),
    };
    tokio::task::LocalSet::new().run_until(serve(callbacks)).await
}
