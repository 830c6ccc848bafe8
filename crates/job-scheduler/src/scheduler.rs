//! The loop: send heartbeats, which claim schedules; compare what is held with the table when woken, or at each poll
//! interval; and make the fires that are due in between.

use std::time::Duration;

use crate::config::SchedulerConfig;
use job_pg::{DbError, Identity, Listener, SchedulerDb};
use job_utils::error::chain;
use job_utils::events::Events;
use job_utils::shutdown::Shutdown;
use tokio::time::Instant;

use crate::agenda::Agenda;
use crate::clock::Clock;
use crate::materialise::BlockedFires;
use crate::{claim, materialise};

/// How long to wait before trying again while Postgres is away.
const RETRY: Duration = Duration::from_millis(500);

/// Heartbeats in a lease.
const PER_LEASE: u32 = 3;

/// After the lease of another scheduler has ended: a heartbeat of this one finds it ended, and not just about to.
const AFTER_EXPIRY: Duration = Duration::from_millis(20);

/// Without notifications: the time to the next comparison after one that has found a change, and it doubles from one to
/// the next.
const SHORTEST_POLL: Duration = Duration::from_millis(100);

/// A pause is at least so many times as long as the comparison before it took: 0.1 s with 100,000 schedules.
const POLL_PAUSE: u32 = 20;

/// The same for a comparison that a notification asks for: one change takes effect at once, many do not keep it busy.
const WAKE_PAUSE: u32 = 4;

/// Between batches of marks.
const MARK_PAUSE: Duration = Duration::from_millis(200);

/// How often to search for schedules that no scheduler takes.
const UNTAKEN_INTERVAL: Duration = Duration::from_secs(60);

/// How often to clean up.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(600);

/// How many old rows of schedule_fires are removed at once.
const PRUNE_BATCH: i32 = 10_000;

pub(crate) struct Scheduler {
    config: SchedulerConfig,
    db: SchedulerDb,
    events: Events,
    listener: Listener,
    agenda: Agenda,
    clock: Clock,
    blocked: BlockedFires,
    /// What an unregistered scheduler with this id left locked is still to be taken.
    alone: bool,
    /// When the last heartbeat that got through was sent.
    last_heartbeat: Option<Instant>,
    /// When to send a heartbeat at the latest.
    heartbeat_at: Instant,
    /// When to compare what is held at the latest.
    compare_at: Instant,
    /// And when at the earliest.
    compare_from: Instant,
    /// What has changed since the last time that there was nothing to claim.
    changes: claim::Changes,
    /// How long to pause before the next comparison, where nothing wakes.
    poll: Duration,
    /// When to write the next batch of marks.
    mark_at: Instant,
    /// When to search for schedules that no scheduler takes. One that takes all tasks does not search.
    untaken_at: Option<Instant>,
    /// When to clean up.
    cleanup_at: Instant,
    /// How many schedules to claim at once: fewer after a claim that took too long.
    batch: i32,
    /// Holders of schedules that have not registered, as far as they have been logged.
    unregistered: Vec<String>,
    /// Postgres did not answer the last time, and that has been logged.
    unreachable: bool,
}

impl Scheduler {
    pub(crate) fn new(config: SchedulerConfig, db: SchedulerDb, listener: Listener, events: Events) -> Self {
        let now = Instant::now();
        Self {
            agenda: Agenda::new(config.time_zone.clone()),
            blocked: BlockedFires::default(),
            db,
            events,
            alone: listener.identity == Identity::Sole,
            listener,
            clock: Clock::default(),
            last_heartbeat: None,
            heartbeat_at: now,
            compare_at: now,
            compare_from: now,
            changes: claim::Changes::default(),
            poll: SHORTEST_POLL,
            mark_at: now,
            untaken_at: config.tasks.as_filter().map(|_| now + config.lease),
            cleanup_at: now + config.lease * 2,
            batch: claim::BATCH,
            unregistered: Vec::new(),
            unreachable: false,
            config,
        }
    }

    /// Runs until told to stop; returns how many schedules are held then.
    pub(crate) async fn run(mut self, shutdown: &Shutdown) -> usize {
        while !shutdown.is_triggered() {
            // A stop lets the statement under way end, so that nothing is claimed after the schedules are given back;
            // but one that hangs cannot hold up the stop.
            let grace = self.config.shutdown_grace / 2;
            let hanging = async {
                shutdown.triggered().await;
                tokio::time::sleep(grace).await;
            };
            let wait_until = tokio::select! {
                () = hanging => break,
                wait_until = self.run_once() => wait_until,
            };
            tokio::select! {
                () = shutdown.triggered() => break,
                () = self.listener.wake.woken() => {
                    self.compare_soon();
                    // Whoever takes it may just be starting.
                    self.untaken_at = self.untaken_at.map(|at| at.min(Instant::now() + self.config.lease));
                }
                () = tokio::time::sleep_until(wait_until) => {}
            }
        }
        self.agenda.len()
    }

    /// Does what it is time for, and returns when to come back without a wake-up.
    async fn run_once(&mut self) -> Instant {
        match self.fire_and_claim().await {
            Ok(()) => {
                self.came_back();
                let heartbeat_at = self.heartbeat_at.min(self.compare_at);
                let mark_at = self.agenda.has_marks().then_some(self.mark_at);
                let next = self.blocked.next(&self.agenda, &self.clock);
                next.into_iter().chain(mark_at).chain(self.untaken_at).fold(heartbeat_at, Instant::min)
            }
            Err(error) => {
                self.went_away(&error);
                // What was claimed, and whether, is not known.
                self.compare_soon();
                self.heartbeat_at = Instant::now();
                Instant::now() + RETRY
            }
        }
    }

    async fn fire_and_claim(&mut self) -> Result<(), DbError> {
        // Fires first: a fire is due at a time, a claim is not. But a scheduler that has been silent for long asks
        // first which schedules it still holds.
        if self.last_heartbeat.is_none_or(|sent| sent.elapsed() >= self.config.lease) {
            self.heartbeat(false).await?;
        }
        // Fires that fail must not keep heartbeats from coming.
        let fired = self.fire().await;
        let now = Instant::now();
        let compare = now >= self.compare_at;
        if compare || now >= self.heartbeat_at {
            self.heartbeat(compare).await?;
        }
        fired?;
        if self.agenda.has_marks() && Instant::now() >= self.mark_at {
            self.mark_at = Instant::now() + MARK_PAUSE;
            claim::mark(&self.db, &mut self.agenda, &self.events).await?;
        }
        if self.untaken_at.is_some_and(|at| Instant::now() >= at) {
            self.untaken_at = Some(Instant::now() + UNTAKEN_INTERVAL);
            claim::warn_untaken(&self.db).await?;
        }
        if Instant::now() >= self.cleanup_at {
            self.cleanup_at = Instant::now() + CLEANUP_INTERVAL;
            self.clean_up().await?;
        }
        Ok(())
    }

    async fn fire(&mut self) -> Result<(), DbError> {
        let until = Instant::now() + self.config.lease / PER_LEASE;
        let (agenda, blocked) = (&mut self.agenda, &mut self.blocked);
        if materialise::run_once((&self.db, &self.events), agenda, &mut self.clock, blocked, until).await? {
            self.compare_soon();
        }
        Ok(())
    }

    /// Removes old rows of schedule_fires, and logs who else holds schedules.
    async fn clean_up(&mut self) -> Result<(), DbError> {
        if self.db.prune_fires(self.config.fires_retention, PRUNE_BATCH).await? == PRUNE_BATCH {
            self.cleanup_at = Instant::now() + RETRY;
        }
        let holders = self.db.unregistered().await?;
        if !holders.iter().map(|(name, _)| name).eq(&self.unregistered) {
            for (name, schedules) in &holders {
                tracing::warn!(
                    schedules,
                    locked_by = name,
                    "schedules are locked by a scheduler without a lease (the original's, an older version's). If it runs no \
                     longer, free them: SELECT release_scheduled_jobs('{name}')"
                );
            }
            self.unregistered = holders.into_iter().map(|(name, _)| name).collect();
        }
        Ok(())
    }

    /// A heartbeat, and what comes with it.
    async fn heartbeat(&mut self, compare: bool) -> Result<(), DbError> {
        let began = Instant::now();
        let tasks = &self.config.tasks;
        let heartbeat = claim::heartbeat(&self.db, tasks, self.batch, self.alone, compare).await;
        self.batch = match &heartbeat {
            Err(error) if error.took_too_long() => (self.batch / 2).max(1),
            Err(_) => self.batch,
            Ok(_) => (self.batch * 2).min(claim::BATCH),
        };
        let heartbeat = heartbeat?;
        self.clock.learn(heartbeat.now);
        self.agenda.steady_since(heartbeat.steady_since);
        self.last_heartbeat = Some(began);
        let interval = self.config.lease / PER_LEASE;
        self.heartbeat_at = began + heartbeat.expires_in.map_or(interval, |expiry| interval.min(expiry + AFTER_EXPIRY));
        let changes = claim::apply(&self.db, tasks, &mut self.agenda, &heartbeat, &self.events).await?;
        self.changes.taken += changes.taken;
        self.changes.gone += changes.gone;
        if !heartbeat.claimed.is_empty() {
            // There is more to claim: at once, but not before the fires that are due.
            self.heartbeat_at = began;
            return Ok(());
        }
        self.alone = false;
        let claim::Changes { taken, gone } = std::mem::take(&mut self.changes);
        if taken + gone > 0 {
            self.poll = SHORTEST_POLL;
            tracing::info!(taken, gone, held = self.agenda.len(), "schedules changed");
        }
        if compare {
            let (now, took) = (Instant::now(), began.elapsed());
            self.compare_at = now + self.pause(took);
            self.compare_from = now + took * WAKE_PAUSE;
        }
        Ok(())
    }

    /// Something has changed.
    fn compare_soon(&mut self) {
        self.compare_at = self.compare_from.max(Instant::now());
    }

    /// How long to pause after a comparison that took so long.
    fn pause(&mut self, took: Duration) -> Duration {
        let (least, longest) = (took * POLL_PAUSE, self.config.poll_interval);
        if self.listener.is_listening() {
            return longest.max(least);
        }
        let pause = self.poll.min(longest).max(least);
        self.poll = (self.poll * 2).min(longest);
        pause
    }

    fn went_away(&mut self, error: &DbError) {
        if !std::mem::replace(&mut self.unreachable, true) {
            tracing::warn!("the scheduler cannot use its database, and tries again until it can: {}", chain(error));
        }
    }

    fn came_back(&mut self) {
        let missed = self.agenda.take_missed();
        if std::mem::take(&mut self.unreachable) {
            tracing::info!("the scheduler can use its database again");
        }
        if missed > 0 {
            tracing::warn!(schedules = missed, "schedules have missed fires: schedule_fires tells which");
        }
    }
}
