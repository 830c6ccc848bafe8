//! Attempt: run one job to its end, in a slot, and hand its outcome to the settler.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use job_utils::config::in_words;
use job_utils::db::{Db, Job, Results, SettleError, Settled, Settlement, Settler};
use job_utils::wire::callback::Outcome;
use job_utils::wire::dispatch::Answer;

use crate::dispatch::Dispatcher;
use crate::handlers::Handlers;
use crate::slots::Slots;

/// Runs jobs. One for all slots.
pub(crate) struct Runner {
    handlers: Handlers,
    dispatcher: Dispatcher,
    settler: Settler<Attempt>,
    slots: Arc<Slots>,
    worker_id: Arc<str>,
    /// How long a handler may take.
    timeout: Duration,
}

/// What is left of an attempt when its outcome is on its way.
struct Attempt {
    lane: usize,
    job: Job,
    duration: Duration,
}

impl Runner {
    pub(crate) fn new(
        db: Db,
        worker_id: Arc<str>,
        handlers: Handlers,
        dispatcher: Dispatcher,
        slots: Arc<Slots>,
        timeout: Duration,
    ) -> Self {
        let of_settler = slots.clone();
        let settler = Settler::spawn(db, move |results: Results<Attempt>| {
            for (settlement, result) in &results {
                tell(settlement, result);
                if result.is_err() {
                    of_settler.doubt();
                }
            }
            of_settler.settled(results.into_iter().map(|(settlement, _)| {
                let attempt = settlement.ticket;
                (attempt.lane, claim_of(&attempt.job), attempt.job.queue_name)
            }));
        });
        Self { handlers, dispatcher, settler, slots, worker_id, timeout }
    }

    /// A slot: runs a job, then whatever else is waiting, and ends when nothing is.
    pub(crate) async fn run_slot(self: Arc<Self>, lane: usize, job: Job) {
        let mut next = Some((lane, job));
        while let Some((lane, job)) = next {
            let claim = claim_of(&job);
            if AssertUnwindSafe(self.run(lane, job)).catch_unwind().await.is_err() {
                tracing::error!(job.id = claim.0, "an attempt was lost by a panic outside its handler");
                self.slots.forget(&[claim]);
                self.slots.doubt();
            }
            next = self.slots.next(lane);
        }
    }

    async fn run(&self, lane: usize, mut job: Job) {
        let started = Instant::now();
        let outcome = match self.handlers.run(&mut job, self.timeout).await {
            Some(outcome) => outcome,
            None => match self.dispatcher.dispatch(&mut job).await {
                Answer::Complete => Outcome::Complete,
                Answer::Fail(message) => Outcome::Fail(message),
                Answer::Postpone { message, after, counts } => Outcome::Postpone { message, after, counts },
                Answer::Accept => {
                    let duration_ms = started.elapsed().as_millis();
                    tracing::info!(job.id = job.id, job.task = job.task_identifier, duration_ms, "job accepted");
                    self.slots.accepted(claim_of(&job));
                    return;
                }
            },
        };
        let (job_id, epoch) = claim_of(&job);
        let ticket = Attempt { lane, job, duration: started.elapsed() };
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
    let Attempt { job, duration, .. } = &settlement.ticket;
    let duration_ms = duration.as_millis();
    match (result, &settlement.outcome) {
        (Ok(Settled::Done), Outcome::Complete) => {
            tracing::info!(job.id = job.id, job.task = job.task_identifier, duration_ms, "job completed");
        }
        (Ok(Settled::Done), Outcome::Fail(error) | Outcome::Postpone { message: error, counts: true, .. })
            if job.attempts >= job.max_attempts =>
        {
            tracing::error!(
                job.id = job.id,
                job.task = job.task_identifier,
                job.attempts = job.attempts,
                duration_ms,
                error,
                "job failed for good"
            )
        }
        (Ok(Settled::Done), Outcome::Postpone { message: error, after, counts: false }) => tracing::info!(
            job.id = job.id,
            job.task = job.task_identifier,
            duration_ms,
            after = in_words(*after),
            error,
            "job postponed"
        ),
        (Ok(Settled::Done), Outcome::Fail(error) | Outcome::Postpone { message: error, .. }) => tracing::warn!(
            job.id = job.id,
            job.task = job.task_identifier,
            job.attempts = job.attempts,
            job.max_attempts = job.max_attempts,
            duration_ms,
            error,
            "job failed"
        ),
        // The function's callback was faster, or the job was taken away: an answer that comes too late is no error.
        (Ok(Settled::Stale), _) => {
            tracing::debug!(job.id = job.id, job.task = job.task_identifier, "job already settled");
        }
        (Err(SettleError::Refused(_)), _) => {} // told by the settler
        (Err(error @ SettleError::Stopped), _) => tracing::warn!(job.id = job.id, "{error}"),
    }
}
