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

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use job_utils::backoff::Backoff;
use job_utils::config::{WorkerConfig, in_words};
use job_utils::db::{Claim, Claimed, DbError, Listener, WorkerDb};
use job_utils::error::chain;
use job_utils::shutdown::Shutdown;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Stopped;
use crate::attempt::Runner;
use crate::drain::{Draining, drain};
use crate::lane::{Lane, lanes};
use crate::slots::{BATCH, Slots};
use crate::wake::Vigil;

/// How late the end of an overdue job may be noticed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

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
    poll_interval: Duration,
    /// When a lock no longer counts: never before its holder has had the time to find the callback overdue.
    job_expiry: Duration,
    callback_timeout: Duration,
    sweep_interval: Duration,
    /// The sweep under way.
    sweep: JoinSet<()>,
    /// Buffered jobs that are being given back.
    giving_back: JoinSet<()>,
    next_sweep: Instant,
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
    took: Duration,
    claimed: Result<Claimed, DbError>,
}

impl Claimer {
    pub(crate) fn new(
        config: &WorkerConfig,
        db: WorkerDb,
        runner: Arc<Runner>,
        slots: Arc<Slots>,
        listener: Listener,
    ) -> Self {
        let sweep_interval = config.poll_interval.min(SWEEP_INTERVAL).min(config.callback_timeout);
        let now = Instant::now();
        Self {
            vigil: Vigil::new(db.clone(), listener.clone()),
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
            job_expiry: config.job_expiry.max(config.callback_timeout.saturating_add(2 * sweep_interval)),
            callback_timeout: config.callback_timeout,
            sweep_interval,
            sweep: JoinSet::new(),
            giving_back: JoinSet::new(),
            next_sweep: now + sweep_interval,
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(1)),
            failing: false,
        }
    }

    /// Claims until told to stop, then drains.
    pub(crate) async fn run(mut self, shutdown: &Shutdown) -> Stopped {
        while !shutdown.is_triggered() {
            self.look();
            let (next_look, aged) = (self.next_look(), self.slots.aged_at(BUFFER_AGE));
            let next_sweep = self.slots.needs_sweep().then_some(self.next_sweep);
            tokio::select! {
                biased;
                () = shutdown.triggered() => {}
                Some(look) = self.claims.next() => self.looked(look),
                () = self.listener.wake.woken() => self.wake(),
                () = self.vigil.again.notified() => self.wake(),
                () = self.slots.room.notified() => self.room(),
                Some(ended) = self.running.join_next() => {
                    if let Err(error) = ended {
                        // A panic in our own code: the job's lock stays until it is released or expires.
                        tracing::error!("a slot was lost: {error}");
                    }
                }
                Some(_) = self.sweep.join_next() => {}
                Some(_) = self.giving_back.join_next() => {}
                () = tokio::time::sleep_until(next_look) => self.due(),
                () = sleep_until(aged) => self.give_back_aged(),
                () = sleep_until(next_sweep) => self.start_sweep(),
            }
        }
        self.end_claims().await;
        let stopped = *self.stopped.get_or_insert_with(Instant::now);
        let Self { db, listener, slots, running, grace, .. } = self;
        drain(Draining { db, listener, slots, running, grace, stopped }).await
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
            let (db, job_expiry, horizon) = (self.db.clone(), self.job_expiry, self.poll_interval);
            let freed = self.slots.take_freed(index, limit);
            let (tasks, excluded, position) = (lane.tasks.clone(), lane.excluded.clone(), lane.position.clone());
            self.claims.push(Box::pin(async move {
                let claim = Claim {
                    tasks: tasks.as_deref(),
                    excluded: &excluded,
                    limit,
                    job_expiry,
                    deep,
                    position: &position,
                    freed: &freed,
                    horizon,
                };
                let claimed = db.claim(claim).await;
                Look { lane: index, deep, limit, freed, took: now.elapsed(), claimed }
            }));
        }
    }

    fn looked(&mut self, Look { lane: index, deep, limit, freed, took, claimed }: Look) {
        let now = Instant::now();
        let lane = &mut self.lanes[index];
        lane.end(limit);
        match claimed {
            Ok(claimed) => {
                if deep {
                    lane.end_deep(took);
                }
                match claimed {
                    Claimed::Jobs(jobs) => {
                        lane.position.advance(&jobs, &freed);
                        lane.more = true;
                        lane.exhausted = jobs.len() < limit;
                        // A queue's jobs come one by one, however fast its worker is.
                        if lane.exhausted && !self.slots.has_freed(index) {
                            lane.pace(now - took);
                            // One job of each named queue: there others may be due beyond those that were seen.
                            let whole = jobs.iter().all(|job| job.queue_name.is_none());
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
                        let wait = due.map_or(self.poll_interval, |due| due.min(self.poll_interval));
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
                    tracing::warn!("cannot claim, trying again: {}", chain(&error));
                }
                lane.next_look = now + self.backoff.next_wait();
                // What it would have claimed may lie behind what another look has.
                lane.deep_took = Duration::ZERO;
                self.slots.put_freed(index, freed);
                // It may have been carried out all the same.
                self.slots.recount();
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
                    if let Ok(Claimed::Jobs(jobs)) = look.claimed {
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
        let ids = self.slots.take_aged(BUFFER_AGE);
        if ids.is_empty() {
            return;
        }
        let db = self.db.clone();
        self.giving_back.spawn(async move {
            let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
            loop {
                match db.release(Some(&ids)).await {
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

    /// Fails accepted jobs whose callback never came, in a task of its own: a row that somebody holds must not hold up the
    /// claims.
    fn start_sweep(&mut self) {
        self.next_sweep = Instant::now() + self.sweep_interval;
        if !self.sweep.is_empty() {
            return;
        }
        let (db, limit) = (self.db.clone(), self.callback_timeout);
        let (in_flight, before) = self.slots.start_count();
        let slots = self.slots.clone();
        self.sweep.spawn(async move {
            let message = format!("no callback within {}", in_words(limit));
            // Jobs claimed from now on are not among those in flight, but not yet overdue either.
            match db.fail_overdue(limit, &message, &in_flight).await {
                Ok((ids, held)) => {
                    for id in ids {
                        tracing::warn!(job.id = id, "job failed: {message}");
                    }
                    slots.recount_accepted(before, held);
                }
                Err(error) => {
                    tracing::debug!("cannot look for overdue callbacks: {}", chain(&error));
                    slots.recount();
                }
            }
        });
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
