//! A minimal function over HTTP/1.1 and HTTP/2 by prior knowledge, in one thread.
//!
//! `function answer` answers `{"complete":true}`: the answer ends the job. `function callback` answers 200 `{}` and
//! then posts to the request's `X-Callback-Url`, over kept-alive connections. `function down 60` answers 503 for a
//! minute from the first request on, then prints `requests` and how many there were, and from then on is
//! `function answer`. The first line of stdout is the base URL.

use std::cell::Cell;
use std::convert::Infallible;
use std::io::Write;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, bail};
use async_channel::{Receiver, Sender};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::{Authority, PathAndQuery};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};

/// Connections to the callback server, each with one callback at a time. More callbacks wait in line.
const CONNECTIONS: usize = 256;

/// What a callback must bring along from the request.
const ECHOED: [HeaderName; 3] = [
    HeaderName::from_static("x-worker-id"),
    HeaderName::from_static("x-job-id"),
    HeaderName::from_static("x-database-id"),
];

type Callback = Request<Full<Bytes>>;

/// The callback of a request with these headers; its URL is absolute.
fn callback(headers: &HeaderMap) -> Result<Callback> {
    let Some(url) = headers.get("x-callback-url") else { bail!("a request without X-Callback-Url") };
    let mut callback = Request::post(url.to_str()?).body(Full::new(Bytes::from_static(b"{}")))?;
    callback.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for name in ECHOED {
        if let Some(value) = headers.get(&name) {
            callback.headers_mut().insert(name, value.clone());
        }
    }
    Ok(callback)
}

type Connection = (Authority, SendRequest<Full<Bytes>>);

/// Posts a callback over the connection that is kept, or over a new one.
async fn post(kept: &mut Option<Connection>, mut callback: Callback) -> Result<()> {
    let Some(authority) = callback.uri().authority().cloned() else { bail!("X-Callback-Url is not absolute") };
    let reusable = kept.take().filter(|(of, sender)| *of == authority && !sender.is_closed());
    let mut sender = match reusable {
        Some((_, sender)) => sender,
        None => {
            let stream = TcpStream::connect(authority.as_str()).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::task::spawn_local(connection);
            sender
        }
    };
    callback.headers_mut().insert(HOST, HeaderValue::from_str(authority.as_str())?);
    // HTTP/1.1 has the path alone in its first line.
    *callback.uri_mut() = callback.uri().path_and_query().map_or("/", PathAndQuery::as_str).parse()?;
    sender.ready().await?;
    let answer = sender.send_request(callback).await?;
    let status = answer.status();
    // Read to its end, so that the connection can be used again.
    let body = answer.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        bail!("the callback server answered {status}: {}", String::from_utf8_lossy(&body));
    }
    *kept = Some((authority, sender));
    Ok(())
}

/// Posts callbacks one after the other, each once more over a new connection when it fails.
async fn post_all(waiting: Receiver<Callback>) {
    let mut kept = None;
    while let Ok(callback) = waiting.recv().await {
        if post(&mut kept, callback.clone()).await.is_err()
            && let Err(error) = post(&mut kept, callback).await
        {
            eprintln!("callback: {error:#}");
        }
    }
}

/// Starts what posts the callbacks; returns where they are put.
fn start_callbacks() -> Sender<Callback> {
    let (sender, waiting) = async_channel::unbounded();
    for _ in 0..CONNECTIONS {
        tokio::task::spawn_local(post_all(waiting.clone()));
    }
    sender
}

/// How requests are answered.
#[derive(Clone)]
enum Mode {
    Answer,
    CallBack(Sender<Callback>),
    Down(Rc<Down>),
}

/// A function that is down from its first request on, for some time.
struct Down {
    time: Duration,
    requests: Cell<u64>,
    is_back: Cell<bool>,
}

impl Down {
    /// Counts a request; whether it is to be refused.
    fn refuses(self: &Rc<Self>) -> bool {
        self.requests.set(self.requests.get() + 1);
        if self.requests.get() == 1 {
            let down = self.clone();
            tokio::task::spawn_local(async move {
                tokio::time::sleep(down.time).await;
                down.is_back.set(true);
                println!("requests {}", down.requests.get());
            });
        }
        !self.is_back.get()
    }
}

async fn answer(request: Request<Incoming>, mode: Mode) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    // The payload is read, as any function would.
    let whole = body.collect().await.is_ok();
    let is_down = matches!(&mode, Mode::Down(down) if down.refuses());
    let text = match mode {
        Mode::Down(_) if is_down => &b"{}"[..],
        Mode::Answer | Mode::Down(_) => &br#"{"complete":true}"#[..],
        Mode::CallBack(callbacks) => {
            match callback(&head.headers) {
                // They are received for as long as this process lives.
                Ok(callback) => drop(callbacks.try_send(callback)),
                Err(error) => eprintln!("callback: {error:#}"),
            }
            b"{}"
        }
    };
    let mut response = Response::new(Full::new(Bytes::from_static(text)));
    if is_down {
        *response.status_mut() = hyper::StatusCode::SERVICE_UNAVAILABLE;
    } else if !whole {
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

async fn serve() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mode = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["answer"] => Mode::Answer,
        ["callback"] => Mode::CallBack(start_callbacks()),
        ["down", seconds] => Mode::Down(Rc::new(Down {
            time: Duration::from_secs(seconds.parse()?),
            requests: Cell::new(0),
            is_back: Cell::new(false),
        })),
        _ => bail!("usage: function answer|callback|down SECONDS"),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let mode = mode.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| answer(request, mode.clone()));
            // A worker that stops cuts its connections; that is no error of ours.
            let _ = auto::Builder::new(Here).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    tokio::task::LocalSet::new().run_until(serve()).await
}
