//! Dispatch: POST a job's payload to its function, and read what the answer means.

mod body;
mod connect;
mod failure;
mod host;
mod hosts;
mod origin;
mod payload;
mod probe;
mod reading;
mod secrets;
mod target;

use std::collections::HashSet;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::config::WorkerConfig;
use job_pg::{HostNews, Job, WorkerDb};
use job_utils::config::{in_words, shown};
use job_utils::outcome::{Outcome, storable};
use job_utils::telemetry::LogLimit;
use job_utils::wire::dispatch::Answer;
use tokio::time::Instant;

pub use crate::dispatch::probe::CallbackProbe;

use crate::dispatch::body::AnswerBody;
use crate::dispatch::failure::{Failure, Progress};
use crate::dispatch::host::{Host, Sign, TURN, Turn};
use crate::dispatch::hosts::Hosts;
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
    hosts: Hosts,
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
            hosts: Hosts::new(),
            callback: Callback::new(config),
            http2: config.http2,
            callback_timeout: config.callback_timeout,
            reader: AnswerReader::new(),
            wordless: Mutex::default(),
            lacking_descriptors: LogLimit::once_in(LOG_INTERVAL),
        })
    }

    /// The worker runs, and this is how workers tell each other of hosts.
    pub(crate) fn tell_by(&self, db: WorkerDb) {
        self.hosts.tell_by(db);
    }

    /// A claim that began then has brought this of hosts, and these jobs. `whole`: it was from the start.
    pub(crate) fn claimed(&self, news: &[HostNews], whole: bool, began: Instant, jobs: &[Job]) {
        self.hosts.claimed(news, whole, began, jobs, &self.targets);
    }

    /// Tasks whose jobs are left to other workers, as they go to hosts that only those can reach.
    pub(crate) fn left_tasks(&self) -> Vec<String> {
        self.hosts.left_tasks(&self.targets)
    }

    /// Whether a job can be sent at once, as nearly all can; else [`Dispatcher::admit`] says.
    pub(crate) fn pass(&self, job: &Job) -> Result<Pass, NoPass> {
        match self.targets.of(&job.task) {
            Ok(target) if !(target.is_told() && target.origin.host.is_clear()) => Err(NoPass(target)),
            target => Ok(Pass { target, turn: None }),
        }
    }

    /// Waits until a job may be sent; None: its host is closed, or it was `taken`, and it has to be given back.
    pub(crate) async fn admit<T>(
        &self,
        job: &Job,
        NoPass(target): NoPass,
        taken: impl Future<Output = T>,
    ) -> Option<Pass> {
        let turn = tokio::select! {
            biased;
            turn = self.hosts.admit(job, &target, &self.targets) => turn?,
            _ = taken => return None,
        };
        Some(Pass { target: Ok(target), turn })
    }

    /// Sends a job to its function, and says how the attempt ended; None when the function has accepted the job. The
    /// payload has been taken out of the job; its share of the memory ends when it is sent.
    pub(crate) async fn dispatch(
        &self,
        job: &Job,
        payload: String,
        permit: Option<MemoryPermit>,
        Pass { target, turn }: Pass,
    ) -> Option<Outcome> {
        let target = match target {
            Ok(target) => target,
            Err(message) => return Some(Outcome::Retry { error: storable(&message), after: None }),
        };
        let host = &target.origin.host;
        let answer = self.answer(&target, job, payload, permit);
        let ((answer, sign), _turn) = match turn {
            None => (answer.await, None),
            Some(turn) => Box::pin(in_turn(host, turn, answer)).await,
        };
        let outcome = outcome_of(&target, job.attempts, answer);
        if sign == Sign::Up && host.is_clear() {
            return outcome;
        }
        Box::pin(self.hosts.met(&target.origin, sign, job, outcome)).await
    }

    async fn answer(
        &self,
        target: &Target,
        job: &Job,
        payload: String,
        permit: Option<MemoryPermit>,
    ) -> (Answer, Sign) {
        let mut progress = Progress::Connecting;
        let posted = self.post(target, job, (payload, permit), &mut progress);
        let posted = tokio::time::timeout(target.policy.timeout.time, posted).await;
        let failure = match posted {
            Ok(Ok(answer)) => {
                let status = if let Progress::Reading { status, .. } = progress { status } else { 0 };
                let sign = Sign::of_answer(status, &answer);
                return (without_secrets(answer, target), sign);
            }
            Ok(Err(failure)) => failure,
            Err(_) => Failure::OutOfTime(target.policy.timeout, progress),
        };
        let message = storable(&failure.message(&shown(&target.url), self.http2));
        let answer = match failure.not_started() {
            Some(after) => {
                self.warn_of_descriptors(&failure, &message);
                Outcome::Snooze { after, error: Some(message) }
            }
            None => Outcome::Retry { error: message, after: None },
        };
        (Answer::Ended(answer), Sign::of_failure(&failure))
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

/// What lets a job be sent.
pub(crate) struct Pass {
    /// Where to; the error says why there is no such place.
    target: Result<Arc<Target>, String>,
    turn: Option<Turn>,
}

/// A job that has to wait before it can be sent, or cannot be sent now.
pub(crate) struct NoPass(Arc<Target>);

/// How an attempt ended by its answer; None when the function has accepted the job.
fn outcome_of(target: &Target, attempt: i32, answer: Answer) -> Option<Outcome> {
    let retry = &target.policy.retry;
    match answer {
        Answer::Accepted => None,
        // The least that the function asks for.
        Answer::Ended(Outcome::Retry { error, after: Some(asked) }) if !retry.is_last(attempt) => {
            Some(Outcome::Retry { error, after: Some(retry.wait_of_at_least(asked, attempt)) })
        }
        Answer::Ended(Outcome::Complete) => Some(Outcome::Complete),
        Answer::Ended(outcome) => Some(retry.after_failure(attempt).applied_to(outcome)),
    }
}

/// Waits for an answer as the only one that tries the host. When it does not come within a moment, others try as well.
async fn in_turn<T>(host: &Host, turn: Turn, answer: impl Future<Output = T>) -> (T, Option<Turn>) {
    let mut answer = pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => return (answer, Some(turn)),
        () = tokio::time::sleep(TURN) => {}
    }
    host.connected();
    drop(turn);
    (answer.await, None)
}

/// An answer whose message repeats nothing secret that the function was sent.
fn without_secrets(answer: Answer, target: &Target) -> Answer {
    match answer {
        Answer::Ended(outcome) => Answer::Ended(outcome.map_error(|error| target.secrets.hidden(error))),
        Answer::Accepted => answer,
    }
}
