//! Attempt: run one job to its end, in a slot, and hand its outcome to the settler.

use std::borrow::Borrow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use job_pg::{DbError, Job, SettleError, SettleResults, Settled, Settlement, Settler, WorkerDb};
use job_utils::backoff::Backoff;
use job_utils::error::chain;
use job_utils::events::{self, Event, Events, Source};
use job_utils::outcome::{Outcome, storable};

use crate::context::{Context, WorkerContext};
use crate::dispatch::Dispatcher;
use crate::handler::{CANCEL_GRACE, Registered, Registry};
use crate::monitor::{SlotMonitor, Taken};
use crate::payload_memory::{MemoryPermit, PayloadMemory};
use crate::slots::Slots;
use crate::succession::{EndedAttempt, WorkerSuccession};

/// Runs jobs. One for all slots.
pub(crate) struct Runner {
    registry: Arc<Registry>,
    /// For what has no handler.
    pub(crate) dispatcher: Option<Dispatcher>,
    context: Arc<WorkerContext>,
    settler: Settler<EndedAttempt>,
    slots: Arc<Slots>,
    db: WorkerDb,
    memory: PayloadMemory,
}

/// So often Postgres may take too long to give a payload. Then the attempt has failed: given back without being
/// counted, the job would be claimed and fetched in vain for ever, and as a failed attempt it says why, waits longer
/// each time, and ends.
const SLOW_FETCHES: u32 = 5;

/// How long hooks may go on after the end of a handler whose job was taken away. With the grace of the handler it is
/// less than the two seconds in which the slot of a cancelled job is to be free.
const HOOK_GRACE: Duration = Duration::from_millis(250);

/// Why a job that was claimed without its payload does not run.
enum NoPayload {
    /// The claim no longer stands.
    Gone,
    /// The database refuses it, or takes too long each time.
    Refused(String),
}

/// An attempt that has started. Its end is told once, whatever ends it: also when its task is aborted, or panics
/// outside the handler.
struct StartedAttempt<'a> {
    events: &'a Events,
    attempt: events::Attempt<'a>,
    since: Instant,
}

impl<'a> StartedAttempt<'a> {
    fn new(events: &'a Events, attempt: events::Attempt<'a>) -> Self {
        events.emit(&Event::AttemptStarted(attempt));
        Self { events, attempt, since: Instant::now() }
    }

    /// Returns how long the attempt took.
    fn end(mut self) -> Duration {
        *self.attempt.duration.insert(self.since.elapsed())
    }
}

impl Drop for StartedAttempt<'_> {
    fn drop(&mut self) {
        self.attempt.duration.get_or_insert_with(|| self.since.elapsed());
        self.events.emit(&Event::AttemptEnded(self.attempt));
    }
}

fn task_of(attempt: &EndedAttempt) -> Option<&str> {
    Some(&attempt.job.task)
}

/// How an attempt has ended in this process.
enum End {
    /// With an outcome that is to be stored. It is `released` when the attempt could not do its work.
    Outcome { outcome: Outcome, released: bool },
    /// The handler's own transaction has completed the job; and what the handler has returned.
    Completed(Outcome),
    /// A function has the job and will call back.
    Accepted,
    /// Its job was taken away or cancelled.
    Taken(Taken),
}

impl Runner {
    pub(crate) fn new(
        context: Arc<WorkerContext>,
        db: WorkerDb,
        memory: PayloadMemory,
        registry: Arc<Registry>,
        dispatcher: Option<Dispatcher>,
        slots: Arc<Slots>,
        succession: WorkerSuccession,
    ) -> Self {
        let (of_settler, events) = (slots.clone(), context.events.clone());
        let settled = move |results: SettleResults<EndedAttempt>| {
            for (settlement, result) in &results {
                emit_settled(&events, settlement, result);
                if result.is_err() {
                    of_settler.request_reconcile();
                }
            }
            of_settler.settled(results.into_iter().map(|(settlement, _)| {
                let attempt = settlement.ticket;
                let freed = attempt.job.gate.clone().filter(|_| !attempt.succeeded);
                (attempt.lane, attempt.job.claim_id(), freed)
            }));
        };
        let settler = Settler::spawn_with_succession(context.db.clone(), task_of, succession, settled);
        Self { registry, dispatcher, context, settler, slots, db, memory }
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
                _ = monitor.taken() => Err(NoPayload::Gone),
            };
            match fetched {
                Ok(reserved) => permit = Some(reserved),
                Err(NoPayload::Gone) => {
                    self.slots.forget(&[job.claim_id()]);
                    return started.elapsed();
                }
                Err(NoPayload::Refused(error)) => {
                    let duration = started.elapsed();
                    self.settle_unstarted(lane, job, duration, Outcome::Retry { error, after: None }).await;
                    return duration;
                }
            }
        }
        match (self.registry.by_task.get(&job.task), &self.dispatcher) {
            (Some(task), _) => self.run_here(lane, job, task, monitor, permit).await,
            (None, Some(dispatcher)) => self.dispatch(lane, job, dispatcher, monitor, permit).await,
            (None, None) => {
                // Not claimed as a rule.
                let outcome = Outcome::retry("the worker has no handler for the task");
                self.settle_unstarted(lane, job, Duration::ZERO, outcome).await;
                Duration::ZERO
            }
        }
    }

    /// The attempt starts, and ends when this is dropped.
    fn start<'a>(&'a self, job: &'a Job, max_attempts: i32) -> StartedAttempt<'a> {
        StartedAttempt::new(&self.context.events, attempt_of(self.db.worker_id(), job, max_attempts, None))
    }

    /// Ends a job's attempt without having started it.
    async fn settle_unstarted(&self, lane: usize, mut job: Job, duration: Duration, outcome: Outcome) {
        job.payload = String::new();
        let max_attempts = job.max_attempts;
        let job = Arc::new(job);
        let ended = EndedAttempt { lane, job, max_attempts, duration, released: false, succeeded: false };
        self.settle(outcome, ended).await;
    }

    /// Brings the payload of a job that was claimed without it, once there is room for it. As long as the database is
    /// away, it is tried again; where it answers others and takes too long for the payload, only [`SLOW_FETCHES`]
    /// times.
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

    /// Runs a job's handler. Returns how long the attempt took.
    async fn run_here(
        &self,
        lane: usize,
        job: Job,
        task: &Registered,
        monitor: &Arc<SlotMonitor>,
        permit: Option<MemoryPermit>,
    ) -> Duration {
        let max_attempts = task.options.retry.most(job.max_attempts);
        let mut job = Arc::new(job);
        let attempt = self.start(&job, max_attempts);
        let context = Context::new(job.clone(), max_attempts, self.context.clone(), Some(monitor.clone()));
        let outcome = tokio::select! {
            biased;
            outcome = self.registry.run(task, &context) => outcome,
            // The handler ends by itself then; what a hook does around it may not.
            taken = taken_for_long(monitor) => {
                context.take_away(taken);
                Outcome::retry("its job was taken away")
            }
        };
        monitor.end();
        let (completed, taken) = (context.is_completed(), context.taken_away().cloned());
        drop(context);
        let duration = attempt.end();
        if completed || taken.is_some() {
            self.registry.uncounted_retries.reset(job.id);
        }
        if let Some(taken) = taken.filter(|_| !completed) {
            self.end(lane, job, max_attempts, duration, End::Taken(taken)).await;
            return duration;
        }
        match Arc::get_mut(&mut job) {
            Some(job) => job.payload = String::new(),
            // Something that the handler has spawned goes on with it.
            None => job = Arc::new(job.clone_without_payload()),
        }
        drop(permit);
        let end = if completed {
            End::Completed(outcome)
        } else {
            let released = matches!(outcome, Outcome::Release { .. });
            let outcome = self.registry.stored(task, &job, outcome);
            End::Outcome { outcome, released }
        };
        self.end(lane, job, max_attempts, duration, end).await;
        duration
    }

    /// Sends a job to its function. Returns how long the attempt took.
    async fn dispatch(
        &self,
        lane: usize,
        mut job: Job,
        dispatcher: &Dispatcher,
        monitor: &SlotMonitor,
        permit: Option<MemoryPermit>,
    ) -> Duration {
        let pass = match dispatcher.pass(&job) {
            Ok(pass) => Some(pass),
            Err(waiting) => Box::pin(dispatcher.admit(&job, waiting, monitor.taken())).await,
        };
        let Some(pass) = pass else {
            self.slots.give_back(job.claim_id());
            return Duration::MAX;
        };
        let (payload, max_attempts) = (std::mem::take(&mut job.payload), job.max_attempts);
        let attempt = self.start(&job, max_attempts);
        let end = tokio::select! {
            biased;
            ended = dispatcher.dispatch(&job, payload, permit, pass) => match ended {
                Some(outcome) => End::Outcome { outcome, released: false },
                None => End::Accepted,
            },
            // With the request its connection is closed.
            taken = monitor.taken() => End::Taken(taken),
        };
        monitor.end();
        let duration = attempt.end();
        self.end(lane, job, max_attempts, duration, end).await;
        duration
    }

    /// What follows the end of an attempt, of a handler and of a function alike.
    async fn end(
        &self,
        lane: usize,
        job: impl Borrow<Job> + Into<Arc<Job>> + Send,
        max_attempts: i32,
        duration: Duration,
        end: End,
    ) {
        let events = &self.context.events;
        let attempt = attempt_of(self.db.worker_id(), job.borrow(), max_attempts, Some(duration));
        let claim = job.borrow().claim_id();
        match end {
            End::Taken(taken) => {
                if let Taken::Cancelled(reason) = taken {
                    events.emit(&Event::JobCancelled { attempt, reason: reason.as_deref() });
                }
                self.slots.forget(&[claim]);
            }
            End::Accepted => {
                events.emit(&Event::JobAccepted(attempt));
                self.slots.accepted(claim);
            }
            End::Completed(returned) => {
                events.emit(&Event::JobCompleted(attempt));
                let job: &Job = job.borrow();
                if returned != Outcome::Complete {
                    let error = returned.error();
                    tracing::warn!(
                        job.id = job.id,
                        job.task = job.task,
                        error,
                        "the handler's transaction has completed the job: what it returned afterwards does nothing"
                    );
                }
                self.slots.settled([(lane, claim, job.gate.clone())]);
            }
            End::Outcome { outcome, released } => {
                let job = job.into();
                let ended = EndedAttempt { lane, job, max_attempts, duration, released, succeeded: false };
                self.settle(outcome, ended).await;
            }
        }
    }

    async fn settle(&self, outcome: Outcome, ticket: EndedAttempt) {
        let (job_id, epoch) = ticket.job.claim_id();
        let worker_id = self.db.worker_id().clone();
        // Where tenants are served fairly, it counts for the job's tenant.
        let run_time = ticket.job.has_tenant_gate().then_some(ticket.duration);
        let settlement = Settlement { worker_id, job_id, epoch: Some(epoch), outcome, run_time, ticket };
        // The settler lives as long as the runner.
        if let Err(error) = self.settler.settle(settlement).await {
            tracing::warn!(job.id = job_id, "{error}");
        }
    }
}

/// Waits until an attempt whose job was taken away should have ended by itself.
async fn taken_for_long(monitor: &SlotMonitor) -> Taken {
    let taken = monitor.taken().await;
    tokio::time::sleep(CANCEL_GRACE + HOOK_GRACE).await;
    taken
}

/// An attempt as events tell of it.
fn attempt_of<'a>(
    worker_id: &'a str,
    job: &'a Job,
    max_attempts: i32,
    duration: Option<Duration>,
) -> events::Attempt<'a> {
    let mut attempt = events::Attempt::new(Source::Worker, job.id, worker_id);
    attempt.task = Some(&job.task);
    attempt.queue = job.queue.as_deref();
    attempt.number = Some(job.attempts);
    attempt.max_attempts = Some(max_attempts);
    attempt.duration = duration;
    attempt
}

fn emit_settled(events: &Events, settlement: &Settlement<EndedAttempt>, result: &Result<Settled, SettleError>) {
    let EndedAttempt { job, duration, max_attempts, released, .. } = &settlement.ticket;
    let attempt = attempt_of(&settlement.worker_id, job, *max_attempts, Some(*duration));
    match (result, &settlement.outcome) {
        (Ok(Settled::Done), Outcome::Snooze { after, error: Some(error) }) if *released => {
            events.emit(&Event::JobReleased { attempt, after: *after, error });
        }
        (Ok(Settled::Done), outcome) => events.emit(&Event::settled(attempt, outcome)),
        // The function's callback was faster, or the job was taken away: an answer that comes too late is no error.
        (Ok(Settled::Stale), _) => events.emit(&Event::OutcomeStale(attempt)),
        (Err(SettleError::Refused(error)), _) => events.emit(&Event::OutcomeRefused { attempt, error }),
        (Err(error), _) => tracing::warn!(job.id = job.id, "{error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn the_end_of_an_attempt_is_told_once_also_after_a_panic() {
        let (starts, ends) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (started, ended) = (starts.clone(), ends.clone());
        let events = Events::default().with(move |event| match event {
            Event::AttemptStarted(_) => drop(started.fetch_add(1, Ordering::Relaxed)),
            Event::AttemptEnded(attempt) => {
                assert!(attempt.duration.is_some());
                ended.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        });
        let attempt = events::Attempt::new(Source::Worker, 7, "worker-0");
        StartedAttempt::new(&events, attempt).end();
        assert_eq!((starts.load(Ordering::Relaxed), ends.load(Ordering::Relaxed)), (1, 1));
        drop(StartedAttempt::new(&events, attempt));
        let panicked = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let _attempt = StartedAttempt::new(&events, attempt);
            panic!("a bug of ours");
        }));
        assert!(panicked.is_err());
        assert_eq!((starts.load(Ordering::Relaxed), ends.load(Ordering::Relaxed)), (3, 3));
    }
}
