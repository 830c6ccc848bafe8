//! Dispatch: POST a job's payload to its function, and read what the answer means.

mod body;
mod connect;
mod failure;
mod origin;
mod payload;
mod secrets;
mod target;

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{DATE, HeaderName, RETRY_AFTER};
use job_utils::config::{WorkerConfig, shown};
use job_utils::db::Job;
use job_utils::wire::callback::storable;
use job_utils::wire::dispatch::{Answer, Received, read_answer, retry_after};
use job_utils::wire::headers::X_JOB_ERROR;

use crate::dispatch::body::AnswerBody;
use crate::dispatch::failure::{Failure, Progress};
use crate::dispatch::payload::payload;
use crate::dispatch::target::{Callback, Target, Targets};
use crate::memory::Share;

/// Sends jobs to functions.
pub(crate) struct Dispatcher {
    targets: Targets,
    callback: Callback,
    timeout: Duration,
    /// How long the head of an answer may take, when that is less.
    first_byte_timeout: Option<Duration>,
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
            first_byte_timeout: config.first_byte_timeout,
            complete_on_2xx: config.complete_on_2xx,
            http2: config.http2,
        })
    }

    /// Sends a job to its function, and says what the answer means. Takes the payload out of the job; its share of the memory ends
    /// when it is sent.
    pub(crate) async fn dispatch(&self, job: &mut Job, share: Option<Share>) -> Answer {
        let target = match self.targets.of(&job.task) {
            Ok(target) => target,
            Err(message) => return Answer::Fail(storable(&message)),
        };
        let mut progress = Progress::Connecting;
        let posted = tokio::time::timeout(self.timeout, self.post(&target, job, share, &mut progress)).await;
        let failure = match posted {
            Ok(Ok(answer)) => return without_secrets(answer, &target),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::OutOfTime(self.timeout, progress),
        };
        Answer::Fail(storable(&failure.told(&shown(&target.url), self.http2)))
    }

    async fn post(
        &self,
        target: &Target,
        job: &mut Job,
        share: Option<Share>,
        progress: &mut Progress,
    ) -> Result<Answer, Failure> {
        let (payload, unsent) = payload(job, share);
        let request = target.request(job, payload, &self.callback);
        let (response, lease) = target.origin.send(request, self.first_byte_timeout, progress).await?;
        let (head, body) = response.into_parts();
        let status = head.status.as_u16();
        let mut body = AnswerBody::new(status, body);
        let beginning = body.beginning(progress).await?;
        let received = Received {
            status,
            job_error: head.headers.get(X_JOB_ERROR).is_some_and(|value| value.as_bytes() == b"true"),
            retry_after: asked_wait(&head.headers),
            body: &beginning.bytes,
            cut: beginning.cut,
        };
        let answer = read_answer(&received, self.complete_on_2xx);
        if beginning.cut {
            if answer != Answer::Accept {
                // The connection is closed rather than read to its end.
                return Ok(answer);
            }
            body.rest(progress).await?;
            tracing::warn!(job.id = job.id, "the answer is large: only its first MiB was searched for complete");
        }
        target.origin.give_back(lease);
        if let Some(unsent) = unsent {
            unsent.linger();
        }
        Ok(answer)
    }
}

/// How long an answer asks to wait.
fn asked_wait(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    retry_after(text(RETRY_AFTER)?, text(DATE), SystemTime::now())
}

/// An answer whose message repeats nothing secret that the function was sent.
fn without_secrets(answer: Answer, target: &Target) -> Answer {
    match answer {
        Answer::Fail(message) => Answer::Fail(target.secrets.hidden(message)),
        Answer::Postpone { message, after, counts } => {
            Answer::Postpone { message: target.secrets.hidden(message), after, counts }
        }
        Answer::Complete | Answer::Accept => answer,
    }
}
