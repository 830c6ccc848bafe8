//! Heartbeat: show that this worker lives, and tell what was found out about others on the way.
//!
//! A look from the beginning carries the heartbeat along when it is due, so that an idle worker sends one statement per
//! poll interval. When no such look comes, it goes alone.

use std::sync::Arc;
use std::time::Duration;

use crate::config::WorkerConfig;
use job_pg::{DbError, Heartbeat, Listener, WorkerDb};
use job_utils::backoff::Backoff;
use job_utils::error::chain;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::slots::{Claim, Slots};
use crate::stand_in::{Beats, StandIn};

/// The longest time between two heartbeats, and so how late the end of a lease or of a deadline may be noticed.
const LONGEST: Duration = Duration::from_secs(5);

/// How long a heartbeat waits for a look that carries it.
const PATIENCE: Duration = Duration::from_millis(300);

/// How long the session of an earlier process may take to connect anew before it counts as ended.
const RECONNECT: Duration = Duration::from_millis(1500);

/// How long an attempt whose job is gone may still take to say so itself.
const LAST_ANSWER: Duration = Duration::from_millis(1500);

/// How many ids a line of the log names.
const SHOWN_IDS: usize = 20;

/// How many heartbeats may be lost before the lease ends.
const PER_LEASE: u32 = 6;

/// When to send heartbeats.
pub(crate) struct Pulse {
    db: WorkerDb,
    slots: Arc<Slots>,
    beats: Beats,
    /// Ends attempts that have been taken away.
    ending: JoinSet<()>,
    /// Its connection stands in for the pool's when those do not get through.
    listener: Listener,
    interval: Duration,
    next: Instant,
    sending: JoinSet<Result<Heartbeat, DbError>>,
    failing: bool,
}

/// How often a worker sends a heartbeat.
fn interval(config: &WorkerConfig) -> Duration {
    LONGEST.min(config.lease / PER_LEASE).min(config.callback_timeout.max(Duration::from_millis(500)))
}

impl Pulse {
    /// The worker has just registered by its first heartbeat.
    pub(crate) fn new(config: &WorkerConfig, db: WorkerDb, listener: Listener, slots: Arc<Slots>) -> Self {
        let interval = interval(config);
        let (sending, ending, failing) = Default::default();
        let (beats, next) = (Beats::new(), Instant::now() + interval);
        Self { db, slots, beats, ending, listener, interval, next, sending, failing }
    }

    /// Sends heartbeats on a thread of their own for as long as none are sent here, beside handlers that may take `longest`.
    pub(crate) fn stand_in(&self, longest: Duration) -> Option<StandIn> {
        StandIn::start(self.db.clone(), self.beats.clone(), self.interval, longest)
    }

    /// Whether a look that starts now may carry it.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.sending.is_empty() && now + self.interval / 10 >= self.next
    }

    /// Until when it waits for a look that carries it.
    pub(crate) fn alone_at(&self) -> Instant {
        self.next + PATIENCE.min(self.interval / 5)
    }

    /// Sends it alone.
    pub(crate) fn send(&mut self) {
        self.next = Instant::now() + self.interval;
        if self.sending.is_empty() {
            // It takes no longer than the interval: one that hangs must not keep the next from another connection.
            let (db, listener, running) = (self.db.clone(), self.listener.clone(), self.slots.places.running());
            self.sending.spawn(async move { db.heartbeat_by(&listener, running).await });
        }
    }

    /// A heartbeat that was sent alone has ended; pends while there is none. Returns whether there are jobs whose lock has
    /// expired.
    pub(crate) async fn sent(&mut self) -> bool {
        let Some(sent) = self.sending.join_next().await else { return std::future::pending().await };
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
        self.beats.beat();
        tell(&found);
        self.end_taken(found.taken);
    }

    /// Ends attempts whose claims no longer hold their jobs. Most of those have just ended by themselves: a function has called back
    /// and is about to answer.
    fn end_taken(&mut self, claims: Vec<Claim>) {
        while self.ending.try_join_next().is_some() {}
        if claims.is_empty() {
            return;
        }
        let slots = self.slots.clone();
        self.ending.spawn(async move {
            tokio::time::sleep(LAST_ANSWER).await;
            let ids = slots.places.take_away(&claims);
            if !ids.is_empty() {
                tracing::warn!(
                    jobs = ?ids,
                    "ended attempts whose jobs were taken away: deleted, unlocked, claimed anew, or ended by somebody else"
                );
            }
        });
    }

    /// Goes on sending, for a worker that no longer looks.
    pub(crate) async fn go_on(mut self) {
        loop {
            let next = self.next;
            tokio::select! {
                _ = self.sent() => {}
                () = tokio::time::sleep_until(next) => self.send(),
            }
        }
    }
}

/// Registers the worker by its first heartbeat, and takes back what earlier processes with its id have left. An outage of the
/// database only delays that.
///
/// Who cannot listen itself cannot tell a session that has ended from one that cannot be had: leases have to do.
pub(crate) async fn register(db: &WorkerDb, listener: &Listener) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    loop {
        let registered = async {
            tell(&db.heartbeat().await?);
            let ended = if listener.is_deaf() { Vec::new() } else { db.ended().await? };
            if ended.is_empty() {
                return Ok(Vec::new());
            }
            tokio::time::sleep(RECONNECT).await;
            if listener.is_deaf() { Ok(Vec::new()) } else { db.take_back(&ended).await }
        };
        match registered.await {
            Ok(taken) => {
                if !taken.is_empty() {
                    let (jobs, ids) = (taken.len(), some_of(&taken));
                    tracing::info!(jobs, ids, worker.id = &**db.worker_id(), "took back jobs of an earlier process");
                }
                return;
            }
            Err(error) => tracing::warn!("cannot register this worker yet: {}", chain(&error)),
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

/// Tells what a heartbeat has found.
pub(crate) fn tell(found: &Heartbeat) {
    if !found.rescued.is_empty() {
        let (workers, ids) = (found.silent.join(", "), some_of(&found.rescued));
        tracing::warn!(jobs = found.rescued.len(), ids, workers, "rescued jobs of workers that went silent");
    }
    for id in &found.overdue {
        tracing::warn!(job.id = id, "job failed: its callback did not come in time");
    }
}

/// The first of some ids, for a line of the log.
fn some_of(ids: &[i64]) -> String {
    let mut shown: Vec<String> = ids.iter().take(SHOWN_IDS).map(ToString::to_string).collect();
    if ids.len() > SHOWN_IDS {
        shown.push("…".to_owned());
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_some_ids_and_says_that_there_are_more() {
        assert_eq!(some_of(&[7, 8]), "7, 8");
        let many: Vec<i64> = (1..=1000).collect();
        assert!(some_of(&many).starts_with("1, 2, 3, ") && some_of(&many).ends_with(", 20, …"), "{}", some_of(&many));
    }
}
