//! Heartbeat: show that this worker lives, and log what was found out about others on the way.
//!
//! A claim from the start carries the heartbeat along when it is due, so that an idle worker sends one statement per
//! poll interval. When no such claim comes, the heartbeat goes alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::WorkerConfig;
use job_pg::{ClaimId, DbError, ExhaustedJob, Heartbeat, Interrupted, Listener, WorkerDb};
use job_utils::backoff::Backoff;
use job_utils::error::chain;
use job_utils::events::{Attempt, Event, Events, Source};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::slots::Slots;

/// The longest time between two heartbeats, and so how late the end of a lease or of a deadline may be noticed.
const LONGEST_INTERVAL: Duration = Duration::from_secs(5);

/// How long a heartbeat waits for a claim that carries it.
const CLAIM_WAIT: Duration = Duration::from_millis(300);

/// How long the session of an earlier process may take to connect anew before it counts as ended.
const RECONNECT_TIMEOUT: Duration = Duration::from_millis(1500);

/// How long an attempt whose job is gone may still take to end by itself.
const TAKEN_AWAY_GRACE: Duration = Duration::from_millis(1500);

/// How many heartbeats may be lost before the lease ends.
const PER_LEASE: u32 = 6;

/// When the worker's own last heartbeat got through.
#[derive(Clone)]
pub(crate) struct LastHeartbeat {
    origin: std::time::Instant,
    /// Milliseconds since the origin.
    at: Arc<AtomicU64>,
}

impl LastHeartbeat {
    pub(crate) fn new() -> Self {
        Self { origin: std::time::Instant::now(), at: Arc::default() }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// One has got through.
    pub(crate) fn set_now(&self) {
        self.at.store(self.now(), Ordering::Relaxed);
    }

    pub(crate) fn age(&self) -> Duration {
        Duration::from_millis(self.now().saturating_sub(self.at.load(Ordering::Relaxed)))
    }
}

/// When to send heartbeats.
pub(crate) struct HeartbeatTimer {
    db: WorkerDb,
    slots: Arc<Slots>,
    last: LastHeartbeat,
    /// Ends attempts that have been taken away.
    ending: JoinSet<()>,
    /// Its connection sends heartbeats when the pool's do not get through.
    listener: Listener,
    interval: Duration,
    /// When the next one is due, and how long it waits then for a claim that carries it.
    next: Instant,
    claim_wait: Duration,
    sending: JoinSet<Result<Heartbeat, DbError>>,
    failing: bool,
    events: Events,
}

/// How often a worker sends a heartbeat.
fn interval(config: &WorkerConfig) -> Duration {
    LONGEST_INTERVAL.min(config.lease / PER_LEASE).min(config.callback_timeout.max(Duration::from_millis(500)))
}

impl HeartbeatTimer {
    /// The worker has just registered by its first heartbeat.
    pub(crate) fn new(
        config: &WorkerConfig,
        db: WorkerDb,
        listener: Listener,
        slots: Arc<Slots>,
        events: Events,
    ) -> Self {
        let interval = interval(config);
        let (sending, ending, failing) = Default::default();
        let (last, next, claim_wait) = (LastHeartbeat::new(), Instant::now() + interval, CLAIM_WAIT.min(interval / 5));
        Self { db, slots, last, ending, listener, interval, next, claim_wait, sending, failing, events }
    }

    /// When the last one got through, and how often they are sent.
    pub(crate) fn last(&self) -> (LastHeartbeat, Duration) {
        (self.last.clone(), self.interval)
    }

    /// Whether a claim that starts now may carry one.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.sending.is_empty() && now + self.interval / 10 >= self.next
    }

    /// Sends heartbeats that no claim has carried in time, and returns when one of those has ended: whether there are
    /// jobs whose lock has expired.
    pub(crate) async fn sent(&mut self) -> bool {
        loop {
            let alone_at = self.next + self.claim_wait;
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(alone_at) => self.send(),
                Some(sent) = self.sending.join_next() => return self.ended(sent),
            }
        }
    }

    fn send(&mut self) {
        self.next = Instant::now() + self.interval;
        if self.sending.is_empty() {
            // It takes no longer than the interval: one that hangs must not keep the next from another connection.
            let (db, listener, running) = (self.db.clone(), self.listener.clone(), self.slots.monitors.running());
            self.sending.spawn(async move { db.heartbeat_by(&listener, running).await });
        }
    }

    fn ended(&mut self, sent: Result<Result<Heartbeat, DbError>, JoinError>) -> bool {
        match sent {
            Ok(Ok(found)) => {
                let expired = found.expired;
                self.carried(found);
                expired
            }
            Ok(Err(error)) => {
                // Soon again: a lease is at stake.
                self.next = Instant::now() + self.interval / 5;
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!("cannot send a heartbeat, trying again: {}", chain(&error));
                }
                false
            }
            Err(error) => {
                tracing::error!("a heartbeat was lost: {error}");
                false
            }
        }
    }

    /// A heartbeat has got through.
    pub(crate) fn carried(&mut self, found: Heartbeat) {
        self.next = Instant::now() + self.interval;
        self.failing = false;
        self.last.set_now();
        emit_found(&self.events, self.db.worker_id(), &found);
        self.end_taken(found.taken);
    }

    /// Ends attempts whose claims no longer hold their jobs. Most of those have just ended by themselves: a function
    /// has called back and is about to answer.
    fn end_taken(&mut self, claims: Vec<ClaimId>) {
        while self.ending.try_join_next().is_some() {}
        if claims.is_empty() {
            return;
        }
        self.slots.jobs_gone.notify_one();
        let (slots, events) = (self.slots.clone(), self.events.clone());
        self.ending.spawn(async move {
            tokio::time::sleep(TAKEN_AWAY_GRACE).await;
            let jobs = slots.monitors.take_away(&claims);
            if !jobs.is_empty() {
                events.emit(&Event::JobsTakenAway { jobs: &jobs });
            }
        });
    }

    /// Goes on sending, for a worker that no longer claims.
    pub(crate) async fn go_on(mut self) {
        self.claim_wait = Duration::ZERO;
        loop {
            self.sent().await;
        }
    }
}

/// Registers the worker by its first heartbeat, and takes back what earlier processes with its id have left. An outage
/// of the database only delays that.
///
/// A worker that is not listening cannot tell a session that has ended from one that cannot be had. It waits for the
/// leases.
pub(crate) async fn register(db: &WorkerDb, listener: &Listener, events: &Events) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    loop {
        let registered = async {
            emit_found(events, db.worker_id(), &db.heartbeat().await?);
            let ended = if listener.is_listening() { db.ended().await? } else { Vec::new() };
            if ended.is_empty() {
                return Ok(Interrupted::default());
            }
            tokio::time::sleep(RECONNECT_TIMEOUT).await;
            if listener.is_listening() { db.take_back(&ended).await } else { Ok(Interrupted::default()) }
        };
        match registered.await {
            Ok(taken) => {
                if !taken.jobs.is_empty() {
                    events.emit(&Event::JobsTakenBack { jobs: &taken.jobs, worker_id: db.worker_id() });
                }
                emit_exhausted(events, db.worker_id(), &taken.exhausted);
                return;
            }
            Err(error) => tracing::warn!("cannot register this worker yet: {}", chain(&error)),
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

/// Tells what a heartbeat has found.
pub(crate) fn emit_found(events: &Events, worker_id: &str, found: &Heartbeat) {
    if !found.rescued.is_empty() {
        events.emit(&Event::JobsRescued { jobs: &found.rescued, workers: &found.silent });
    }
    for job_id in &found.overdue {
        events.emit(&Event::CallbackOverdue { job_id: *job_id });
    }
    emit_exhausted(events, worker_id, &found.exhausted);
}

/// Tells of jobs that have failed for good when the worker ended attempts that nobody runs.
pub(crate) fn emit_exhausted(events: &Events, worker_id: &str, jobs: &[ExhaustedJob]) {
    for job in jobs {
        let mut attempt = Attempt::new(Source::Rescue, job.id, worker_id);
        attempt.task = Some(&job.task);
        attempt.queue = job.queue.as_deref();
        attempt.number = Some(job.attempts);
        attempt.max_attempts = Some(job.max_attempts);
        events.emit(&Event::JobFailed { attempt, error: job.error.as_deref().unwrap_or_default() });
    }
}
