//! The loop: look for schedules when woken or once in a while, and fire those that are due in between.

use std::time::Duration;

use job_utils::config::SchedulerConfig;
use job_utils::db::{DbError, Identity, Listener, SchedulerDb};
use job_utils::error::chain;
use job_utils::shutdown::Shutdown;
use tokio::time::Instant;

use crate::agenda::Agenda;
use crate::claim::Claimed;
use crate::clock::Clock;
use crate::{claim, materialise};

/// How long to wait before trying again while Postgres is away.
const RETRY: Duration = Duration::from_millis(500);

/// Without notifications: the time to the next look after one that has found a change, and it doubles from look to look.
const SHORTEST_POLL: Duration = Duration::from_millis(100);

/// Then, a pause is so many times as long as the look before it took: with many schedules it takes long.
const POLL_PAUSE: u32 = 20;

pub(crate) struct Scheduler {
    config: SchedulerConfig,
    db: SchedulerDb,
    listener: Listener,
    /// Schedules that an earlier process with this id left locked are still to be freed.
    take_back: bool,
    /// A claim failed, and Postgres may have carried it out all the same.
    adopt: bool,
    agenda: Agenda,
    /// What the look under way has brought so far.
    claimed: Claimed,
    clock: Option<Clock>,
    /// When to look for schedules at the latest.
    look_at: Instant,
    /// How long to pause before the next look, where nothing wakes.
    poll: Duration,
    /// Postgres did not answer the last time, and that has been said.
    away: bool,
    /// A fire waits for a row that another transaction holds, and that has been said.
    waiting: bool,
    /// There are schedules that perhaps nobody watches, and that has been said.
    strangers: bool,
}

impl Scheduler {
    pub(crate) fn new(config: SchedulerConfig, db: SchedulerDb, listener: Listener) -> Self {
        Self {
            agenda: Agenda::new(config.time_zone.clone()),
            config,
            db,
            take_back: listener.identity == Identity::Sole,
            listener,
            adopt: false,
            claimed: Claimed::default(),
            clock: None,
            look_at: Instant::now(),
            poll: SHORTEST_POLL,
            away: false,
            waiting: false,
            strangers: false,
        }
    }

    /// Runs until told to stop; returns what is held then.
    pub(crate) async fn run(mut self, shutdown: &Shutdown) -> Agenda {
        while !shutdown.is_triggered() {
            // A stop lets the statement under way end, so that what it claimed is known; but one that hangs cannot hold up
            // the stop.
            let patience = self.config.shutdown_grace / 2;
            let hanging = async {
                shutdown.triggered().await;
                tokio::time::sleep(patience).await;
            };
            let wait_until = tokio::select! {
                () = hanging => break,
                wait_until = self.run_once() => wait_until,
            };
            tokio::select! {
                () = shutdown.triggered() => break,
                () = self.listener.wake.woken() => self.look_at = Instant::now(),
                () = tokio::time::sleep_until(wait_until) => {}
            }
        }
        self.agenda
    }

    /// Looks when it is time to, fires what is due, and returns when to come back without a wake-up.
    async fn run_once(&mut self) -> Instant {
        match self.look_and_fire().await {
            Ok(()) => {
                self.is_back();
                let next = if self.waiting { Some(Instant::now() + RETRY) } else { self.next_at() };
                next.unwrap_or(self.look_at).min(self.look_at)
            }
            Err(error) => {
                self.is_away(&error);
                self.look_at = Instant::now() + RETRY;
                self.look_at
            }
        }
    }

    async fn look_and_fire(&mut self) -> Result<(), DbError> {
        let clock = match &mut self.clock {
            Some(clock) => {
                // A look brings the time along: asked for only by a fire that cannot wait for it.
                let due = self.agenda.next().is_some_and(|next| next <= clock.now());
                if self.away || due && clock.is_old() {
                    clock.follow(&self.db).await?;
                }
                clock
            }
            none => none.insert(Clock::start(&self.db).await?),
        };
        // Fires first: a fire is due at a time, a look is not.
        let fired = materialise::run_once(&self.db, &mut self.agenda, clock).await?;
        if let (Some(schedule), false) = (fired.waiting, self.waiting) {
            tracing::warn!(
                schedule.id = schedule,
                "a fire waits, for a row that another transaction holds or for Postgres to have room: it is tried again"
            );
        }
        self.waiting = fired.waiting.is_some();
        if Instant::now() < self.look_at {
            return Ok(());
        }
        if self.take_back {
            self.db.release_scheduled(None).await?;
            self.take_back = false;
        }
        // Only who is alone under its id may take what is locked under it.
        let adopt = self.adopt && self.listener.identity().await == Identity::Sole;
        let tasks = self.config.tasks.as_filter();
        let began = Instant::now();
        match claim::run_once(&self.db, tasks, &mut self.agenda, clock, adopt, &mut self.claimed).await {
            // There is more to claim: at once, but not before the fires that are due.
            Ok(None) => Ok(()),
            Ok(Some(Claimed { taken, gone, strange })) => {
                self.tell_of_strangers(strange);
                if taken + gone > 0 {
                    self.poll = SHORTEST_POLL;
                    tracing::info!(taken, gone, "schedules changed");
                }
                self.adopt &= !adopt;
                self.look_at = Instant::now() + self.pause(began.elapsed());
                Ok(())
            }
            Err(error) => {
                self.adopt = true;
                Err(error)
            }
        }
    }

    /// How long to pause after a look that took so long.
    fn pause(&mut self, took: Duration) -> Duration {
        let longest = self.config.poll_interval;
        if !self.listener.is_deaf() {
            return longest;
        }
        let pause = self.poll.max(took * POLL_PAUSE).min(longest);
        self.poll = (self.poll * 2).min(longest);
        pause
    }

    /// The next fire on this host's clock.
    fn next_at(&self) -> Option<Instant> {
        let clock = self.clock.as_ref()?;
        let wait = self.agenda.next()?.duration_since(clock.now());
        Some(Instant::now() + Duration::try_from(wait).unwrap_or(Duration::ZERO))
    }

    /// What a killed predecessor held is taken back by who is alone under its id; who cannot know that says what to do.
    fn tell_of_strangers(&mut self, schedules: usize) {
        if schedules > 0 && self.listener.is_deaf() && !std::mem::replace(&mut self.strangers, true) {
            tracing::warn!(
                schedules,
                scheduler.id = self.config.scheduler_id,
                "schedules are locked under this id, and not by this process. Behind a pooler it cannot be seen whether \
                 another one watches them: if there is none, free them with release_scheduled_jobs, or set JOBS_LISTEN_URL"
            );
        }
        self.strangers &= schedules > 0;
    }

    fn is_away(&mut self, error: &DbError) {
        if !std::mem::replace(&mut self.away, true) {
            tracing::warn!("the scheduler cannot use its database, and tries again until it can: {}", chain(error));
        }
    }

    fn is_back(&mut self) {
        let missed = self.agenda.take_missed();
        if std::mem::take(&mut self.away) {
            tracing::info!(schedules_with_missed_fires = missed, "the scheduler can use its database again");
        } else if missed > 0 {
            tracing::warn!(schedules_with_missed_fires = missed, "this process was held up");
        }
    }
}
