//! Attempt: run one job to its end, in a slot, and hand its outcome to the settler.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use job_pg::{Db, DbError, Job, SettleError, SettleResults, Settled, Settlement, Settler, WorkerDb};
use job_utils::backoff::Backoff;
use job_utils::config::in_words;
use job_utils::error::chain;
use job_utils::outcome::{Outcome, storable};
use job_utils::shutdown::Shutdown;
use job_utils::telemetry::milliseconds;

use crate::context::{Context, WorkerContext};
use crate::dispatch::Dispatcher;
use crate::handler::{CANCEL_GRACE, Registered, Registry};
use crate::monitor::SlotMonitor;
use crate::payload_memory::{MemoryPermit, PayloadMemory};
use crate::slots::Slots;

/// Runs jobs. One for all slots.
pub(crate) struct Runner {
    registry: Arc<Registry>,
    /// For what has no handler.
    dispatcher: Option<Dispatcher>,
    context: Arc<WorkerContext>,
    settler: Settler<EndedAttempt>,
    slots: Arc<Slots>,
    db: WorkerDb,
    memory: PayloadMemory,
}

/// So often Postgres may take too long to give a payload. Then the attempt has failed: given back without being counted,
/// the job would be claimed and fetched in vain for ever, and as a failed attempt it says why, waits longer each time, and
/// ends.
const SLOW_FETCHES: u32 = 5;

/// Why a job that was claimed without its payload does not run.
enum NoPayload {
    /// The claim no longer stands.
    Gone,
    /// The database refuses it, or takes too long each time.
    Refused(String),
}

/// What is left of an attempt when its outcome is on its way.
struct EndedAttempt {
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
        worker_db: WorkerDb,
        memory: PayloadMemory,
        registry: Arc<Registry>,
        dispatcher: Option<Dispatcher>,
        slots: Arc<Slots>,
        stopping: Shutdown,
    ) -> Self {
        let of_settler = slots.clone();
        let settler = Settler::spawn(db.clone(), move |results: SettleResults<EndedAttempt>| {
            for (settlement, result) in &results {
                log_settled(settlement, result);
                if result.is_err() {
                    of_settler.request_reconcile();
                }
            }
            of_settler.settled(results.into_iter().map(|(settlement, _)| {
                let attempt = settlement.ticket;
                (attempt.lane, attempt.job.claim_id(), attempt.job.queue.clone())
            }));
        });
        let context = WorkerContext::new(db, stopping);
        Self { registry, dispatcher, context, settler, slots, db: worker_db, memory }
    }

    /// The longest that a handler may take; None: there is none.
    pub(crate) fn longest_handler(&self) -> Option<Duration> {
        self.registry.by_task.values().map(|task| task.timeout).max()
    }

    /// A slot: runs a job, then whatever else is waiting, and ends when nothing is.
    pub(crate) async fn run_slot(self: Arc<Self>, lane: usize, job: Job) {
        let monitor = self.slots.monitors.take();
        let mut next = Some((lane, job));
        while let Some((lane, job)) = next {
            let claim = job.claim_id();
            monitor.begin(claim);
            let took = AssertUnwindSafe(self.run(lane, job, &monitor)).catch_unwind().await;
            monitor.end();
            if took.is_err() {
                tracing::error!(job.id = claim.0, "an attempt was lost by a panic outside its handler");
                self.slots.forget(&[claim]);
                self.slots.request_reconcile();
            }
            next = self.slots.next(lane, took.unwrap_or(Duration::MAX));
        }
        self.slots.monitors.give_back(monitor);
    }

    /// Returns how long it took.
    async fn run(&self, lane: usize, mut job: Job, monitor: &Arc<SlotMonitor>) -> Duration {
        let mut permit = None;
        if job.is_deferred() {
            let started = Instant::now();
            // Boxed: it is large and seldom.
            let fetched = tokio::select! {
                biased;
                fetched = Box::pin(self.fetch_payload(&mut job)) => fetched,
                () = monitor.taken() => Err(NoPayload::Gone),
            };
            match fetched {
                Ok(reserved) => permit = Some(reserved),
                Err(NoPayload::Gone) => {
                    self.slots.forget(&[job.claim_id()]);
                    return started.elapsed();
                }
                Err(NoPayload::Refused(message)) => {
                    let duration = started.elapsed();
                    let max_attempts = job.max_attempts;
                    let attempt = EndedAttempt { lane, job: Arc::new(job), max_attempts, duration };
                    self.settle(Outcome::Retry { error: message, after: None }, attempt).await;
                    return duration;
                }
            }
        }
        match (self.registry.by_task.get(&job.task), &self.dispatcher) {
            (Some(task), _) => self.run_here(lane, job, task, monitor, permit).await,
            (None, Some(dispatcher)) => self.dispatch(lane, job, dispatcher, monitor, permit).await,
            // Not claimed as a rule.
            (None, None) => {
                let outcome = Outcome::retry("the worker has no handler for the task");
                job.payload = String::new();
                let max_attempts = job.max_attempts;
                let attempt = EndedAttempt { lane, job: Arc::new(job), max_attempts, duration: Duration::ZERO };
                self.settle(outcome, attempt).await;
                Duration::ZERO
            }
        }
    }

    /// Brings the payload of a job that was claimed without it, once there is room for it. As long as the database is away, it is tried
    /// again; where it answers others and takes too long for the payload, only [`SLOW_FETCHES`] times.
    async fn fetch_payload(&self, job: &mut Job) -> Result<MemoryPermit, NoPayload> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let (mut logged, mut slow) = (false, 0);
        loop {
            let fetched = async {
                let Some(size) = self.db.payload_size(job).await? else { return Ok(None) };
                let Some(permit) = self.memory.reserve(size).await else { return Ok(None) };
                let _turn = self.memory.fetch_permit().await;
                Ok::<_, DbError>(self.db.load_payload(job, size).await?.then_some(permit))
            };
            match fetched.await {
                Ok(fetched) => return fetched.ok_or(NoPayload::Gone),
                Err(error) if error.is_transient() => {
                    // A database that answers nobody is an outage, which uses up no attempt.
                    slow += u32::from(error.took_too_long() && self.db.ready().await.is_ok());
                    if slow == SLOW_FETCHES {
                        tracing::warn!(job.id = job.id, "gave up fetching the job's payload: {}", chain(&error));
                        let message = format!(
                            "its payload cannot be fetched: Postgres took too long to give it, {SLOW_FETCHES} times: {}",
                            chain(&error)
                        );
                        return Err(NoPayload::Refused(storable(&message)));
                    }
                    if !std::mem::replace(&mut logged, true) {
                        tracing::warn!(job.id = job.id, "cannot fetch the job's payload yet: {}", chain(&error));
                    }
                }
                Err(error) => {
                    let message = format!("its payload cannot be fetched: {}", chain(&error));
                    return Err(NoPayload::Refused(storable(&message)));
                }
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    async fn run_here(
        &self,
        lane: usize,
        job: Job,
        task: &Registered,
        monitor: &Arc<SlotMonitor>,
        permit: Option<MemoryPermit>,
    ) -> Duration {
        let started = Instant::now();
        let mut job = Arc::new(job);
        let max_attempts = task.options.retry.most(job.max_attempts);
        let context = Context::new(job.clone(), max_attempts, self.context.clone(), Some(monitor.clone()));
        let outcome = tokio::select! {
            biased;
            outcome = self.registry.run(task, &context) => outcome,
            // The handler ends by itself then; what a hook does around it may not.
            () = async { monitor.taken().await; tokio::time::sleep(2 * CANCEL_GRACE).await } => {
                Outcome::retry("its job was taken away")
            }
        };
        monitor.end();
        let (completed, taken) = (context.is_completed(), context.is_taken_away());
        drop(context);
        if taken && !completed {
            self.registry.uncounted_retries.reset(job.id);
            self.slots.forget(&[job.claim_id()]);
            return started.elapsed();
        }
        match Arc::get_mut(&mut job) {
            Some(job) => job.payload = String::new(),
            // Something that the handler has spawned goes on with it.
            None => job = Arc::new(job.clone_without_payload()),
        }
        drop(permit);
        let duration = started.elapsed();
        let attempt = EndedAttempt { lane, job, max_attempts, duration };
        if completed {
            self.registry.uncounted_retries.reset(attempt.job.id);
            self.completed(outcome, attempt);
        } else {
            let outcome = self.registry.stored(task, &attempt.job, outcome);
            self.settle(outcome, attempt).await;
        }
        duration
    }

    /// The handler's own transaction has completed the job.
    fn completed(&self, outcome: Outcome, attempt: EndedAttempt) {
        let EndedAttempt { lane, job, duration, .. } = attempt;
        let duration_ms = milliseconds(duration);
        tracing::info!(job.id = job.id, job.task = job.task, duration_ms, "job completed");
        if outcome != Outcome::Complete {
            let error = outcome.error();
            tracing::warn!(
                job.id = job.id,
                job.task = job.task,
                error,
                "the handler's transaction has completed the job: what it returned afterwards does nothing"
            );
        }
        self.slots.settled([(lane, job.claim_id(), job.queue.clone())]);
    }

    async fn dispatch(
        &self,
        lane: usize,
        mut job: Job,
        dispatcher: &Dispatcher,
        monitor: &SlotMonitor,
        permit: Option<MemoryPermit>,
    ) -> Duration {
        let started = Instant::now();
        let ended = tokio::select! {
            biased;
            ended = dispatcher.dispatch(&mut job, permit) => ended,
            () = monitor.taken() => {
                // With the request its connection is closed.
                self.slots.forget(&[job.claim_id()]);
                return started.elapsed();
            }
        };
        monitor.end();
        let outcome = match ended {
            Some(outcome) => outcome,
            // A callback will tell.
            None => {
                let duration = started.elapsed();
                let duration_ms = milliseconds(duration);
                tracing::info!(job.id = job.id, job.task = job.task, duration_ms, "job accepted");
                self.slots.accepted(job.claim_id());
                return duration;
            }
        };
        let duration = started.elapsed();
        let max_attempts = job.max_attempts;
        self.settle(outcome, EndedAttempt { lane, job: Arc::new(job), max_attempts, duration }).await;
        duration
    }

    async fn settle(&self, outcome: Outcome, ticket: EndedAttempt) {
        let (job_id, epoch) = ticket.job.claim_id();
        let worker_id = self.db.worker_id().clone();
        let settlement = Settlement { worker_id, job_id, epoch: Some(epoch), outcome, ticket };
        // The settler lives as long as the runner.
        if let Err(error) = self.settler.settle(settlement).await {
            tracing::warn!(job.id = job_id, "{error}");
        }
    }
}

fn log_settled(settlement: &Settlement<EndedAttempt>, result: &Result<Settled, SettleError>) {
    let EndedAttempt { job, duration, max_attempts, .. } = &settlement.ticket;
    let duration_ms = milliseconds(*duration);
    match (result, &settlement.outcome) {
        (Ok(Settled::Done), Outcome::Complete) => {
            tracing::info!(job.id = job.id, job.task = job.task, duration_ms, "job completed");
        }
        (Ok(Settled::Done), Outcome::Snooze { after, error }) => {
            let (after, error) = (in_words(*after), error.as_deref());
            tracing::info!(job.id = job.id, job.task = job.task, duration_ms, after, error, "job snoozed");
        }
        (Ok(Settled::Done), Outcome::Release { error, .. }) => {
            tracing::info!(job.id = job.id, job.task = job.task, duration_ms, error, "job released");
        }
        (Ok(Settled::Done), Outcome::Retry { error, .. }) if job.attempts < *max_attempts => tracing::warn!(
            job.id = job.id,
            job.task = job.task,
            job.attempts = job.attempts,
            job.max_attempts = max_attempts,
            duration_ms,
            error,
            "job failed"
        ),
        (Ok(Settled::Done), Outcome::Retry { error, .. } | Outcome::Discard { error }) => tracing::error!(
            job.id = job.id,
            job.task = job.task,
            job.attempts = job.attempts,
            duration_ms,
            error,
            "job failed for good"
        ),
        // The function's callback was faster, or the job was taken away: an answer that comes too late is no error.
        (Ok(Settled::Stale), _) => {
            tracing::debug!(job.id = job.id, job.task = job.task, "job already settled");
        }
        (Err(SettleError::Refused(_)), _) => {} // logged by the settler
        (Err(error), _) => tracing::warn!(job.id = job.id, "{error}"),
    }
}
