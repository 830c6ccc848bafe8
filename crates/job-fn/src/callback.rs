//! The callback: tells the job service how an attempt ended, and insists.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use backon::{ExponentialBuilder, Retryable};
use job_utils::config::HttpUrl;
use job_utils::error::chain;
use job_utils::outcome::Outcome;
use job_utils::telemetry::milliseconds;
use job_utils::wire::callback::{Report, callback_url};
use job_utils::wire::headers::{X_CALLBACK_URL, X_JOB_ERROR, X_JOB_ID, X_WORKER_ID};
use reqwest::{Client, StatusCode};
use url::{Position, Url};

use crate::headers::{echo, text};
use crate::origins::{CallbackOrigins, NotAllowed};

/// After this long the job service is taken for gone; the job's own deadline ends the attempt then.
pub(crate) const GIVE_UP_AFTER: Duration = Duration::from_secs(120);
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Above the 20 s for which the callback server holds a request while its database is away.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Below the 5 s after which a Node server closes an idle connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Where to report an attempt, and which.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Callback {
    url: HttpUrl,
    job_id: String,
    headers: HeaderMap,
}

impl Callback {
    /// None when the request does not ask for a callback, or names a URL that nobody can post to.
    ///
    /// # Errors
    /// It names one that is not among those that are allowed.
    pub(crate) fn from_headers(
        request: &HeaderMap,
        allowed: Option<&CallbackOrigins>,
    ) -> Result<Option<Self>, NotAllowed> {
        let (Some(raw), Some(job_id), Some(_)) =
            (text(request, X_CALLBACK_URL), text(request, X_JOB_ID), text(request, X_WORKER_ID))
        else {
            return Ok(None);
        };
        let Ok(url) = callback_url(&raw) else {
            tracing::error!(job.id = job_id, "no callback: X-Callback-Url is not an http or https URL");
            return Ok(None);
        };
        if let Some(allowed) = allowed {
            allowed.check(&url)?;
        }
        let mut headers = HeaderMap::new();
        echo(request, &mut headers);
        Ok(Some(Self { url, job_id, headers }))
    }

    /// Where to ask for more time for the same attempt.
    pub(crate) fn extension_url(&self) -> Url {
        let mut url = Url::clone(&self.url);
        url.set_path(&format!("{}/extend", self.url.path().trim_end_matches('/')));
        url
    }

    /// What names the attempt.
    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.headers
    }
}

/// Why one try of a callback failed.
#[derive(Debug, thiserror::Error)]
enum Refused {
    /// Its text is without the URL, whose query may hold a token.
    #[error("{0}")]
    Unreachable(String),
    #[error("the job service answered HTTP {status}")]
    Status { status: StatusCode, retry_after: Option<Duration> },
}

impl Refused {
    /// Whether another try can end differently.
    fn passes(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Status { status, .. } => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// The wait that the server asked for, if it is longer than ours.
    fn wait(&self, ours: Duration) -> Duration {
        match self {
            Self::Status { retry_after: Some(asked), .. } => ours.max(*asked),
            _ => ours,
        }
    }
}

/// Sends callbacks.
#[derive(Debug)]
pub(crate) struct Caller {
    client: Client,
    give_up_after: Duration,
}

impl Caller {
    pub(crate) fn new(give_up_after: Duration) -> reqwest::Result<Self> {
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        Ok(Self { client, give_up_after })
    }

    /// The HTTP client.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Reports an outcome, again and again while the job service is away. A report that does not get through is
    /// logged once.
    pub(crate) async fn report(&self, callback: &Callback, outcome: &Outcome) {
        let started = Instant::now();
        let waits = ExponentialBuilder::new()
            .with_min_delay(FIRST_WAIT)
            .with_max_delay(LONGEST_WAIT)
            .with_jitter()
            .without_max_times();
        let sent = (|| self.post(callback, outcome))
            .retry(waits)
            .when(Refused::passes)
            .adjust(|refused, wait| {
                let wait = refused.wait(wait?);
                (started.elapsed() + wait < self.give_up_after).then_some(wait)
            })
            .notify(|refused, wait| {
                let wait_ms = milliseconds(wait);
                tracing::debug!(job.id = callback.job_id, error = %refused, wait_ms, "the callback is tried again");
            })
            .await;
        if let Err(error) = sent {
            let place = &callback.url[Position::BeforeHost..Position::AfterPort];
            tracing::error!(job.id = callback.job_id, %error, place, "the callback did not get through");
        }
    }

    async fn post(&self, callback: &Callback, outcome: &Outcome) -> Result<(), Refused> {
        let mut request =
            self.client.post(Url::clone(&callback.url)).headers(callback.headers.clone()).json(&Report::from(outcome));
        if *outcome != Outcome::Complete {
            request = request.header(X_JOB_ERROR, HeaderValue::from_static("true"));
        }
        let response = request.send().await.map_err(|error| Refused::Unreachable(chain(&error.without_url())))?;
        let status = response.status();
        if status.is_success() {
            // Read to its end, so that the connection can serve the next callback.
            let _ = response.bytes().await;
            return Ok(());
        }
        let retry_after = text(response.headers(), RETRY_AFTER.as_str())
            .and_then(|value| value.parse().ok())
            .map(Duration::from_secs);
        Err(Refused::Status { status, retry_after })
    }
}

/// Where a handler asks, and for which attempt. Two are the same when they are for the same attempt.
#[derive(Clone)]
pub(crate) struct Extension {
    pub(crate) client: Client,
    pub(crate) callback: Arc<Callback>,
}

impl Extension {
    pub(crate) fn new(client: Client, callback: Arc<Callback>) -> Self {
        Self { client, callback }
    }
}

impl PartialEq for Extension {
    fn eq(&self, other: &Self) -> bool {
        self.callback == other.callback
    }
}

impl Eq for Extension {}

/// Without the URL, whose query is a token.
impl std::fmt::Debug for Extension {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Extension")
    }
}
