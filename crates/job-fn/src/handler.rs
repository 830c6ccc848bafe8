//! One request: the payload in, the handler run, the answer out, the callback after it.

use std::any::Any;
use std::error::Error;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::rejection::JsonRejection;
use axum::extract::{Request, State};
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use job_utils::http_server::{BodyBudget, BodyError, Received};
use job_utils::outcome::Outcome;
use job_utils::shutdown::Shutdown;
use job_utils::telemetry::{LogLimit, milliseconds};
use job_utils::wire::headers::{X_JOB_ERROR, X_JOB_RETRY};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::callback::{Callback, Caller, Extension};
use crate::context::Context;
use crate::error::FunctionError;
use crate::headers::echo;
use crate::origins::CallbackOrigins;

/// The longest payload.
pub(crate) const BODY_LIMIT: usize = 64 * 1024 * 1024;

/// How long a payload may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(120);

/// In how many seconds to send a payload again for which there was no room.
const NO_ROOM_RETRY: u32 = 10;

/// A handler with its payload type hidden: JSON in, JSON out.
pub(crate) type Erased =
    Arc<dyn Fn(Context, Received) -> BoxFuture<'static, Result<Vec<u8>, FunctionError>> + Send + Sync>;

/// What every request needs.
pub(crate) struct Shared {
    pub(crate) handler: Erased,
    pub(crate) caller: Caller,
    /// Where it may call back; None: anywhere.
    pub(crate) origins: Option<CallbackOrigins>,
    pub(crate) refusals: LogLimit,
    /// Memory for payloads.
    pub(crate) bodies: BodyBudget,
    /// Handlers and callbacks under way.
    pub(crate) tasks: TaskTracker,
    /// Triggered when they are no longer waited for.
    pub(crate) abort: Shutdown,
}

pub(crate) fn erase<H, P, F, R, E>(handler: H) -> Erased
where
    H: Fn(Context, P) -> F + Send + Sync + 'static,
    P: DeserializeOwned + Send + 'static,
    F: Future<Output = Result<R, E>> + Send + 'static,
    R: Serialize,
    E: Into<FunctionError>,
{
    let handler = Arc::new(handler);
    Arc::new(move |context, body| {
        let handler = Arc::clone(&handler);
        async move {
            let payload = payload(&body.bytes)?;
            drop(body);
            let value = handler(context, payload).await.map_err(Into::into)?;
            let mut bytes = serde_json::to_vec(&value)?;
            // A handler that returns `()` has nothing to say but that it is done.
            if bytes == b"null" {
                bytes = br#"{"complete":true}"#.to_vec();
            }
            Ok(bytes)
        }
        .boxed()
    })
}

fn payload<P: DeserializeOwned>(body: &[u8]) -> Result<P, FunctionError> {
    let rejection = match Json::<P>::from_bytes(body) {
        Ok(Json(payload)) => return Ok(payload),
        Err(rejection) => rejection,
    };
    let what = match rejection {
        JsonRejection::JsonDataError(_) => "the payload does not fit",
        _ => "the body is not JSON",
    };
    // The cause names the field; axum's own words around it do not help.
    let cause = rejection.source().map_or_else(|| rejection.body_text(), ToString::to_string);
    Err(FunctionError::thrown(format!("{what}: {cause}")))
}

pub(crate) async fn receive(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/healthz") => return Json(json!({ "status": "ok" })).into_response(),
        (&Method::POST, _) => {}
        _ => {
            let error = json!({ "error": "POST a job's payload as JSON" });
            return (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "POST")], Json(error)).into_response();
        }
    }
    let headers = request.headers().clone();
    let body = read(&shared.bodies, request).await;
    let (answer, answered) = oneshot::channel();
    // A task of its own: a caller that hangs up must not stop a handler half-way, nor its callback.
    let job = run(Arc::clone(&shared), headers, body, answer);
    let abort = shared.abort.clone();
    shared.tasks.spawn(async move {
        tokio::select! {
            () = job => {}
            () = abort.triggered() => {}
        }
    });
    answered.await.unwrap_or_else(|_| {
        let error = json!({ "error": "the function is stopping" });
        (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], Json(error)).into_response()
    })
}

async fn read(bodies: &BodyBudget, request: Request) -> Result<Received, FunctionError> {
    let too_long = || FunctionError::status(413, format!("the payload is longer than {BODY_LIMIT} bytes"));
    // An honest Content-Length spares both sides the transfer; a chunked body is stopped at the limit.
    if request.body().size_hint().lower() > BODY_LIMIT as u64 {
        return Err(too_long());
    }
    let read = bodies.read(request.into_body(), BODY_LIMIT, BODY_LIMIT);
    match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(Ok(body)) if body.cut => Err(too_long()),
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error @ BodyError::NoRoom)) => {
            Err(FunctionError { retry_after: Some(NO_ROOM_RETRY), ..FunctionError::status(429, error.to_string()) })
        }
        Ok(Err(error)) => Err(FunctionError::status(400, error.to_string())),
        Err(_) => Err(FunctionError::status(408, "the payload took too long to arrive")),
    }
}

async fn run(
    shared: Arc<Shared>,
    headers: HeaderMap,
    body: Result<Received, FunctionError>,
    answer: oneshot::Sender<Response>,
) {
    let started = Instant::now();
    let mut context = Context::from_headers(&headers);
    let callback = match Callback::from_headers(&headers, shared.origins.as_ref()) {
        Ok(callback) => callback.map(Arc::new),
        Err(refused) => {
            if let Some(left_out) = shared.refusals.pass() {
                tracing::warn!(job.id = context.job_id, left_out, "the job is not run: {refused}");
            }
            let (guard, _) = oneshot::channel();
            let _ = answer.send(response(Err(FunctionError::status(403, refused.to_string())), &headers, guard));
            return;
        }
    };
    // Nothing of the job was looked at: the answer says when to send it again, and a callback would end its attempt.
    let body = match body {
        Err(error) if error.retry_after.is_some() => {
            if let Some(left_out) = shared.refusals.pass() {
                tracing::warn!(job.id = context.job_id, left_out, "the job is not run: {error}");
            }
            let (guard, _) = oneshot::channel();
            let _ = answer.send(response(Err(error), &headers, guard));
            return;
        }
        body => body,
    };
    context.extension = callback.clone().map(|callback| Extension::new(shared.caller.client(), callback));
    let job_id = context.job_id.clone();
    let result = match body {
        Ok(body) => AssertUnwindSafe((shared.handler)(context, body)).catch_unwind().await.unwrap_or_else(panicked),
        Err(error) => Err(error),
    };
    let duration_ms = milliseconds(started.elapsed());
    let job_id = job_id.as_deref();
    match &result {
        Ok(_) => tracing::debug!(job.id = job_id, duration_ms, "the handler succeeded"),
        Err(error) => tracing::warn!(job.id = job_id, duration_ms, %error, "the handler failed"),
    }
    let outcome = match &result {
        Ok(_) => Outcome::Complete,
        Err(error) if error.discard => Outcome::Discard { error: error.reported().into_owned() },
        Err(error) => Outcome::Retry { error: error.reported().into_owned(), after: None },
    };
    let (guard, on_the_wire) = oneshot::channel();
    // When nobody waits for the answer any more, it is dropped here, and the guard with it.
    let _ = answer.send(response(result, &headers, guard));
    if let Some(callback) = callback {
        let _ = on_the_wire.await;
        shared.caller.report(&callback, &outcome).await;
    }
}

fn panicked(panic: Box<dyn Any + Send>) -> Result<Vec<u8>, FunctionError> {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Err(FunctionError::thrown(format!("the function panicked: {}", text.unwrap_or("no message"))))
}

/// An answer's bytes, and what is dropped with them once the server has written them.
struct Written {
    bytes: Vec<u8>,
    _guard: oneshot::Sender<()>,
}

impl AsRef<[u8]> for Written {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn response(result: Result<Vec<u8>, FunctionError>, request: &HeaderMap, guard: oneshot::Sender<()>) -> Response {
    let discard = result.as_ref().is_err_and(|error| error.discard);
    let retry_after = result.as_ref().err().and_then(|error| error.retry_after);
    let (status, thrown, bytes) = match result {
        Ok(bytes) => (StatusCode::OK, false, bytes),
        Err(FunctionError { status: Some(status), message, .. }) => {
            (status, false, json!({ "error": message }).to_string().into_bytes())
        }
        Err(FunctionError { status: None, message, .. }) => {
            (StatusCode::OK, true, json!({ "message": message }).to_string().into_bytes())
        }
    };
    let mut response = Response::new(Body::from(Bytes::from_owner(Written { bytes, _guard: guard })));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if thrown {
        headers.insert(X_JOB_ERROR, HeaderValue::from_static("true"));
    }
    if discard {
        headers.insert(X_JOB_RETRY, HeaderValue::from_static("false"));
    }
    if let Some(seconds) = retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    echo(request, headers);
    response
}
