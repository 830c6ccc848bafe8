//! Dispatch: POST a job's payload to its function, and read what the answer means.

mod body;
mod connect;
mod failure;
mod origin;
mod payload;
mod probe;
mod reading;
mod secrets;
mod target;

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::config::WorkerConfig;
use job_pg::Job;
use job_utils::config::{in_words, shown};
use job_utils::outcome::{Outcome, storable};
use job_utils::telemetry::LogLimit;
use job_utils::wire::dispatch::Answer;

pub use crate::dispatch::probe::CallbackProbe;

use crate::dispatch::body::AnswerBody;
use crate::dispatch::failure::{Failure, Progress};
use crate::dispatch::origin::idle_limit;
use crate::dispatch::payload::body_of;
use crate::dispatch::reading::{AnswerReader, ReadAnswer};
use crate::dispatch::target::{Callback, Target, Targets};
use crate::payload_memory::MemoryPermit;

/// How often it is told that descriptors are lacking.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Of so many tasks it is remembered that their functions accept jobs without a word. A task's name can be anything.
const MOST_TASKS: usize = 10_000;

/// Sends jobs to functions.
pub(crate) struct Dispatcher {
    targets: Targets,
    callback: Callback,
    http2: bool,
    callback_timeout: Duration,
    reader: AnswerReader,
    /// Tasks whose functions have accepted a job without a word.
    wordless: Mutex<HashSet<String>>,
    lacking_descriptors: LogLimit,
}

impl Dispatcher {
    /// # Errors
    /// A function's URL is https, and TLS cannot be set up.
    pub(crate) fn new(config: &WorkerConfig) -> std::io::Result<Self> {
        Ok(Self {
            targets: Targets::new(config)?,
            callback: Callback::new(config),
            http2: config.http2,
            callback_timeout: config.callback_timeout,
            reader: AnswerReader::new(),
            wordless: Mutex::default(),
            lacking_descriptors: LogLimit::once_in(LOG_INTERVAL),
        })
    }

    /// Sends a job to its function, and says how the attempt ended; None when the function has accepted the job. The
    /// payload has been taken out of the job; its share of the memory ends when it is sent.
    pub(crate) async fn dispatch(&self, job: &Job, payload: String, permit: Option<MemoryPermit>) -> Option<Outcome> {
        let target = match self.targets.of(&job.task) {
            Ok(target) => target,
            Err(message) => return Some(Outcome::Retry { error: storable(&message), after: None }),
        };
        let (retry, attempt) = (&target.policy.retry, job.attempts);
        match self.answer(&target, job, payload, permit).await {
            Answer::Accepted => None,
            // The least that the function asks for.
            Answer::Ended(Outcome::Retry { error, after: Some(asked) }) if !retry.is_last(attempt) => {
                Some(Outcome::Retry { error, after: Some(retry.wait_of_at_least(asked, attempt)) })
            }
            Answer::Ended(Outcome::Complete) => Some(Outcome::Complete),
            Answer::Ended(outcome) => Some(retry.after_failure(attempt).applied_to(outcome)),
        }
    }

    async fn answer(&self, target: &Target, job: &Job, payload: String, permit: Option<MemoryPermit>) -> Answer {
        let mut progress = Progress::Connecting;
        let posted = self.post(target, job, (payload, permit), &mut progress);
        let posted = tokio::time::timeout(target.policy.timeout.time, posted).await;
        let failure = match posted {
            Ok(Ok(answer)) => return without_secrets(answer, target),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::OutOfTime(target.policy.timeout, progress),
        };
        let message = storable(&failure.message(&shown(&target.url), self.http2));
        match failure.not_started() {
            Some(after) => {
                self.warn_of_descriptors(&failure, &message);
                Answer::Ended(Outcome::Snooze { after, error: Some(message) })
            }
            None => Answer::Ended(Outcome::Retry { error: message, after: None }),
        }
    }

    async fn post(
        &self,
        target: &Target,
        job: &Job,
        (payload, permit): (String, Option<MemoryPermit>),
        progress: &mut Progress,
    ) -> Result<Answer, Failure> {
        let (payload, unsent) = body_of(payload, permit);
        let request = target.request(job, payload, &self.callback);
        let (response, borrowed) = target.origin.send(request, target.policy.first_byte_timeout, progress).await?;
        let (head, body) = response.into_parts();
        let status = head.status.as_u16();
        let mut body = AnswerBody::new(status, body);
        let beginning = body.beginning(progress).await?;
        let ReadAnswer { answer, is_cut, names_job } =
            self.reader.read(status, &head.headers, &beginning, &target.url, target.policy.complete_on_2xx).await;
        if answer == Answer::Accepted {
            if is_cut {
                tracing::warn!(job.id = job.id, "the answer is large: only its first MiB was searched for complete");
            }
            // Functions that know callbacks name the job in their answers, as job-fn's and the original's do, or answer
            // 202.
            if status != 202 && !names_job {
                self.warn_of_acceptance(job, status);
            }
        }
        if beginning.cut {
            if answer != Answer::Accepted {
                // The connection is closed rather than read to its end.
                return Ok(answer);
            }
            body.rest(progress).await?;
        }
        target.origin.give_back(borrowed, idle_limit(&head.headers));
        if let Some(unsent) = unsent {
            unsent.linger();
        }
        Ok(answer)
    }

    /// Tells once of a task whose function accepts jobs as one does that knows nothing of callbacks.
    fn warn_of_acceptance(&self, job: &Job, status: u16) {
        let mut wordless = self.wordless.lock().unwrap_or_else(PoisonError::into_inner);
        if wordless.len() < MOST_TASKS && !wordless.contains(&job.task) {
            wordless.insert(job.task.clone());
            tracing::warn!(
                job.id = job.id,
                job.task = job.task,
                "HTTP {} without {{\"complete\": true}}: the job waits for a callback, for {}. A function that never calls \
                 back has to say it, or JOBS_COMPLETE_ON_2XX has to be set",
                status,
                in_words(self.callback_timeout)
            );
        }
    }

    fn warn_of_descriptors(&self, failure: &Failure, message: &str) {
        if !matches!(failure, Failure::NoDescriptor(_)) {
            return;
        }
        if self.lacking_descriptors.pass().is_some() {
            tracing::warn!(
                "{message}; jobs are put off and lose no attempt: raise the limit (ulimit -n), or lower JOBS_CONCURRENCY"
            );
        }
    }
}

/// An answer whose message repeats nothing secret that the function was sent.
fn without_secrets(answer: Answer, target: &Target) -> Answer {
    match answer {
        Answer::Ended(outcome) => Answer::Ended(outcome.map_error(|error| target.secrets.hidden(error))),
        Answer::Accepted => answer,
    }
}
