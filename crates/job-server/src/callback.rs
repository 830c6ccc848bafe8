//! Callback: a function says how its job ended, or that it needs more time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use job_utils::db::{CallbackDb, SettleError, Settled};
use job_utils::shutdown::Shutdown;
use job_utils::wire::callback::{is_json, read, read_extension};
use job_utils::wire::headers::{X_JOB_ERROR, X_JOB_ID, X_WORKER_ID};
use job_utils::wire::signature::{CallbackClaim, CallbackSecrets};
use serde::Serialize;

use crate::error::CallbackError;

/// The largest callback body: ten times what the original takes.
const BODY_LIMIT: usize = 1 << 20;

/// Where reading a body that is too large ends.
const DISCARD_LIMIT: usize = 64 << 20;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a failure without words waits for one with words. A function that answers 400 with `{"error": "…"}` calls
/// back at the same moment with no more than `HTTP 400` (knative-job-fn does, and so does job-fn); its answer, which the
/// worker settles, is what a person wants to read. The job is tried again after seconds at the earliest, so nobody waits
/// for this; a function under a worker that does not read answers still has its failure stored.
const WORDLESS_HOLD: Duration = Duration::from_secs(1);

/// What the route needs.
pub(crate) struct Callbacks {
    pub(crate) db: CallbackDb,
    /// With it, callbacks must be signed.
    pub(crate) secrets: Option<CallbackSecrets>,
    /// How much time a function gets that asks for more and does not say how much.
    pub(crate) callback_timeout: Duration,
    /// How long a request waits for its outcome to be stored.
    pub(crate) store_timeout: Duration,
    /// Callbacks that came too late or twice.
    pub(crate) stale: Arc<AtomicU64>,
    /// The server is told to stop.
    pub(crate) stopping: Shutdown,
    /// The server is about to end.
    pub(crate) ending: Shutdown,
}

/// `POST /callback`. Without `X-Job-Id` it is a health probe of an existing set-up. What still waits when the server ends
/// is told so rather than cut off; its outcome may be stored all the same, which does no harm.
pub(crate) async fn callback(
    State(callbacks): State<Arc<Callbacks>>,
    request: Request,
) -> Result<Response, CallbackError> {
    let (head, body) = request.into_parts();
    tokio::select! {
        biased;
        answer = settle(&callbacks, &head, body) => answer,
        () = callbacks.ending.triggered() => Err(CallbackError::Unavailable),
    }
}

/// `POST /callback/extend`: the function is still at it. The body may say for how many seconds from now the callback is to
/// be waited for at least.
pub(crate) async fn extend(
    State(callbacks): State<Arc<Callbacks>>,
    request: Request,
) -> Result<Response, CallbackError> {
    let (head, body) = request.into_parts();
    tokio::select! {
        biased;
        answer = extend_claim(&callbacks, &head, body) => answer,
        () = callbacks.ending.triggered() => Err(CallbackError::Unavailable),
    }
}

async fn settle(callbacks: &Callbacks, head: &Parts, body: Body) -> Result<Response, CallbackError> {
    let body = arrived(body).await?;
    let Some(attempt) = Attempt::of(head, callbacks.secrets.as_ref())? else {
        return Ok(Json("OK").into_response());
    };
    let headers = &head.headers;
    let job_error = headers.get(X_JOB_ERROR).is_some_and(|value| value.as_bytes() == b"true");
    let outcome =
        read(job_error, has_json(headers), &body).map_err(|error| CallbackError::BadBody(error.to_string()))?;
    let failure = outcome.message().map(str::to_owned);
    if failure.as_deref().is_some_and(is_wordless) {
        tokio::select! {
            () = tokio::time::sleep(WORDLESS_HOLD) => {}
            // There may be no time left later.
            () = callbacks.stopping.triggered() => {}
        }
    }
    let Attempt { id, worker_id, epoch, .. } = attempt;
    let stored = callbacks.db.settle(worker_id, id, epoch, outcome);
    match tokio::time::timeout(callbacks.store_timeout, stored).await {
        Ok(Ok(Settled::Done)) => match failure {
            Some(error) => tracing::warn!(job.id = id, worker.id = worker_id, error, "job failed by callback"),
            None => tracing::info!(job.id = id, worker.id = worker_id, "job completed by callback"),
        },
        Ok(Ok(Settled::Stale)) => return Ok(attempt.stale(callbacks)),
        Ok(Err(SettleError::Refused(_))) => return Err(CallbackError::Refused),
        Ok(Err(SettleError::Stopped)) | Err(_) => return Err(CallbackError::Unavailable),
    }
    Ok(attempt.taken())
}

async fn extend_claim(callbacks: &Callbacks, head: &Parts, body: Body) -> Result<Response, CallbackError> {
    let body = arrived(body).await?;
    let attempt = Attempt::of(head, callbacks.secrets.as_ref())?.ok_or(CallbackError::NoJobId)?;
    let extension = read_extension(has_json(&head.headers), &body)
        .map_err(|error| CallbackError::BadBody(error.to_string()))?
        .unwrap_or(callbacks.callback_timeout);
    let extended = callbacks.db.extend(attempt.worker_id, attempt.id, attempt.epoch, extension);
    match tokio::time::timeout(callbacks.store_timeout, extended).await {
        Ok(Ok(Settled::Done)) => Ok(attempt.taken()),
        Ok(Ok(Settled::Stale)) => Ok(attempt.stale(callbacks)),
        Ok(Err(error)) => {
            tracing::error!(job.id = attempt.id, "extension refused: {}", job_utils::error::chain(&error));
            Err(CallbackError::Refused)
        }
        Err(_) => Err(CallbackError::Unavailable),
    }
}

/// The whole body. Before anything is answered: an answer before its end would close the connection under a slow writer.
async fn arrived(body: Body) -> Result<Bytes, CallbackError> {
    tokio::time::timeout(BODY_TIMEOUT, read_body(body)).await.map_err(|_| CallbackError::TooSlow)?
}

fn has_json(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(is_json)
}

/// Which attempt a callback is for.
struct Attempt<'a> {
    id: i64,
    job_id: &'a str,
    worker_id: &'a str,
    epoch: Option<i64>,
}

impl<'a> Attempt<'a> {
    /// None without `X-Job-Id`. With secrets, only what a worker has signed is taken.
    fn of(head: &'a Parts, secrets: Option<&CallbackSecrets>) -> Result<Option<Self>, CallbackError> {
        let Some(job_id) = head.headers.get(X_JOB_ID) else { return Ok(None) };
        let job_id = job_id.to_str().map_err(|_| CallbackError::BadJobId)?;
        let id = parse_job_id(job_id).ok_or(CallbackError::BadJobId)?;
        let worker_id = head.headers.get(X_WORKER_ID).ok_or(CallbackError::NoWorkerId)?;
        let worker_id = worker_id.to_str().map_err(|_| CallbackError::BadWorkerId)?;
        if worker_id.is_empty() {
            return Err(CallbackError::NoWorkerId);
        }
        if worker_id.chars().count() < 4 {
            return Err(CallbackError::BadWorkerId);
        }
        let claim = CallbackClaim::read(head.uri.query().unwrap_or_default())?;
        if secrets.is_some_and(|secrets| !secrets.verify(id, worker_id, &claim)) {
            return Err(CallbackError::Unsigned);
        }
        Ok(Some(Self { id, job_id, worker_id, epoch: claim.epoch }))
    }

    fn taken(&self) -> Response {
        Json(Stored { job_id: self.job_id, worker_id: self.worker_id, stale: false }).into_response()
    }

    /// The attempt has ended before, or the job was claimed anew: not an error, and nothing was changed.
    fn stale(&self, callbacks: &Callbacks) -> Response {
        let total = callbacks.stale.fetch_add(1, Ordering::Relaxed) + 1;
        // Not worth a line as a rule: functions that say all in their answer call back as well.
        tracing::debug!(job.id = self.id, worker.id = self.worker_id, stale = total, "stale callback changed nothing");
        Json(Stored { job_id: self.job_id, worker_id: self.worker_id, stale: true }).into_response()
    }
}

/// The answer to a callback that was taken.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Stored<'a> {
    job_id: &'a str,
    worker_id: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stale: bool,
}

/// `HTTP` and a status: all that a function's framework knows of an error answer.
fn is_wordless(error: &str) -> bool {
    error.strip_prefix("HTTP ").is_some_and(|status| status.len() == 3 && status.bytes().all(|b| b.is_ascii_digit()))
}

/// A decimal bigint without sign, as the dispatch wrote it.
fn parse_job_id(text: &str) -> Option<i64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Reads a body up to the limit. What comes after is read and thrown away, so that the caller gets to read the answer
/// instead of a reset connection, but not without end. A body that came in one piece, as most do, is not copied.
async fn read_body(body: Body) -> Result<Bytes, CallbackError> {
    let mut chunks = body.into_data_stream();
    let (mut kept, mut pieces, mut seen) = (Bytes::new(), Vec::new(), 0);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| CallbackError::BadBody(error.to_string()))?;
        seen += chunk.len();
        if seen > DISCARD_LIMIT {
            break;
        }
        if seen > BODY_LIMIT {
            continue;
        }
        if kept.is_empty() && pieces.is_empty() {
            kept = chunk;
        } else {
            pieces.extend_from_slice(&std::mem::take(&mut kept));
            pieces.extend_from_slice(&chunk);
        }
    }
    if seen > BODY_LIMIT {
        return Err(CallbackError::TooLarge(BODY_LIMIT));
    }
    Ok(if pieces.is_empty() { kept } else { pieces.into() })
}
