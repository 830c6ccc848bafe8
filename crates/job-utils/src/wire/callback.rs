//! The callback: a function's POST that says how an attempt ended.
//!
//! ```text
//! POST /callback               in any case, and with or without a slash at its end
//! X-Worker-Id: worker-0        who held the job (from the dispatch)
//! X-Job-Id: 42                 which job
//! X-Database-Id: <uuid>        optional
//! X-Job-Error: true            only when the attempt failed; then it has, whatever the body is
//! X-Job-Retry: false           only when another would fail as well
//! Content-Type: application/json
//!
//! {"status":"success"}  or  {"status":"error","error":"what went wrong"}
//! ```
//!
//! A failure whose body has `"retry": false` is one for good as well, and who says so with words,
//! `{"error":"…","retry":false}`, has failed also without `X-Job-Error`.
//!
//! `POST /callback/extend`, with the same headers and query, asks for more time: `{"seconds": 600}`, or without a body
//! for JOBS_CALLBACK_TIMEOUT from now.

use std::borrow::Cow;
use std::time::Duration;

use http::{HeaderMap, header};
use serde::Serialize;
use serde_json::Value;

use crate::http_url::{HttpUrl, parse_http_url};
use crate::outcome::Outcome;
use crate::wire::body::Body;
use crate::wire::encoding::{Coding, Undecodable, decode, text};
use crate::wire::headers::{X_JOB_ERROR, X_JOB_ID, X_JOB_RETRY, X_WORKER_ID, flag};
use crate::wire::signature::{BadEpoch, CallbackClaim};

/// The path of the callback server's one state-changing route.
pub const PATH: &str = "/callback";

/// Where a function asks for more time.
pub const EXTEND_PATH: &str = "/callback/extend";

/// What a request to the callback server is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// To say how an attempt ended: [`PATH`].
    Callback,
    /// To ask for more time: [`EXTEND_PATH`].
    Extend,
}

impl Route {
    /// By a path, with or without a slash at its end and in any case, as the original's server (express) takes it.
    ///
    /// ```
    /// use job_utils::wire::callback::Route;
    /// assert_eq!(Route::of("/Callback/"), Some(Route::Callback));
    /// assert_eq!(Route::of("/callback/extend"), Some(Route::Extend));
    /// assert_eq!(Route::of("/callbacks"), None);
    /// ```
    pub fn of(path: &str) -> Option<Self> {
        let path = path.trim_end_matches('/');
        if path.eq_ignore_ascii_case(PATH) {
            Some(Self::Callback)
        } else if path.eq_ignore_ascii_case(EXTEND_PATH) {
            Some(Self::Extend)
        } else {
            None
        }
    }
}

/// The most time that a function can ask for at once.
pub const LONGEST_EXTENSION: Duration = Duration::from_secs(7 * 24 * 3600);

/// The largest body of a callback that is read to its end, in bytes; what is stored of it is far less.
pub const LARGEST_BODY: usize = 16 << 20;

/// The largest body that asks for more time, in bytes.
pub const LARGEST_EXTENSION: usize = 16 << 10;

/// What is stored when a callback says "failed" and nothing else.
pub const UNKNOWN_ERROR: &str = "UNKNOWN_ERROR";

/// The body of a callback, as a function writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// `success` or `error`.
    pub status: &'static str,
    /// What went wrong; absent on success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// `false` when another attempt would fail as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<bool>,
}

/// A callback knows success and failure: what is no completion is told as a failure.
impl From<&Outcome> for Report {
    fn from(outcome: &Outcome) -> Self {
        if *outcome == Outcome::Complete {
            return Self { status: "success", error: None, retry: None };
        }
        let error = outcome.error().unwrap_or(UNKNOWN_ERROR).to_owned();
        let retry = matches!(outcome, Outcome::Discard { .. }).then_some(false);
        Self { status: "error", error: Some(error), retry }
    }
}

/// A callback whose body cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadBody {
    /// It is broken.
    #[error("the body is not valid JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It is encoded in a way that is not understood.
    #[error("the body cannot be decoded: {0}")]
    Encoding(#[from] Undecodable),
    /// It is larger than anything that is read.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    /// It asks for a time that nobody can be given.
    #[error("seconds must be a number greater than 0 and at most {}", LONGEST_EXTENSION.as_secs())]
    Seconds,
}

/// Which attempt a request says it is for. Nothing says yet that there is such a job, or that this worker holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedAttempt<'a> {
    /// The job's id as it was sent.
    pub job_id: &'a str,
    /// The same as a number.
    pub id: i64,
    /// Who held the job: at least 4 characters.
    pub worker_id: &'a str,
    /// The claim that the callback is for, as its URL or body tells it.
    pub claim: CallbackClaim,
}

/// A request that cannot be read as a callback.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// A job's id alone names no attempt.
    #[error("Missing X-Worker-Id header")]
    NoWorkerId,
    /// No worker goes by such an id.
    #[error("X-Worker-Id is not a worker id: at least 4 characters, no control characters")]
    BadWorkerId,
    /// No job has such an id.
    #[error("X-Job-Id is not a job id: a decimal number")]
    BadJobId,
    /// No claim has such an epoch.
    #[error(transparent)]
    BadEpoch(#[from] BadEpoch),
    /// The body is not what its content type says.
    #[error(transparent)]
    BadBody(#[from] BadBody),
}

/// Reads which attempt a request to the callback server is for. None when it has no `X-Job-Id`: a health probe of an
/// existing set-up.
///
/// # Errors
/// What is wrong with the request, for its sender.
pub fn read_attempt<'a>(headers: &'a HeaderMap, query: &str) -> Result<Option<NamedAttempt<'a>>, Malformed> {
    let Some(job_id) = headers.get(X_JOB_ID) else { return Ok(None) };
    let job_id = job_id.to_str().map_err(|_| Malformed::BadJobId)?;
    let id = parse_job_id(job_id).ok_or(Malformed::BadJobId)?;
    let worker_id = headers.get(X_WORKER_ID).ok_or(Malformed::NoWorkerId)?;
    let worker_id = worker_id.to_str().map_err(|_| Malformed::BadWorkerId)?;
    if worker_id.is_empty() {
        return Err(Malformed::NoWorkerId);
    }
    if worker_id.chars().count() < 4 {
        return Err(Malformed::BadWorkerId);
    }
    Ok(Some(NamedAttempt { job_id, id, worker_id, claim: CallbackClaim::read(query)? }))
}

/// Whether the body of a callback says how the attempt ended: only JSON can. Any other body is plain text that may be
/// empty and is not read.
pub fn says_how_in_body(headers: &HeaderMap) -> bool {
    has_json(headers)
}

/// Reads how the attempt ended from the headers and the body, or the beginning of it when it is `cut`: as
/// [`Outcome::Complete`], [`Outcome::Retry`] without a wait, or [`Outcome::Discard`].
///
/// With `X-Job-Error` the header alone says that it has failed, whatever the body is: it may lack the reason. Without,
/// a body that should be JSON and is none is refused, even if nothing in it is needed.
///
/// # Errors
/// The body is not what its headers say.
pub fn read_outcome(headers: &HeaderMap, body: &[u8], cut: bool) -> Result<Outcome, Malformed> {
    let failed = flag(headers, X_JOB_ERROR) == Some(true);
    let body = if !has_json(headers) {
        Body::default()
    } else if failed {
        let coding = Coding::of(headers).ok();
        let body = coding.and_then(|coding| decode(body, cut, coding, LARGEST_BODY).ok());
        body.map(|body| Body::beginning(&body.bytes)).unwrap_or_default()
    } else {
        let body = decoded(headers, body, cut, LARGEST_BODY)?;
        if text(&body).trim_ascii().is_empty() { Body::default() } else { Body::parse(&body).map_err(BadBody::from)? }
    };
    let no_retry = body.no_retry || flag(headers, X_JOB_RETRY) == Some(false);
    // Who says what went wrong, and that another attempt would fail, means that this one did.
    if !(failed || no_retry && body.has_failed()) {
        return Ok(Outcome::Complete);
    }
    let error = body.failure().unwrap_or_else(|| UNKNOWN_ERROR.to_owned());
    Ok(if no_retry { Outcome::Discard { error } } else { Outcome::Retry { error, after: None } })
}

/// A whole body without its encoding.
fn decoded<'a>(headers: &HeaderMap, body: &'a [u8], cut: bool, limit: usize) -> Result<Cow<'a, [u8]>, BadBody> {
    let body = decode(body, cut, Coding::of(headers)?, limit)?;
    if body.cut { Err(BadBody::TooLarge(limit)) } else { Ok(body.bytes) }
}

/// Whether the content type says JSON.
fn has_json(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(is_json)
}

/// A decimal bigint without sign, as the dispatch wrote it.
fn parse_job_id(text: &str) -> Option<i64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The URL a function posts to: as given, but a URL without a path means `/callback`. The query string stays.
///
/// ```
/// let url = job_utils::wire::callback::callback_url("http://jobs:8080?token=x").unwrap();
/// assert_eq!(url.as_str(), "http://jobs:8080/callback?token=x");
/// assert_eq!(job_utils::wire::callback::callback_url("http://jobs/hook").unwrap().path(), "/hook");
/// ```
pub fn callback_url(raw: &str) -> Result<HttpUrl, String> {
    let HttpUrl(mut url) = parse_http_url(raw)?;
    if matches!(url.path(), "" | "/") {
        url.set_path(PATH);
    }
    Ok(HttpUrl(url))
}

/// Reads an extension: how much time the function asks for; None when it does not say.
///
/// # Errors
/// The body is not JSON, or asks for a time that nobody can be given.
pub fn read_extension(headers: &HeaderMap, body: &[u8], cut: bool) -> Result<Option<Duration>, BadBody> {
    let body = decoded(headers, body, cut, LARGEST_EXTENSION)?;
    let body = text(&body);
    if body.trim_ascii().is_empty() {
        return Ok(None);
    }
    let json: Value = serde_json::from_str(&body)?;
    match json.get("seconds") {
        None | Some(Value::Null) => Ok(None),
        Some(seconds) => {
            let extension = seconds.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            extension.filter(|time| !time.is_zero() && *time <= LONGEST_EXTENSION).map(Some).ok_or(BadBody::Seconds)
        }
    }
}

/// Whether a Content-Type names JSON (`application/json`, or a `+json` type).
///
/// ```
/// use job_utils::wire::callback::is_json;
/// assert!(is_json("application/json; charset=utf-8") && is_json("application/problem+json"));
/// assert!(!is_json("text/plain"));
/// ```
pub fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let suffix = essence.as_bytes().last_chunk::<5>();
    essence.eq_ignore_ascii_case("application/json") || suffix.is_some_and(|end| end.eq_ignore_ascii_case(b"+json"))
}

#[cfg(test)]
mod tests;
