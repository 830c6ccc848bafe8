//! Callback: a function says how its job ended.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use job_utils::db::{CallbackDb, SettleError, Settled};
use job_utils::shutdown::Shutdown;
use job_utils::wire::callback::{Outcome, is_json, read};
use job_utils::wire::headers::{X_JOB_ERROR, X_JOB_ID, X_WORKER_ID};
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
    /// How long a request waits for its outcome to be stored.
    pub(crate) store_timeout: Duration,
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
        answer = take(&callbacks, &head.headers, body) => answer,
        () = callbacks.ending.triggered() => Err(CallbackError::Unavailable),
    }
}

async fn take(callbacks: &Callbacks, headers: &HeaderMap, body: Body) -> Result<Response, CallbackError> {
    // Read first: an answer before the end of the body would close the connection under a slow writer.
    let body = tokio::time::timeout(BODY_TIMEOUT, read_body(body)).await.map_err(|_| CallbackError::TooSlow)??;
    let Some(job_id) = headers.get(X_JOB_ID) else {
        return Ok(Json("OK").into_response());
    };
    let job_id = job_id.to_str().map_err(|_| CallbackError::BadJobId)?;
    let id = parse_job_id(job_id).ok_or(CallbackError::BadJobId)?;
    let worker_id = headers.get(X_WORKER_ID).ok_or(CallbackError::NoWorkerId)?;
    let worker_id = worker_id.to_str().map_err(|_| CallbackError::BadWorkerId)?;
    if worker_id.is_empty() {
        return Err(CallbackError::NoWorkerId);
    }
    if worker_id.chars().count() < 4 {
        return Err(CallbackError::BadWorkerId);
    }
    let job_error = headers.get(X_JOB_ERROR).is_some_and(|value| value.as_bytes() == b"true");
    let json = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(is_json);
    let outcome = read(job_error, json, &body).map_err(|error| CallbackError::BadBody(error.to_string()))?;

    let failure = match &outcome {
        Outcome::Fail(message) => Some(message.clone()),
        Outcome::Complete => None,
    };
    if failure.as_deref().is_some_and(is_wordless) {
        tokio::select! {
            () = tokio::time::sleep(WORDLESS_HOLD) => {}
            // There may be no time left later.
            () = callbacks.stopping.triggered() => {}
        }
    }
    let stored = callbacks.db.settle(worker_id, id, outcome);
    match tokio::time::timeout(callbacks.store_timeout, stored).await {
        Ok(Ok(Settled::Done)) => match failure {
            Some(error) => tracing::warn!(job.id = id, worker.id = worker_id, error, "job failed by callback"),
            None => tracing::info!(job.id = id, worker.id = worker_id, "job completed by callback"),
        },
        // A duplicate callback is not an error, and neither is one for a job that another worker holds now.
        Ok(Ok(Settled::Stale)) => {
            tracing::debug!(job.id = id, worker.id = worker_id, "callback changed nothing");
        }
        Ok(Err(SettleError::Refused(_))) => return Err(CallbackError::Refused),
        Ok(Err(SettleError::Stopped)) | Err(_) => return Err(CallbackError::Unavailable),
    }
    Ok(Json(Stored { job_id, worker_id }).into_response())
}

/// The answer to a callback that was taken.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Stored<'a> {
    job_id: &'a str,
    worker_id: &'a str,
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
