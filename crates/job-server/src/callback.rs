//! Callback: a function says how its job ended, or that it needs more time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::EXPECT;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use axum::response::{IntoResponse, Response};
use job_pg::{CallbackDb, SettleError, Settled};
use job_utils::events::{Attempt, Event, Events, Source};
use job_utils::http_server::{BodyBudget, Newcomers, Received, discard};
use job_utils::outcome::Outcome;
use job_utils::shutdown::Shutdown;
use job_utils::telemetry::LogLimit;
use job_utils::wire::callback::{
    LARGEST_BODY, LARGEST_EXTENSION, Malformed, NamedAttempt, Route, read_attempt, read_extension, read_outcome,
    says_how_in_body,
};
use job_utils::wire::encoding::is_long_work;
use job_utils::wire::headers::{X_CALLBACK_SERVER, X_JOB_ID};
use job_utils::wire::signature::CallbackSecrets;
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::error::CallbackError;

/// Where reading a body that is too large ends.
const DISCARD_LIMIT: usize = 64 << 20;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the rest of a request that is refused is listened to, so that its sender gets to read why.
const REFUSED_TIMEOUT: Duration = Duration::from_secs(5);

/// How much of a path a log line shows.
const LOGGED_PATH: usize = 100;

/// How long a failure without words waits for one with words. A function that answers 400 with `{"error": "…"}` calls
/// back at the same moment with no more than `HTTP 400` (knative-job-fn does, and so does job-fn); its answer, which
/// the worker settles, is what a person wants to read. The job is tried again after seconds at the earliest, so nobody
/// waits for this; a function under a worker that does not read answers still has its failure stored.
const NO_MESSAGE_DELAY: Duration = Duration::from_secs(1);

/// What the routes need.
pub(crate) struct Callbacks {
    pub(crate) db: CallbackDb,
    /// With it, callbacks must be signed.
    pub(crate) secrets: Option<CallbackSecrets>,
    /// How much time a function gets that asks for more and does not say how much.
    pub(crate) callback_timeout: Duration,
    /// How long a request waits for its outcome to be stored.
    pub(crate) store_timeout: Duration,
    /// Memory for bodies.
    pub(crate) bodies: BodyBudget,
    /// How many bodies that take their time may be read at once.
    pub(crate) reading: Arc<Semaphore>,
    /// Which server this is.
    pub(crate) identity: String,
    /// Who is told.
    pub(crate) told: Arc<Told>,
    /// Callbacks that were refused.
    pub(crate) refused: AtomicU64,
    pub(crate) refusals: LogLimit,
    /// The server is told to stop.
    pub(crate) stopping: Shutdown,
    /// The server is about to end.
    pub(crate) ending: Shutdown,
}

/// Who is told of what callbacks have done. The settler tells of an outcome, as its sender may have gone by then.
pub(crate) struct Told {
    events: Events,
    /// Callbacks that came too late or twice.
    pub(crate) stale: AtomicU64,
}

impl Told {
    pub(crate) fn new(events: Events) -> Self {
        Self { events, stale: AtomicU64::new(0) }
    }

    /// An outcome is stored, or came too late.
    pub(crate) fn ended(&self, worker_id: &str, job_id: i64, outcome: &Outcome, settled: Settled) {
        if settled == Settled::Stale {
            return self.stale(worker_id, job_id);
        }
        let attempt = Attempt::new(Source::Callback, job_id, worker_id);
        self.events.emit(&Event::settled(attempt, outcome));
        self.events.emit(&Event::CallbackSettled(attempt));
    }

    /// The attempt has ended before, or the job was claimed anew: not an error, and nothing was changed.
    fn stale(&self, worker_id: &str, job_id: i64) {
        let total = self.stale.fetch_add(1, Ordering::Relaxed) + 1;
        self.events.emit(&Event::CallbackStale { attempt: Attempt::new(Source::Callback, job_id, worker_id), total });
    }
}

/// Any request but a health check. What still waits when the server ends is told so rather than cut off; its outcome
/// may be stored all the same, which does no harm.
pub(crate) async fn receive(
    State(callbacks): State<Arc<Callbacks>>,
    request: Request,
) -> Result<Response, CallbackError> {
    let (head, body) = request.into_parts();
    let answer = tokio::select! {
        biased;
        answer = answer(&callbacks, &head, body) => answer,
        () = callbacks.ending.triggered() => Err(CallbackError::Unavailable),
    };
    if let Err(error) = &answer {
        callbacks.refused(&head, error);
    }
    answer
}

async fn answer(callbacks: &Arc<Callbacks>, head: &Parts, body: Body) -> Result<Response, CallbackError> {
    // Before the body: a stranger's is not worth the memory.
    let (route, attempt) = match addressed(callbacks, head) {
        Ok(addressed) => addressed,
        Err(error) => {
            drain_body(head, body).await;
            return Err(error);
        }
    };
    match (route, attempt) {
        (Route::Callback, Some(attempt)) => settle(callbacks, head, &attempt, body).await,
        (Route::Extend, Some(attempt)) => extend(callbacks, head, &attempt, body).await,
        (Route::Extend, None) => {
            drain_body(head, body).await;
            Err(CallbackError::NoJobId)
        }
        // A health probe of an existing set-up, or somebody who asks where the URL leads.
        (Route::Callback, None) => {
            drain_body(head, body).await;
            Ok(([(X_CALLBACK_SERVER, callbacks.identity.clone())], Json("OK")).into_response())
        }
    }
}

/// What a request is for, and for which attempt; None without `X-Job-Id`. With secrets, only what a worker has signed
/// is taken.
fn addressed<'a>(callbacks: &Callbacks, head: &'a Parts) -> Result<(Route, Option<NamedAttempt<'a>>), CallbackError> {
    let route = Route::of(head.uri.path()).ok_or(CallbackError::NoRoute)?;
    if head.method != Method::POST {
        return Err(CallbackError::BadMethod);
    }
    let attempt = read_attempt(&head.headers, head.uri.query().unwrap_or_default())?;
    if let (Some(NamedAttempt { id, worker_id, claim, .. }), Some(secrets)) = (&attempt, &callbacks.secrets)
        && !secrets.verify(*id, worker_id, claim)
    {
        return Err(CallbackError::Unsigned);
    }
    Ok((route, attempt))
}

/// Lets the sender of a request whose body is of no interest write it to its end: an answer before that would close the
/// connection under it. Who asks first whether to send it gets the answer at once.
async fn drain_body(head: &Parts, body: Body) {
    if head.headers.contains_key(EXPECT) {
        return;
    }
    let others_wait = async {
        match head.extensions.get::<Newcomers>() {
            Some(newcomers) => newcomers.waiting().await,
            None => std::future::pending().await,
        }
    };
    // Who is slower, or breaks off, may miss the answer; so may everybody while others wait for a connection.
    tokio::select! {
        _drained = tokio::time::timeout(REFUSED_TIMEOUT, discard(body, LARGEST_BODY)) => {}
        () = others_wait => {}
    }
}

impl Callbacks {
    /// Stores an outcome, which nothing takes back, and waits for that as long as a request may.
    async fn store(
        &self,
        worker_id: &str,
        id: i64,
        epoch: Option<i64>,
        outcome: Outcome,
    ) -> Result<Settled, CallbackError> {
        match tokio::time::timeout(self.store_timeout, self.db.settle(worker_id, id, epoch, outcome)).await {
            Ok(Ok(settled)) => Ok(settled),
            Ok(Err(SettleError::Refused(_))) => Err(CallbackError::Refused),
            Ok(Err(_)) | Err(_) => Err(CallbackError::Unavailable),
        }
    }

    /// A callback that is refused leaves a line: its job waits for hours, and its function may tell nobody.
    fn refused(&self, head: &Parts, error: &CallbackError) {
        let Some(job_id) = head.headers.get(X_JOB_ID) else { return };
        if matches!(error, CallbackError::Unavailable) {
            return;
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        let job_id = job_id.to_str().ok().and_then(|id| id.parse::<i64>().ok());
        let path = head.uri.path();
        self.told.events.emit(&Event::CallbackRefused {
            job_id,
            status: error.status().as_u16(),
            path: &path[..path.floor_char_boundary(LOGGED_PATH)],
            reason: error,
            left_out: self.refusals.pass(),
        });
    }
}

async fn settle(
    callbacks: &Arc<Callbacks>,
    head: &Parts,
    attempt: &NamedAttempt<'_>,
    body: Body,
) -> Result<Response, CallbackError> {
    let outcome = {
        let body = in_time(async {
            if says_how_in_body(&head.headers) {
                Ok(callbacks.bodies.read(body, LARGEST_BODY, DISCARD_LIMIT).await?)
            } else {
                discard(body, DISCARD_LIMIT).await?;
                Ok(Received::default())
            }
        });
        // The policy is the worker's, which has put what it says into the URL.
        attempt.claim.after_failure.applied_to(read(&callbacks.reading, &head.headers, body.await?).await?)
    };
    let stored = if outcome.error().is_some_and(is_wordless) {
        // In a task of its own: whoever sends it may be gone before the delay is over.
        let (callbacks, worker_id) = (callbacks.clone(), attempt.worker_id.to_owned());
        let (id, epoch) = (attempt.id, attempt.claim.epoch);
        let later = tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(NO_MESSAGE_DELAY) => {}
                // There may be no time left later.
                () = callbacks.stopping.triggered() => {}
            }
            callbacks.store(&worker_id, id, epoch, outcome).await
        });
        later.await.map_err(|_| CallbackError::Unavailable)?
    } else {
        callbacks.store(attempt.worker_id, attempt.id, attempt.claim.epoch, outcome).await
    };
    Ok(match stored? {
        Settled::Done => taken(attempt),
        Settled::Stale => stale(attempt),
    })
}

/// Reads how the attempt ended. What takes its time is read on a thread that nothing else waits for, a few at once:
/// decoded, each may take 16 MiB for a moment.
async fn read(at_once: &Arc<Semaphore>, headers: &HeaderMap, body: Received) -> Result<Outcome, CallbackError> {
    if !is_long_work(headers, &body.bytes) {
        return Ok(read_outcome(headers, &body.bytes, body.cut)?);
    }
    // It is never closed. The thread has it until it is done, also when nobody waits for the outcome any more.
    let permit = at_once.clone().acquire_owned().await.ok();
    let headers = headers.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        read_outcome(&headers, &body.bytes, body.cut)
    });
    Ok(reading.await.map_err(|_| CallbackError::Unavailable)??)
}

async fn extend(
    callbacks: &Callbacks,
    head: &Parts,
    attempt: &NamedAttempt<'_>,
    body: Body,
) -> Result<Response, CallbackError> {
    let body = in_time(async { Ok(callbacks.bodies.read(body, LARGEST_EXTENSION, DISCARD_LIMIT).await?) }).await?;
    let asked = read_extension(&head.headers, &body.bytes, body.cut).map_err(Malformed::from)?;
    let extension = asked.unwrap_or(callbacks.callback_timeout);
    let extended = callbacks.db.extend(attempt.worker_id, attempt.id, attempt.claim.epoch, extension);
    match tokio::time::timeout(callbacks.store_timeout, extended).await {
        Ok(Ok(Settled::Done)) => Ok(taken(attempt)),
        Ok(Ok(Settled::Stale)) => {
            callbacks.told.stale(attempt.worker_id, attempt.id);
            Ok(stale(attempt))
        }
        Ok(Err(error)) => {
            tracing::error!(job.id = attempt.id, "extension refused: {}", job_utils::error::chain(&error));
            Err(CallbackError::Refused)
        }
        Err(_) => Err(CallbackError::Unavailable),
    }
}

/// A body, before anything is answered.
async fn in_time(arriving: impl Future<Output = Result<Received, CallbackError>>) -> Result<Received, CallbackError> {
    tokio::time::timeout(BODY_TIMEOUT, arriving).await.map_err(|_| CallbackError::TooSlow)?
}

fn taken(attempt: &NamedAttempt<'_>) -> Response {
    Json(Stored { job_id: attempt.job_id, worker_id: attempt.worker_id, stale: false }).into_response()
}

fn stale(attempt: &NamedAttempt<'_>) -> Response {
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
