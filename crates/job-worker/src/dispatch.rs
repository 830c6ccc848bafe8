//! Dispatch: POST a job's payload to its function, and read what the answer means.

mod connect;
mod origin;
mod target;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use job_utils::config::{WorkerConfig, in_words};
use job_utils::db::Job;
use job_utils::error::chain;
use job_utils::wire::dispatch::{Answer, read_answer};
use job_utils::wire::headers::X_JOB_ERROR;
use url::Url;

use crate::dispatch::connect::{CONNECT_TIMEOUT, Failure};
use crate::dispatch::target::{Callback, Target, Targets};

/// How much of an answer is read; more than any answer that means something.
const ANSWER_LIMIT: usize = 1 << 20;

/// Sends jobs to functions.
pub(crate) struct Dispatcher {
    targets: Targets,
    callback: Callback,
    timeout: Duration,
    complete_on_2xx: bool,
    http2: bool,
}

impl Dispatcher {
    /// # Errors
    /// A function's URL is https, and TLS cannot be set up.
    pub(crate) fn new(config: &WorkerConfig) -> std::io::Result<Self> {
        Ok(Self {
            targets: Targets::new(config)?,
            callback: Callback::new(config),
            timeout: config.dispatch_timeout,
            complete_on_2xx: config.complete_on_2xx,
            http2: config.http2,
        })
    }

    /// Sends a job to its function, and says what the answer means. Takes the payload out of the job.
    pub(crate) async fn dispatch(&self, job: &mut Job) -> Answer {
        let target = match self.targets.of(&job.task_identifier) {
            Ok(target) => target,
            Err(message) => return Answer::Fail(message),
        };
        match tokio::time::timeout(self.timeout, self.post(&target, job)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer::Fail(self.told(&target.url, &error)),
            Err(_) => Answer::Fail(format!(
                "no answer from {} within {} (JOBS_DISPATCH_TIMEOUT)",
                shown(&target.url),
                in_words(self.timeout)
            )),
        }
    }

    async fn post(&self, target: &Target, job: &mut Job) -> Result<Answer, Failure> {
        let (response, lease) = target.origin.send(target.request(job, &self.callback)).await?;
        let status = response.status().as_u16();
        let job_error = response.headers().get(X_JOB_ERROR).is_some_and(|value| value.as_bytes() == b"true");
        let body = match read_body(response.into_body()).await.map_err(Failure::Answer)? {
            Read::Whole(body) => {
                target.origin.give_back(lease);
                body
            }
            Read::Cut(body) => body,
        };
        Ok(read_answer(status, job_error, &body, self.complete_on_2xx))
    }

    /// A failed POST, told so that a person can act on it.
    fn told(&self, url: &Url, failure: &Failure) -> String {
        let place = shown(url);
        match failure {
            Failure::ConnectTimeout => format!("cannot connect to {place} within {}", in_words(CONNECT_TIMEOUT)),
            Failure::Connect(cause) => format!("cannot connect to {place}: {cause}"),
            Failure::Answer(error) => {
                let hint = if self.http2 { " (JOBS_HTTP2 is set: the function must speak HTTP/2)" } else { "" };
                format!("no valid HTTP answer from {place}: {}{hint}", chain(error))
            }
        }
    }
}

/// An answer's body.
enum Read {
    /// To its end.
    Whole(Bytes),
    /// Up to the limit. The connection must be closed rather than read to its end.
    Cut(Bytes),
}

/// Reads an answer's body up to the limit. One that came in one piece, as most do, is not copied.
async fn read_body(mut body: Incoming) -> Result<Read, hyper::Error> {
    let mut read = Bytes::new();
    let mut pieces = BytesMut::new();
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else { break };
        // Trailers mean nothing here.
        let Ok(mut data) = frame?.into_data() else { continue };
        let room = ANSWER_LIMIT - read.len() - pieces.len();
        let cut = data.len() >= room;
        data.truncate(room);
        if read.is_empty() && pieces.is_empty() {
            read = data;
        } else {
            pieces.extend_from_slice(&std::mem::take(&mut read));
            pieces.extend_from_slice(&data);
        }
        if cut {
            return Ok(Read::Cut(if pieces.is_empty() { read } else { pieces.freeze() }));
        }
    }
    Ok(Read::Whole(if pieces.is_empty() { read } else { pieces.freeze() }))
}

/// A URL for messages: without user, password and query, which may hold secrets.
pub(crate) fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
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
