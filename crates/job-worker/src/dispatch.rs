//! Dispatch: POST a job's payload to its function, and settle the job by the answer.

use std::time::Duration;

use job_utils::config::{Gateway, WorkerConfig, in_words};
use job_utils::db::Job;
use job_utils::error::chain;
use job_utils::wire::dispatch::{Answer, function_url, read_answer};
use job_utils::wire::headers::{X_ACTOR_ID, X_CALLBACK_URL, X_DATABASE_ID, X_JOB_ERROR, X_JOB_ID, X_WORKER_ID};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Response};
use url::Url;

/// How long a connection may take to stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Idle connections are closed before the function's server does: Node's does after 5 s, and a POST that meets the
/// closing connection would fail without anybody's fault.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// How much of an answer is read; more than any answer that means something.
const ANSWER_LIMIT: usize = 1 << 20;

/// Sends jobs to functions.
pub(crate) struct Dispatcher {
    client: Client,
    gateway: Gateway,
    callback_url: String,
    timeout: Duration,
    complete_on_2xx: bool,
}

impl Dispatcher {
    pub(crate) fn new(config: &WorkerConfig) -> Result<Self, reqwest::Error> {
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .tcp_nodelay(true)
            .http1_only()
            // A redirect is an answer that is not 2xx; a POST is never repeated silently.
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            // Functions are at the URL that is set. A proxy meant for the way out of the cluster does not know them.
            .no_proxy()
            .user_agent(concat!("job-worker/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self {
            client,
            gateway: config.gateway.clone(),
            callback_url: config.callback_url.to_string(),
            timeout: config.dispatch_timeout,
            complete_on_2xx: config.complete_on_2xx,
        })
    }

    /// Sends a job to its function and reads the answer. Takes the payload out of the job.
    pub(crate) async fn dispatch(&self, job: &mut Job, worker_id: &str) -> Answer {
        let url = match self.url(&job.task_identifier) {
            Ok(url) => url,
            Err(message) => return Answer::Fail(message),
        };
        match tokio::time::timeout(self.timeout, self.post(&url, job, worker_id)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer::Fail(failure(&url, &error)),
            Err(_) => Answer::Fail(format!(
                "no answer from {} within {} (JOBS_DISPATCH_TIMEOUT)",
                shown(&url),
                in_words(self.timeout)
            )),
        }
    }

    fn url(&self, task: &str) -> Result<Url, String> {
        match self.gateway.development_map.get(task) {
            Some(Ok(url)) => Ok(url.clone()),
            Some(Err(message)) => Err(format!("INTERNAL_GATEWAY_DEVELOPMENT_MAP: the entry of {task:?}: {message}")),
            None => function_url(&self.gateway.base, task).map_err(|error| error.to_string()),
        }
    }

    async fn post(&self, url: &Url, job: &mut Job, worker_id: &str) -> Result<Answer, reqwest::Error> {
        let mut request = self
            .client
            .post(url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(X_WORKER_ID, worker_id)
            .header(X_JOB_ID, job.id)
            .header(X_CALLBACK_URL, &self.callback_url);
        if let Some(id) = job.database_id {
            request = request.header(X_DATABASE_ID, id.to_string());
        }
        if let Some(id) = job.actor_id {
            request = request.header(X_ACTOR_ID, id.to_string());
        }
        let mut response = request.body(std::mem::take(&mut job.payload)).send().await?;
        let status = response.status().as_u16();
        let job_error = response.headers().get(X_JOB_ERROR).is_some_and(|value| value.as_bytes() == b"true");
        let body = read_body(&mut response).await?;
        Ok(read_answer(status, job_error, &body, self.complete_on_2xx))
    }
}

/// Reads an answer's body up to the limit. A longer one is cut: the connection is closed rather than read to its end.
async fn read_body(response: &mut Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = ANSWER_LIMIT - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == ANSWER_LIMIT {
            break;
        }
    }
    Ok(body)
}

/// A URL for messages: without user, password and query, which may hold secrets.
pub(crate) fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

/// A failed POST, told so that a person can act on it.
fn failure(url: &Url, error: &reqwest::Error) -> String {
    let place = shown(url);
    let what = if error.is_connect() && error.is_timeout() {
        format!("cannot connect to {place} within {}", in_words(CONNECT_TIMEOUT))
    } else if error.is_connect() {
        format!("cannot connect to {place}")
    } else {
        format!("no valid HTTP answer from {place}")
    };
    let cause = std::error::Error::source(error).map(chain).unwrap_or_default();
    let separator = if cause.is_empty() { "" } else { ": " };
    format!("{what}{separator}{cause}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_show_no_secret_of_a_url() {
        let url: Url = "http://user:secret@host:8080/task?token=secret".parse().unwrap();
        assert_eq!(shown(&url), "http://host:8080/task");
    }
}
