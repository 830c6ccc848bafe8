//! Attempt: run one job to its end, in a slot, and hand its outcome to the settler.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use job_utils::config::in_words;
use job_utils::db::{Db, Job, Results, SettleError, Settled, Settlement, Settler};
use job_utils::shutdown::Shutdown;
use job_utils::wire::callback::Outcome;
use job_utils::wire::dispatch::Answer;

use crate::context::{Context, Surroundings};
use crate::dispatch::Dispatcher;
use crate::handler::{Registered, Registry};
use crate::outcome;
use crate::slots::Slots;

/// Runs jobs. One for all slots.
pub(crate) struct Runner {
    registry: Arc<Registry>,
    /// For what has no handler.
    dispatcher: Option<Dispatcher>,
    surroundings: Arc<Surroundings>,
    settler: Settler<Attempt>,
    slots: Arc<Slots>,
    worker_id: Arc<str>,
}

/// What is left of an attempt when its outcome is on its way.
struct Attempt {
    lane: usize,
    /// Without the payload, which can be large.
    job: Arc<Job>,
    /// Those of the job, or fewer by its task's policy.
    max_attempts: i32,
    duration: Duration,
}

impl Runner {
    pub(crate) fn new(
        db: Db,
        worker_id: Arc<str>,
        registry: Arc<Registry>,
        dispatcher: Option<Dispatcher>,
        slots: Arc<Slots>,
        stopping: Shutdown,
    ) -> Self {
        let of_settler = slots.clone();
        let settler = Settler::spawn(db.clone(), move |results: Results<Attempt>| {
            for (settlement, result) in &results {
                tell(settlement, result);
                if result.is_err() {
                    of_settler.doubt();
                }
            }
            of_settler.settled(results.into_iter().map(|(settlement, _)| {
                let attempt = settlement.ticket;
                (attempt.lane, claim_of(&attempt.job), attempt.job.queue.clone())
            }));
        });
        let surroundings = Surroundings::new(db, stopping);
        Self { registry, dispatcher, surroundings, settler, slots, worker_id }
    }

    /// A slot: runs a job, then whatever else is waiting, and ends when nothing is.
    pub(crate) async fn run_slot(self: Arc<Self>, lane: usize, job: Job) {
        let mut next = Some((lane, job));
        while let Some((lane, job)) = next {
            let claim = claim_of(&job);
            let took = AssertUnwindSafe(self.run(lane, job)).catch_unwind().await;
            if took.is_err() {
                tracing::error!(job.id = claim.0, "an attempt was lost by a panic outside its handler");
                self.slots.forget(&[claim]);
                self.slots.doubt();
            }
            next = self.slots.next(lane, took.unwrap_or(Duration::MAX));
        }
    }

    /// Returns how long it took.
    async fn run(&self, lane: usize, mut job: Job) -> Duration {
        match (self.registry.by_task.get(&job.task), &self.dispatcher) {
            (Some(task), _) => self.run_here(lane, job, task).await,
            (None, Some(dispatcher)) => self.dispatch(lane, job, dispatcher).await,
            // Not claimed as a rule.
            (None, None) => {
                let outcome = Outcome::Fail("the worker has no handler for the task".to_owned());
                job.payload = String::new();
                let max_attempts = job.max_attempts;
                let attempt = Attempt { lane, job: Arc::new(job), max_attempts, duration: Duration::ZERO };
                self.settle(outcome, attempt).await;
                Duration::ZERO
            }
        }
    }

    async fn run_here(&self, lane: usize, job: Job, task: &Registered) -> Duration {
        let started = Instant::now();
        let mut job = Arc::new(job);
        let max_attempts = task.options.retry.most(job.max_attempts);
        let context = Context::new(job.clone(), max_attempts, self.surroundings.clone());
        let outcome = self.registry.run(task, &context).await;
        let completed = context.is_completed();
        drop(context);
        match Arc::get_mut(&mut job) {
            Some(job) => job.payload = String::new(),
            // Something that the handler has spawned goes on with it.
            None => job = Arc::new(job.clone_without_payload()),
        }
        let duration = started.elapsed();
        let attempt = Attempt { lane, job, max_attempts, duration };
        if completed {
            self.registry.given_back.ended(attempt.job.id);
            self.completed(outcome, attempt);
        } else {
            let outcome = self.registry.stored(task, &attempt.job, outcome);
            self.settle(outcome, attempt).await;
        }
        duration
    }

    /// The handler's own transaction has completed the job.
    fn completed(&self, outcome: outcome::Outcome, attempt: Attempt) {
        let Attempt { lane, job, duration, .. } = attempt;
        let duration_ms = duration.as_millis();
        tracing::info!(job.id = job.id, job.task = job.task, duration_ms, "job completed");
        if outcome != outcome::Outcome::Done {
            let error = outcome.error();
            tracing::warn!(
                job.id = job.id,
                job.task = job.task,
                error,
                "the handler's transaction has completed the job: what it returned afterwards does nothing"
            );
        }
        self.slots.settled([(lane, claim_of(&job), job.queue.clone())]);
    }

    async fn dispatch(&self, lane: usize, mut job: Job, dispatcher: &Dispatcher) -> Duration {
        let started = Instant::now();
        let outcome = match dispatcher.dispatch(&mut job).await {
            Answer::Complete => Outcome::Complete,
            Answer::Fail(message) => Outcome::Fail(message),
            Answer::Postpone { message, after, counts } => Outcome::Postpone { message, after, counts },
            Answer::Accept => {
                let duration = started.elapsed();
                let duration_ms = duration.as_millis();
                tracing::info!(job.id = job.id, job.task = job.task, duration_ms, "job accepted");
                self.slots.accepted(claim_of(&job));
                return duration;
            }
        };
        let duration = started.elapsed();
        let max_attempts = job.max_attempts;
        self.settle(outcome, Attempt { lane, job: Arc::new(job), max_attempts, duration }).await;
        duration
    }

    async fn settle(&self, outcome: Outcome, ticket: Attempt) {
        let (job_id, epoch) = claim_of(&ticket.job);
        let settlement = Settlement { worker_id: self.worker_id.clone(), job_id, epoch: Some(epoch), outcome, ticket };
        // The settler lives as long as the runner.
        if let Err(error) = self.settler.settle(settlement).await {
            tracing::warn!(job.id = job_id, "{error}");
        }
    }
}

/// What names a claim: the job's id, and the epoch.
pub(crate) fn claim_of(job: &Job) -> (i64, i64) {
    (job.id, job.epoch)
}

fn tell(settlement: &Settlement<Attempt>, result: &Result<Settled, SettleError>) {
    let Attempt { job, duration, max_attempts, .. } = &settlement.ticket;
    let duration_ms = duration.as_millis();
    match (result, &settlement.outcome) {
        (Ok(Settled::Done), Outcome::Complete) => {
            tracing::info!(job.id = job.id, job.task = job.task, duration_ms, "job completed");
        }
        (
            Ok(Settled::Done),
            Outcome::FailForGood(error)
            | Outcome::Fail(error)
            | Outcome::Retry { message: error, .. }
            | Outcome::Postpone { message: error, counts: true, .. },
        ) if job.attempts >= *max_attempts || matches!(settlement.outcome, Outcome::FailForGood(_)) => {
            tracing::error!(
                job.id = job.id,
                job.task = job.task,
                job.attempts = job.attempts,
                duration_ms,
                error,
                "job failed for good"
            )
        }
        (Ok(Settled::Done), Outcome::Postpone { message: error, after, counts: false }) => tracing::info!(
            job.id = job.id,
            job.task = job.task,
            duration_ms,
            after = in_words(*after),
            error,
            "job postponed"
        ),
        (Ok(Settled::Done), Outcome::Snooze(after)) => {
            tracing::info!(job.id = job.id, job.task = job.task, duration_ms, after = in_words(*after), "job snoozed")
        }
        (
            Ok(Settled::Done),
            Outcome::Fail(error)
            | Outcome::FailForGood(error)
            | Outcome::Retry { message: error, .. }
            | Outcome::Postpone { message: error, .. },
        ) => tracing::warn!(
            job.id = job.id,
            job.task = job.task,
            job.attempts = job.attempts,
            job.max_attempts = max_attempts,
            duration_ms,
            error,
            "job failed"
        ),
        // The function's callback was faster, or the job was taken away: an answer that comes too late is no error.
        (Ok(Settled::Stale), _) => {
            tracing::debug!(job.id = job.id, job.task = job.task, "job already settled");
        }
        (Err(SettleError::Refused(_)), _) => {} // told by the settler
        (Err(error), _) => tracing::warn!(job.id = job.id, "{error}"),
    }
}
