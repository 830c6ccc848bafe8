//! Extend: a handler asks for more time, so that the job service does not take it for lost.

use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use job_utils::error::chain;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::callback::Extension;
use crate::context::Context;

/// The shortest time that a heartbeat asks for: it is renewed at every third of it.
const SHORTEST: Duration = Duration::from_secs(3);

/// How soon to ask again after a failure.
const RETRY: Duration = Duration::from_millis(500);

/// What the job service makes of a request for more time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Extended {
    /// It waits at least so long.
    Granted,
    /// The attempt has ended, and the job may be running elsewhere: whatever this handler does comes to nothing.
    Stale,
}

/// A request for more time that was not answered as one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExtendError {
    /// The caller gave no `X-Callback-Url`, or no job.
    #[error("the request named no job service to ask for more time")]
    NoCallback,
    /// The job service cannot be reached.
    #[error("the job service cannot be reached: {0}")]
    Unreachable(String),
    /// It answered something else.
    #[error("the job service answered HTTP {0}")]
    Status(StatusCode),
}

impl Context {
    /// Asks the job service to wait for this attempt's end until `time` from now at least, also when the worker that
    /// sent it ends meanwhile. Whole or broken seconds up to a week.
    ///
    /// # Errors
    /// It was not asked, or has not answered; the attempt's deadline is what it was.
    pub async fn extend(&self, time: Duration) -> Result<Extended, ExtendError> {
        let Some(Extension { client, callback }) = &self.extension else { return Err(ExtendError::NoCallback) };
        let body = json!({ "seconds": time.as_secs_f64() }).to_string();
        let request = client.post(callback.extension_url()).headers(callback.headers().clone());
        let response = request.header(CONTENT_TYPE, "application/json").body(body).send().await;
        // The text of an error is without the URL, whose query is a token.
        let response = response.map_err(|error| ExtendError::Unreachable(chain(&error.without_url())))?;
        if !response.status().is_success() {
            return Err(ExtendError::Status(response.status()));
        }
        let answer = response.bytes().await.map_err(|error| ExtendError::Unreachable(chain(&error.without_url())))?;
        let stale = serde_json::from_slice::<Value>(&answer).is_ok_and(|answer| answer["stale"] == true);
        Ok(if stale { Extended::Stale } else { Extended::Granted })
    }

    /// Extends the attempt by `time` (at least 3 s) again and again, at every third of it, until the guard is dropped.
    /// As long as it does, the end of the worker that sent the job does not have it started again elsewhere.
    #[must_use = "the heartbeat ends with the guard"]
    pub fn heartbeat(&self, time: Duration) -> HeartbeatGuard {
        let (context, time) = (self.clone(), time.max(SHORTEST));
        HeartbeatGuard(tokio::spawn(async move {
            loop {
                let asked = tokio::time::timeout(time / 3, context.extend(time)).await;
                let pause = match asked {
                    Ok(Ok(Extended::Granted)) => time / 3,
                    Ok(Ok(Extended::Stale)) => {
                        tracing::warn!(job.id = context.job_id, "the attempt has ended without this handler");
                        return;
                    }
                    Ok(Err(ExtendError::NoCallback)) => return,
                    Ok(Err(ExtendError::Status(status))) if status.is_client_error() => {
                        tracing::warn!(job.id = context.job_id, "the attempt cannot be extended: HTTP {status}");
                        return;
                    }
                    Ok(Err(error)) => {
                        tracing::warn!(job.id = context.job_id, "cannot extend the attempt yet: {error}");
                        RETRY
                    }
                    Err(_) => RETRY,
                };
                tokio::time::sleep(pause).await;
            }
        }))
    }
}

/// Ends a heartbeat when dropped.
#[derive(Debug)]
pub struct HeartbeatGuard(JoinHandle<()>);

impl Drop for HeartbeatGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}
