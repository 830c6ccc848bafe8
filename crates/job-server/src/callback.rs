//! Callback: a function says how its job ended, or that it needs more time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use job_utils::db::{CallbackDb, SettleError, Settled};
use job_utils::shutdown::Shutdown;
use job_utils::wire::callback::{Attempt, Malformed, read_attempt, read_extension, read_outcome};
use job_utils::wire::signature::CallbackSecrets;
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
    let Some(attempt) = attempt_of(head, callbacks.secrets.as_ref())? else {
        return Ok(Json("OK").into_response());
    };
    let outcome = read_outcome(&head.headers, &body)?;
    let failure = outcome.message().map(str::to_owned);
    if failure.as_deref().is_some_and(is_wordless) {
        tokio::select! {
            () = tokio::time::sleep(WORDLESS_HOLD) => {}
            // There may be no time left later.
            () = callbacks.stopping.triggered() => {}
        }
    }
    let Attempt { id, worker_id, .. } = attempt;
    let stored = callbacks.db.settle(worker_id, id, attempt.claim.epoch, outcome);
    match tokio::time::timeout(callbacks.store_timeout, stored).await {
        Ok(Ok(Settled::Done)) => match failure {
            Some(error) => tracing::warn!(job.id = id, worker.id = worker_id, error, "job failed by callback"),
            None => tracing::info!(job.id = id, worker.id = worker_id, "job completed by callback"),
        },
        Ok(Ok(Settled::Stale)) => return Ok(stale(&attempt, callbacks)),
        Ok(Err(SettleError::Refused(_))) => return Err(CallbackError::Refused),
        Ok(Err(_)) | Err(_) => return Err(CallbackError::Unavailable),
    }
    Ok(taken(&attempt))
}

async fn extend_claim(callbacks: &Callbacks, head: &Parts, body: Body) -> Result<Response, CallbackError> {
    let body = arrived(body).await?;
    let attempt = attempt_of(head, callbacks.secrets.as_ref())?.ok_or(CallbackError::NoJobId)?;
    let asked = read_extension(&body).map_err(Malformed::from)?;
    let extension = asked.unwrap_or(callbacks.callback_timeout);
    let extended = callbacks.db.extend(attempt.worker_id, attempt.id, attempt.claim.epoch, extension);
    match tokio::time::timeout(callbacks.store_timeout, extended).await {
        Ok(Ok(Settled::Done)) => Ok(taken(&attempt)),
        Ok(Ok(Settled::Stale)) => Ok(stale(&attempt, callbacks)),
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

/// Which attempt a request is for; None without `X-Job-Id`. With secrets, only what a worker has signed is taken.
fn attempt_of<'a>(head: &'a Parts, secrets: Option<&CallbackSecrets>) -> Result<Option<Attempt<'a>>, CallbackError> {
    let attempt = read_attempt(&head.headers, head.uri.query().unwrap_or_default())?;
    if let (Some(Attempt { id, worker_id, claim, .. }), Some(secrets)) = (&attempt, secrets)
        && !secrets.verify(*id, worker_id, claim)
    {
        return Err(CallbackError::Unsigned);
    }
    Ok(attempt)
}

fn taken(attempt: &Attempt<'_>) -> Response {
    Json(Stored { job_id: attempt.job_id, worker_id: attempt.worker_id, stale: false }).into_response()
}

/// The attempt has ended before, or the job was claimed anew: not an error, and nothing was changed.
fn stale(attempt: &Attempt<'_>, callbacks: &Callbacks) -> Response {
    let total = callbacks.stale.fetch_add(1, Ordering::Relaxed) + 1;
    // Not worth a line as a rule: functions that say all in their answer call back as well.
    tracing::debug!(
        job.id = attempt.id,
        worker.id = attempt.worker_id,
        stale = total,
        "stale callback changed nothing"
    );
    Json(Stored { job_id: attempt.job_id, worker_id: attempt.worker_id, stale: true }).into_response()
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

/// Reads a body up to the limit. What comes after is read and thrown away, so that the caller gets to read the answer
/// instead of a reset connection, but not without end. A body that came in one piece, as most do, is not copied.
async fn read_body(body: Body) -> Result<Bytes, CallbackError> {
    let mut chunks = body.into_data_stream();
    let (mut kept, mut pieces, mut seen) = (Bytes::new(), Vec::new(), 0);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| CallbackError::BrokenOff(error.to_string()))?;
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
