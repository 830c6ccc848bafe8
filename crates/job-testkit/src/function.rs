//! A fake function: a real HTTP server whose answers a test decides, and which remembers what it was sent.

pub mod raw;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::wait;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// GET, POST and so on, in upper case.
    pub method: String,
    /// Path and query as they were on the wire, nothing decoded.
    pub target: String,
    /// Names in lower case, in the order of arrival.
    pub headers: HeaderMap,
    /// All of the body, without its transfer coding.
    pub body: Bytes,
    /// When the request was complete.
    pub at: Instant,
    /// The client's address: equal ones came over one connection.
    pub peer: SocketAddr,
}

impl Recorded {
    /// A header as text, None when there is none (or it is not text).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }

    /// Reports success to X-Callback-Url, as knative-job-fn does. Returns status and body of the answer.
    pub async fn call_back(&self) -> (u16, String) {
        self.callback(None, serde_json::json!({"status": "success"})).await
    }

    /// Reports a failure to X-Callback-Url, as knative-job-fn does.
    pub async fn call_back_error(&self, message: &str) -> (u16, String) {
        self.callback(Some("true"), serde_json::json!({"status": "error", "error": message})).await
    }

    /// Posts any body to X-Callback-Url, with X-Job-Error when it is given.
    pub async fn callback(&self, job_error: Option<&str>, body: Value) -> (u16, String) {
        let url = self.header("x-callback-url").unwrap_or_else(|| panic!("no X-Callback-Url: {:?}", self.headers));
        let mut request = reqwest::Client::new().post(url).json(&body);
        for name in ["x-worker-id", "x-job-id", "x-database-id"] {
            if let Some(value) = self.headers.get(name) {
                request = request.header(name, value);
            }
        }
        if let Some(value) = job_error {
            request = request.header("x-job-error", value);
        }
        let answer = request.send().await.unwrap_or_else(|error| panic!("the callback to {url} failed: {error:?}"));
        let status = answer.status().as_u16();
        (status, answer.text().await.unwrap_or_else(|error| panic!("the callback's answer broke off: {error}")))
    }
}

/// What the fake function answers.
#[derive(Debug, Clone)]
pub struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    /// `{"complete": true}` with 200.
    pub fn complete() -> Self {
        Self::json(200, &serde_json::json!({"complete": true}))
    }

    /// 200 with a body that says nothing about completion: the job is accepted.
    pub fn accepted() -> Self {
        Self::json(200, &serde_json::json!({"accepted": true}))
    }

    /// A status without a body.
    pub fn status(status: u16) -> Self {
        Self::text(status, "")
    }

    /// A status with a plain text.
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or_else(|_| panic!("{status} is not an HTTP status"));
        Self { status, headers: HeaderMap::new(), body: Bytes::from(body.into()) }
    }

    /// A status with a JSON body.
    pub fn json(status: u16, body: &Value) -> Self {
        Self::text(status, body.to_string()).header(header::CONTENT_TYPE.as_str(), "application/json")
    }

    /// The same with one more header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().unwrap_or_else(|_| panic!("{name:?} is not a header's name"));
        let value = HeaderValue::from_str(value).unwrap_or_else(|_| panic!("{value:?} is not a header's value"));
        self.headers.append(name, value);
        self
    }
}

type Reply = dyn Fn(Recorded) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync;

/// A running fake function on 127.0.0.1. Dropping it cuts its connections.
#[derive(Debug)]
pub struct FakeFunction {
    address: SocketAddr,
    requests: Requests,
    /// A runtime of its own: it ends with everything on it, connections that are kept alive too, and a test's thread
    /// that is busy doesn't keep the function from answering.
    runtime: Option<Runtime>,
    listening: Option<JoinHandle<()>>,
}

#[derive(Debug, Clone, Default)]
struct Requests(Arc<Mutex<Vec<Recorded>>>);

impl Requests {
    fn get(&self) -> MutexGuard<'_, Vec<Recorded>> {
        // A list of requests is whole at any time, also after a panic in a test's closure.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FakeFunction {
    /// A function on a free port that answers every request, whatever its method and path, as `reply` says. The request
    /// is recorded before `reply` is called.
    ///
    /// ```
    /// use job_testkit::{Answer, FakeFunction};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let function = FakeFunction::start(async |request| Answer::text(200, request.target)).await;
    /// assert_eq!(function.requests().len(), 0);
    /// # }
    /// ```
    pub async fn start<F, Fut>(reply: F) -> Self
    where
        F: Fn(Recorded) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), reply).await
    }

    /// A function that gives every request the same answer.
    pub async fn answering(answer: Answer) -> Self {
        Self::start(move |_| std::future::ready(answer.clone())).await
    }

    /// One that gives the same answer to every request; for the targets that `waits` says not before the gate is
    /// passed.
    pub async fn waiting(gate: &Gate, waits: impl Fn(&str) -> bool + Send + Sync + 'static, answer: Answer) -> Self {
        let gate = gate.clone();
        Self::start(move |request| {
            let (gate, answer, waits) = (gate.clone(), answer.clone(), waits(&request.target));
            async move {
                if waits {
                    gate.passed().await;
                }
                answer
            }
        })
        .await
    }

    /// A function at a given address, such as the one of a function that was stopped.
    pub async fn start_at<F, Fut>(address: SocketAddr, reply: F) -> Self
    where
        F: Fn(Recorded) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap_or_else(|error| panic!("no runtime for a fake function: {error}"));
        let requests = Requests::default();
        let recorder = requests.clone();
        let reply: Arc<Reply> = Arc::new(move |request| Box::pin(reply(request)));
        let app = Router::new().fallback(move |request: Request| serve(recorder.clone(), reply.clone(), request));
        let (bound, listener) = oneshot::channel();
        let listening = runtime.spawn(async move {
            let listener = match TcpListener::bind(address).await {
                Ok(listener) => listener,
                Err(error) => return drop(bound.send(Err(error))),
            };
            let _ = bound.send(listener.local_addr());
            let server = axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>());
            if let Err(error) = server.await {
                eprintln!("the fake function ended: {error}");
            }
        });
        let address = match listener.await {
            Ok(Ok(address)) => address,
            Ok(Err(error)) => panic!("cannot listen on {address}: {error}"),
            Err(_) => panic!("the fake function ended before it listened on {address}"),
        };
        Self { address, requests, runtime: Some(runtime), listening: Some(listening) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:<port>`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was received so far.
    pub fn requests(&self) -> Vec<Recorded> {
        self.requests.get().clone()
    }

    /// Waits until at least `count` requests were received, and returns all.
    pub async fn wait_for(&self, count: usize, limit: Duration) -> Vec<Recorded> {
        match wait::try_poll(limit, async || (self.requests.get().len() >= count).then_some(())).await {
            Ok(()) => self.requests(),
            Err(_) => panic!("{} of {count} requests arrived within {limit:?}", self.requests.get().len()),
        }
    }

    /// Closes the port and cuts every connection: new ones are refused from now on. Returns the address for
    /// [`FakeFunction::start_at`].
    pub async fn stop(mut self) -> SocketAddr {
        if let Some(listening) = self.listening.take() {
            listening.abort();
            // The port is closed when the task is over.
            let _ = listening.await;
        }
        self.address
    }
}

impl Drop for FakeFunction {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(requests: Requests, reply: Arc<Reply>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = match axum::body::to_bytes(body, usize::MAX).await {
        Ok(body) => body,
        Err(error) => {
            eprintln!("a request broke off: {error}");
            return Response::new(Body::empty());
        }
    };
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let recorded = Recorded {
        method: parts.method.to_string(),
        target: parts.uri.path_and_query().map_or_else(String::new, ToString::to_string),
        headers: parts.headers,
        body,
        at: Instant::now(),
        peer: peer.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0))),
    };
    requests.get().push(recorded.clone());
    let answer = reply(recorded).await;
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}

/// A gate that a test opens: a fake function that waits at it answers when the test says so.
#[derive(Debug, Clone)]
pub struct Gate(watch::Sender<bool>);

impl Gate {
    /// A closed gate. Clones are the same gate.
    pub fn closed() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Lets everybody through, now and later.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until the gate is open.
    pub async fn passed(&self) {
        // The sender lives in self, so waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}
