//! Claim: keep the worker's slots full with due jobs.
//!
//! Look when woken (a notification, a reconnection), when the next waiting job is due, when there is room and may be more,
//! and at every poll interval as a net. A look that finds nothing goes to sleep; a wake-up that came during the look was
//! registered before it, so it is not lost.
//!
//! Most looks go on from where the last one ended, also the first one after a wake-up: a new job lies ahead of it. Those from
//! the beginning, which may have to walk over the dead entries of every job done since the last vacuum, take a small part of
//! the time; and a worker never goes to sleep without one.

use std::sync::Arc;
use std::time::Duration;

use crate::config::WorkerConfig;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use job_pg::{Claim, Claimed, DbError, Found, Listener, WorkerDb};
use job_utils::backoff::Backoff;
use job_utils::config::in_words;
use job_utils::error::chain;
use job_utils::shutdown::Shutdown;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::Stopped;
use crate::accept::store_deadlines;
use crate::attempt::Runner;
use crate::drain::{Draining, drain};
use crate::heartbeat::Pulse;
use crate::lane::{Lane, lanes};
use crate::slots::{BATCH, Slots};
use crate::stand_in::StandIn;
use crate::wake::Vigil;

/// After a doubt, how long to wait each time before looking for jobs that are locked for this process and not known to it: a
/// statement whose connection was lost may still be under way. The last is the first.
const DOUBT_PAUSES: &[Duration] = &[Duration::from_secs(30), Duration::from_secs(2), Duration::from_secs(2)];

/// How long a stop waits for a claim under way at most. What it claims is known then, and need not be found out.
const CLAIM_PATIENCE: Duration = Duration::from_secs(1);

/// How long a claimed job may wait for a slot before it is given back.
const BUFFER_AGE: Duration = Duration::from_secs(2);

/// Claims jobs and starts them.
pub(crate) struct Claimer {
    db: WorkerDb,
    grace: Duration,
    listener: Listener,
    slots: Arc<Slots>,
    vigil: Vigil,
    /// The slots in use.
    running: JoinSet<()>,
    /// When the stop began.
    stopped: Option<Instant>,
    runner: Arc<Runner>,
    lanes: Vec<Lane>,
    claims: FuturesUnordered<BoxFuture<'static, Look>>,
    /// How many bytes of payloads they might bring.
    payload_bytes: usize,
    poll_interval: Duration,
    callback_timeout: Duration,
    pulse: Pulse,
    /// Sends heartbeats when handlers block the runtime.
    stand_in: Option<StandIn>,
    /// Stores deadlines of accepted jobs.
    accepting: AbortOnDropHandle<()>,
    /// How many looks for unknown jobs are due, when the next one is, and the one under way.
    doubts: usize,
    next_doubt: Instant,
    /// No claim starts until the look that is due has been made.
    pausing: bool,
    clearing: JoinSet<bool>,
    /// Buffered jobs that are being given back.
    giving_back: JoinSet<()>,
    backoff: Backoff,
    failing: bool,
}

/// A look that has ended.
struct Look {
    lane: usize,
    deep: bool,
    limit: usize,
    /// The queues it was told of.
    freed: Vec<String>,
    /// How many bytes of payloads it might bring.
    payload_bytes: usize,
    took: Duration,
    found: Result<Found, DbError>,
}

impl Claimer {
    pub(crate) fn new(
        config: &WorkerConfig,
        db: WorkerDb,
        runner: Arc<Runner>,
        slots: Arc<Slots>,
        listener: Listener,
    ) -> Self {
        let now = Instant::now();
        let pulse = Pulse::new(config, db.clone(), listener.clone(), slots.clone());
        Self {
            vigil: Vigil::new(db.clone(), listener.clone()),
            stand_in: runner.longest_handler().and_then(|longest| pulse.stand_in(longest)),
            pulse,
            payload_bytes: 0,
            accepting: AbortOnDropHandle::new(tokio::spawn(store_deadlines(
                db.clone(),
                slots.clone(),
                config.callback_timeout,
            ))),
            db,
            grace: config.shutdown_grace,
            listener,
            slots,
            running: JoinSet::new(),
            stopped: None,
            runner,
            lanes: lanes(config).into_iter().map(|(_, filter)| Lane::new(filter, now)).collect(),
            claims: FuturesUnordered::new(),
            poll_interval: config.poll_interval,
            callback_timeout: config.callback_timeout,
            doubts: 0,
            next_doubt: now,
            pausing: false,
            clearing: JoinSet::new(),
            giving_back: JoinSet::new(),
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(1)),
            failing: false,
        }
    }

    /// Claims until told to stop, then drains.
    pub(crate) async fn run(mut self, shutdown: &Shutdown) -> Stopped {
        while !shutdown.is_triggered() {
            self.look();
            let (next_look, aged) = (self.next_look(), self.slots.aged_at(BUFFER_AGE));
            let alone_at = self.pulse.alone_at();
            let next_doubt = (self.doubts > 0 && self.clearing.is_empty()).then_some(self.next_doubt);
            tokio::select! {
                biased;
                () = shutdown.triggered() => {}
                // First of all: under load the others are ready again and again.
                () = tokio::time::sleep_until(alone_at) => self.pulse.send(),
                expired = self.pulse.sent() => if expired { self.wake() },
                Some(look) = self.claims.next() => self.looked(look),
                () = self.listener.wake.woken() => self.wake(),
                () = self.vigil.again.notified() => self.wake(),
                () = self.slots.room.notified() => self.room(),
                Some(ended) = self.running.join_next() => self.slot_ended(ended),
                Some(cleared) = self.clearing.join_next() => self.cleared(cleared.unwrap_or(false)),
                Some(_) = self.giving_back.join_next() => {}
                () = tokio::time::sleep_until(next_look) => self.due(),
                () = sleep_until(aged) => self.give_back_aged(),
                () = sleep_until(next_doubt) => self.clear_doubt(),
            }
        }
        self.end_claims().await;
        let stopped = *self.stopped.get_or_insert_with(Instant::now);
        let heartbeat = AbortOnDropHandle::new(tokio::spawn(self.pulse.go_on()));
        let Self { db, slots, running, grace, accepting, callback_timeout, stand_in, .. } = self;
        drain(Draining { db, slots, running, grace, accepting, callback_timeout, heartbeat, stand_in, stopped }).await
    }

    /// Slots end in crowds, when jobs are quick.
    fn slot_ended(&mut self, ended: Result<(), JoinError>) {
        let mut next = Some(ended);
        while let Some(ended) = next {
            if let Err(error) = ended {
                // A panic in our own code: the job's lock stays until it is released or expires.
                tracing::error!("a slot was lost: {error}");
            }
            next = self.running.try_join_next();
        }
    }

    /// When to look although nobody has asked for it.
    fn next_look(&self) -> Instant {
        let now = Instant::now();
        // What is about to look, or has no room to, is told by other means.
        let waiting = self.lanes.iter().filter(|lane| lane.looks == 0 && (!lane.more || lane.next_look > now));
        waiting.map(|lane| lane.next_look).min().unwrap_or(now + self.poll_interval)
    }

    fn due(&mut self) {
        let now = Instant::now();
        for lane in &mut self.lanes {
            lane.more |= lane.next_look <= now;
        }
    }

    /// There may be something for every lane.
    fn wake(&mut self) {
        for lane in &mut self.lanes {
            lane.wake(self.failing);
        }
    }

    /// There is room again. What has just been freed in a named queue is looked for at once.
    fn room(&mut self) {
        let now = Instant::now();
        for (i, lane) in self.lanes.iter_mut().enumerate() {
            if self.slots.has_freed(i) {
                lane.not_before = now;
                lane.wake(self.failing);
            }
        }
    }

    /// Starts a look for every lane that has room and may find something.
    fn look(&mut self) {
        let now = Instant::now();
        // After a crash or a failover the database may have forgotten that a job was accepted, or done.
        if self.listener.take_gap() | self.slots.take_doubt() {
            // One that is due is not put off.
            let next = if self.doubts > 0 { self.next_doubt } else { now + DOUBT_PAUSES[DOUBT_PAUSES.len() - 1] };
            (self.doubts, self.next_doubt) = (DOUBT_PAUSES.len(), next.min(now + DOUBT_PAUSES[DOUBT_PAUSES.len() - 1]));
        }
        if self.pausing || !self.clearing.is_empty() {
            return;
        }
        let mut heartbeat = self.pulse.is_due(now);
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            if !lane.may_look() || !lane.more || lane.next_look > now {
                continue;
            }
            let limit = self.slots.wanted(index, lane.claiming);
            if limit == 0 {
                continue;
            }
            let deep_at = lane.deep_at(self.poll_interval);
            // A worker with one free slot must not give it to the first job that it sees of several.
            let ahead = lane.goes_ahead() && limit > 1 && !lane.position.is_empty();
            let deep = now >= deep_at && !ahead;
            if lane.looks > 0 && (deep || limit < BATCH) {
                // What a look from the beginning says must hold for the whole lane, and half a batch can wait.
                continue;
            }
            if !deep && lane.position.is_empty() {
                // There is nothing to continue from.
                lane.next_look = deep_at;
                continue;
            }
            lane.begin(limit, ahead, self.poll_interval);
            let (db, horizon) = (self.db.clone(), self.poll_interval);
            let freed = self.slots.take_freed(index, limit);
            let (tasks, excluded, position) = (lane.tasks.clone(), lane.excluded.clone(), lane.position.clone());
            // One look carries it; one that has to be quick does not.
            let heartbeat = (deep && std::mem::take(&mut heartbeat)).then(|| self.slots.places.running());
            // Half of what is left: looks beside this one need a share, too.
            let payload_bytes = self.slots.payload_room(self.payload_bytes) / 2;
            self.payload_bytes += payload_bytes;
            self.claims.push(Box::pin(async move {
                let claim = Claim {
                    tasks: tasks.as_deref(),
                    excluded: &excluded,
                    limit,
                    deep,
                    position: &position,
                    freed: &freed,
                    horizon,
                    heartbeat: heartbeat.as_ref(),
                    payload_bytes,
                };
                let found = db.claim(claim).await;
                Look { lane: index, deep, limit, freed, payload_bytes, took: now.elapsed(), found }
            }));
        }
    }

    fn looked(&mut self, look: Look) {
        let Look { lane: index, deep, limit, freed, payload_bytes, took, found } = look;
        let now = Instant::now();
        self.payload_bytes -= payload_bytes;
        let lane = &mut self.lanes[index];
        lane.end(limit);
        match found {
            Ok(Found { claimed, heartbeat }) => {
                if let Some(found) = heartbeat {
                    self.pulse.carried(found);
                }
                if deep {
                    lane.end_deep(took);
                }
                match claimed {
                    Claimed::Jobs(jobs) => {
                        lane.busy();
                        lane.position.advance(&jobs, &freed);
                        lane.more = true;
                        lane.exhausted = jobs.len() < limit;
                        // A queue's jobs come one by one, however fast its worker is.
                        if lane.exhausted && !self.slots.has_freed(index) {
                            lane.pace(now - took);
                            // One job of each named queue: there others may be due beyond those that were seen.
                            let whole = jobs.iter().all(|job| job.queue.is_none());
                            if whole && !lane.woken && self.vigil.always_woken() {
                                lane.next_look = lane.last_look_at(self.poll_interval);
                            }
                        }
                        for job in self.slots.fill(index, jobs) {
                            self.running.spawn(self.runner.clone().run_slot(index, job));
                        }
                        self.vigil.found_something(self.lanes.iter().any(|lane| !lane.more));
                    }
                    Claimed::Nothing { .. } if !deep => {
                        lane.exhausted = true;
                        lane.next_look = if lane.woken { now } else { lane.deep_at(self.poll_interval) };
                    }
                    Claimed::Nothing { due, on_demand } => {
                        lane.exhausted = true;
                        let poll_interval = self.poll_interval;
                        let pause = if self.listener.is_deaf() { lane.pause(poll_interval) } else { poll_interval };
                        let wait = due.map_or(pause, |due| due.min(pause));
                        lane.more = lane.woken;
                        lane.next_look = if lane.woken { now } else { now + wait };
                        self.vigil.found_nothing(on_demand);
                    }
                }
                if std::mem::take(&mut self.failing) {
                    tracing::info!("claiming again");
                    self.backoff.reset();
                    // Lanes that were woken meanwhile have kept the pace of failure.
                    self.wake();
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    match self.slots.places.blocked() {
                        None => tracing::warn!("cannot claim, trying again: {}", chain(&error)),
                        Some(held) => tracing::warn!(
                            "cannot claim, trying again: a handler has blocked a thread for {}, and the worker with it: {}",
                            in_words(Duration::from_secs(held.as_secs())),
                            chain(&error)
                        ),
                    }
                }
                lane.next_look = now + self.backoff.next_wait();
                // What it would have claimed may lie behind what another look has.
                lane.deep_took = Duration::ZERO;
                self.slots.put_freed(index, freed);
                if error.is_ambiguous() {
                    self.slots.doubt();
                }
            }
        }
    }

    /// A stop lets claims under way end, so that what they claimed is known; but one that hangs cannot hold up the stop. It
    /// is cancelled, and what it may have claimed all the same is given back with everything else that is held.
    async fn end_claims(&mut self) {
        let stopped = *self.stopped.get_or_insert_with(Instant::now);
        self.slots.stop_starting();
        let deadline = stopped + CLAIM_PATIENCE.min(self.grace / 2);
        // What is being given back would otherwise be waited for as if it ran.
        let _ =
            tokio::time::timeout_at(deadline, async { while self.giving_back.join_next().await.is_some() {} }).await;
        loop {
            match tokio::time::timeout_at(deadline, self.claims.next()).await {
                Ok(None) => return,
                Ok(Some(look)) => {
                    if let Ok(Found { claimed: Claimed::Jobs(jobs), .. }) = look.found {
                        self.slots.hold(look.lane, jobs);
                    }
                }
                Err(_) => {
                    tracing::warn!("a claim hangs: stopping without it");
                    self.claims.clear();
                    return;
                }
            }
        }
    }

    /// Gives back what has waited for a slot too long: another worker may have one free.
    fn give_back_aged(&mut self) {
        let claims = self.slots.take_aged(BUFFER_AGE);
        if claims.is_empty() {
            return;
        }
        let db = self.db.clone();
        self.giving_back.spawn(async move {
            let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
            loop {
                match db.release(&claims).await {
                    Ok(jobs) => {
                        tracing::debug!(jobs, "gave back jobs that waited for a free slot");
                        return;
                    }
                    Err(error) => tracing::warn!("cannot give back jobs yet that wait for a slot: {}", chain(&error)),
                }
                tokio::time::sleep(backoff.next_wait()).await;
            }
        });
    }

    /// Interrupts jobs that are locked for this process and not known to it: its heartbeat would keep them for good. What a claim
    /// under way brings would be taken for such a job, so claims pause.
    fn clear_doubt(&mut self) {
        self.pausing = !self.claims.is_empty();
        if self.pausing {
            self.next_doubt = Instant::now() + Duration::from_millis(10);
            return;
        }
        self.doubts -= 1;
        let (db, known) = (self.db.clone(), self.slots.known());
        self.clearing.spawn(async move {
            let reason =
                format!("worker {} lost track of the job: an answer of the database did not come", db.worker_id());
            match db.interrupt_unknown(&reason, &known).await {
                Ok(ids) => {
                    if !ids.is_empty() {
                        tracing::warn!(jobs = ids.len(), "gave up jobs that this worker had lost track of");
                    }
                    true
                }
                Err(error) => {
                    tracing::debug!("cannot look for jobs that were lost track of: {}", chain(&error));
                    false
                }
            }
        });
    }

    fn cleared(&mut self, done: bool) {
        if !done {
            self.doubts = DOUBT_PAUSES.len();
        }
        self.next_doubt = Instant::now() + DOUBT_PAUSES[self.doubts.saturating_sub(1)];
        self.wake();
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
