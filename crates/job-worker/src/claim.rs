//! Claim: keep the worker's slots full with due jobs.
//!
//! The worker claims when it is woken (by a notification, or a reconnection), when the next waiting job is due, when
//! there is room and may be more, and at every poll interval. A claim that finds nothing lets it sleep. A wake-up that
//! comes during the claim is kept, so it is not lost.
//!
//! ```text
//!   Poller (one a lane)   when to claim, and from where         ClaimsInFlight   statements sent and not answered
//!   ClaimFailures         the pace while claims fail            SlotTasks        what runs what was claimed
//!   WaiterRegistration    wake-ups, where writes notify on      HeartbeatTimer   heartbeats alone, or with a claim
//!                         demand only
//!   Reconciler            jobs locked for this process and      BufferRelease    jobs that wait for a slot too long
//!                         not known to it
//!   Cancellations         attempts that somebody has cancelled
//!   Refusals              jobs that cannot be claimed
//! ```

mod buffer_release;
mod cancellations;
mod failures;
mod in_flight;
mod poller;
mod reconcile;
mod refusals;
mod slot_tasks;
mod waiter;

use std::sync::Arc;
use std::time::Duration;

use crate::config::WorkerConfig;
use job_pg::{ClaimReply, Claimed, DbError, Job, Listener, WorkerDb};
use job_utils::events::Events;
use job_utils::shutdown::Shutdown;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use crate::attempt::Runner;
use crate::claim::buffer_release::BufferRelease;
use crate::claim::cancellations::Cancellations;
use crate::claim::failures::ClaimFailures;
use crate::claim::in_flight::{ClaimsInFlight, EndedClaim};
use crate::claim::poller::Poller;
use crate::claim::reconcile::Reconciler;
use crate::claim::refusals::Refusals;
use crate::claim::slot_tasks::SlotTasks;
use crate::claim::waiter::WaiterRegistration;
use crate::drain::{Drain, Stopped};
use crate::heartbeat::HeartbeatTimer;
use crate::heartbeat_thread::HeartbeatThread;
use crate::lane::lanes;
use crate::slots::Slots;

/// How long a stop waits for a claim in flight at most. What it claims is known then, and need not be found out.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(1);

/// Claims jobs and starts them.
pub(crate) struct Claimer {
    slots: Arc<Slots>,
    listener: Listener,
    poll_interval: Duration,
    /// One for each lane.
    pollers: Vec<Poller>,
    claims: ClaimsInFlight,
    failures: ClaimFailures,
    running: SlotTasks,
    waiter: WaiterRegistration,
    heartbeat: HeartbeatTimer,
    reconciler: Reconciler,
    buffer_release: BufferRelease,
    cancellations: Cancellations,
    refusals: Refusals,
    drain: Drain,
    runner: Arc<Runner>,
}

impl Claimer {
    pub(crate) fn new(
        config: &WorkerConfig,
        db: WorkerDb,
        runner: Arc<Runner>,
        slots: Arc<Slots>,
        listener: Listener,
        events: &Events,
    ) -> Self {
        let (now, poll_interval) = (Instant::now(), config.poll_interval);
        let heartbeat = HeartbeatTimer::new(config, db.clone(), listener.clone(), slots.clone(), events.clone());
        let thread = runner.longest_handler().and_then(|longest| {
            let (last, interval) = heartbeat.last();
            HeartbeatThread::start(db.clone(), last, interval, longest, events.clone())
        });
        let pollers = lanes(config).into_iter().map(|lane| Poller::new(lane.tasks, poll_interval, now));
        Self {
            poll_interval,
            pollers: pollers.collect(),
            claims: ClaimsInFlight::new(db.clone(), slots.clone()),
            failures: ClaimFailures::new(),
            running: SlotTasks::new(runner.clone()),
            waiter: WaiterRegistration::new(db.clone(), listener.clone()),
            heartbeat,
            reconciler: Reconciler::new(db.clone(), slots.clone(), events.clone()),
            buffer_release: BufferRelease::new(db.clone(), slots.clone()),
            refusals: Refusals::new(db.clone()),
            cancellations: Cancellations::new(db.clone(), slots.clone(), listener.clone()),
            drain: Drain::new(config, db, slots.clone(), thread),
            slots,
            listener,
            runner,
        }
    }

    /// Claims until told to stop, then drains.
    pub(crate) async fn run(mut self, shutdown: &Shutdown) -> Stopped {
        while !shutdown.is_triggered() {
            self.start_claims();
            let (poll_at, claims_in_flight) = (self.poll_at(), !self.claims.is_empty());
            tokio::select! {
                biased;
                () = shutdown.triggered() => {}
                // First of all: under load the others are ready again and again.
                expired = self.heartbeat.sent() => if expired { self.wake() },
                Some(ended) = self.claims.next() => self.claim_ended(ended),
                () = self.slots.succeeded.notified() => self.start_successors(),
                () = self.waiter.woken() => self.wake(),
                () = self.slots.room.notified() => self.wake_lanes_with_freed_gates(),
                () = self.running.ended() => {}
                () = self.reconciler.searched(claims_in_flight) => self.wake(),
                () = tokio::time::sleep_until(poll_at) => self.poll(),
                () = self.buffer_release.released() => {}
                () = self.cancellations.end_attempts() => {}
                () = self.refusals.tell() => {}
            }
        }
        let (stopped, held) = (Instant::now(), self.slots.held());
        self.end_claims(stopped).await;
        let (heartbeat, cancellations) = (self.heartbeat, self.cancellations);
        let heartbeat = AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::join!(heartbeat.go_on(), cancellations.go_on());
        }));
        self.drain.run(stopped, held, self.running.into_inner(), heartbeat).await
    }

    /// Starts a claim for every lane that has room and may find something.
    fn start_claims(&mut self) {
        let now = Instant::now();
        // After a crash or a failover the database may have forgotten that a job was accepted, or done.
        if self.listener.take_gap() | self.slots.take_reconcile_request() {
            self.reconciler.request(now);
        }
        if self.reconciler.pauses_claims() {
            return;
        }
        self.claims.left = match &self.runner.dispatcher {
            Some(dispatcher) => dispatcher.left_tasks(),
            None => Vec::new(),
        };
        let careful = self.refusals.is_careful(now);
        let mut heartbeat_due = self.heartbeat.is_due(now) && !careful;
        for (lane, poller) in self.pollers.iter_mut().enumerate() {
            let freed = self.slots.freed_gates(lane);
            if !poller.may_claim(freed, now) {
                continue;
            }
            let limit = self.slots.wanted(lane, poller.claiming());
            if limit == 0 {
                continue;
            }
            let Some(from_start) = poller.begin(limit, freed, now) else { continue };
            // One claim carries the heartbeat. One that goes on from the cursor has to be quick, and carries none.
            let heartbeat = (from_start && std::mem::take(&mut heartbeat_due)).then(|| self.slots.monitors.running());
            self.claims.start(lane, poller, limit, from_start, heartbeat, careful);
        }
    }

    fn claim_ended(&mut self, ended: EndedClaim) {
        let EndedClaim { lane, from_start, limit, careful, freed, took, found, .. } = ended;
        self.pollers[lane].end(limit);
        let ClaimReply { claimed, heartbeat, last_gate, placed, hosts } = match found {
            Ok(found) => found,
            Err(error) => return self.claim_failed(lane, freed, &error),
        };
        let now = Instant::now();
        if careful {
            self.refusals.ask();
        }
        if let Some(found) = heartbeat {
            self.heartbeat.carried(found);
        }
        let poller = &mut self.pollers[lane];
        if from_start {
            poller.scanned(took, placed);
            poller.cursor.advance_gates(last_gate);
        }
        let jobs: &[Job] = if let Claimed::Jobs(jobs) = &claimed { jobs } else { &[] };
        if let Some(dispatcher) = &self.runner.dispatcher {
            dispatcher.claimed(&hosts, from_start, now - took, jobs);
        }
        match claimed {
            Claimed::Jobs(jobs) => self.claimed(lane, jobs, limit, now - took),
            Claimed::Nothing { .. } if !from_start => poller.found_nothing_ahead(now),
            Claimed::Nothing { due, on_demand } => {
                poller.found_nothing(now, due, self.listener.is_listening());
                self.waiter.found_nothing(on_demand);
            }
        }
        if self.failures.succeeded() {
            // Lanes that were woken meanwhile have kept the pace of the failures.
            self.wake();
        }
    }

    /// A claim for up to `limit` jobs, which began then, has found these.
    fn claimed(&mut self, lane: usize, jobs: Vec<Job>, limit: usize, began: Instant) {
        let poller = &mut self.pollers[lane];
        let exhausted = poller.found(&jobs, limit);
        // A queue's jobs come one by one, however fast its worker is.
        if exhausted && self.slots.freed_gates(lane) == 0 {
            poller.pace(began, &jobs, self.waiter.always_notified());
        }
        for job in self.slots.fill(lane, self.cancellations.without_cancelled(jobs)) {
            self.running.start(lane, job);
        }
        self.waiter.found_something(self.pollers.iter().any(|poller| !poller.is_awake()));
    }

    /// Jobs that have taken the place of others start.
    fn start_successors(&mut self) {
        for (lane, job) in self.slots.start_held() {
            self.running.start(lane, job);
        }
    }

    fn claim_failed(&mut self, lane: usize, freed: Vec<String>, error: &DbError) {
        let retry_at = self.failures.failed(error, || self.slots.monitors.blocked());
        self.pollers[lane].failed(retry_at);
        self.refusals.claim_failed(error);
        self.slots.put_freed_gates(lane, freed);
        if error.is_ambiguous() {
            self.slots.request_reconcile();
        }
    }

    /// There may be something for every lane.
    fn wake(&mut self) {
        for poller in &mut self.pollers {
            poller.wake(self.failures.is_failing());
        }
    }

    /// There is room again. What a gate lets start now is claimed at once.
    fn wake_lanes_with_freed_gates(&mut self) {
        let now = Instant::now();
        for (lane, poller) in self.pollers.iter_mut().enumerate() {
            if self.slots.freed_gates(lane) > 0 {
                poller.hurry(now);
                poller.wake(self.failures.is_failing());
            }
        }
    }

    /// When to claim although nothing has asked for it.
    fn poll_at(&self) -> Instant {
        let now = Instant::now();
        self.pollers.iter().filter_map(|poller| poller.poll_at(now)).min().unwrap_or(now + self.poll_interval)
    }

    fn poll(&mut self) {
        let now = Instant::now();
        for poller in &mut self.pollers {
            poller.poll(now);
        }
    }

    /// Lets claims in flight end, so that what they claimed is known; but one that hangs cannot hold up the stop. It is
    /// cancelled, and what it may have claimed all the same is given back with everything else that is held.
    async fn end_claims(&mut self, stopped: Instant) {
        self.slots.stop_starting();
        let deadline = stopped + CLAIM_TIMEOUT.min(self.drain.grace / 2);
        // What is being given back would otherwise be waited for as if it ran.
        let _ = timeout_at(deadline, self.buffer_release.ended()).await;
        loop {
            match timeout_at(deadline, self.claims.next()).await {
                Ok(None) => return,
                Ok(Some(ended)) => {
                    if let Ok(ClaimReply { claimed: Claimed::Jobs(jobs), .. }) = ended.found {
                        self.slots.hold(ended.lane, jobs);
                    }
                }
                Err(_) => {
                    tracing::warn!("a claim hangs: stopping without it");
                    self.claims.cancel();
                    return;
                }
            }
        }
    }
}
