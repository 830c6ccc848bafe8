//! Drain: end a worker in order.
//!
//! It claims no more. As long as the grace lasts, it waits for what is in flight, and for the callbacks of accepted
//! jobs. Then it gives back what has not ended. Accepted jobs are left to their functions, which call back to whatever
//! callback server there is.

use std::sync::Arc;
use std::time::Duration;

use job_utils::config::in_words;

use crate::config::WorkerConfig;
use job_pg::{ClaimId, DbError, WorkerDb};
use job_utils::error::chain;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use crate::accept::{store, store_deadlines};
use crate::heartbeat_thread::HeartbeatThread;
use crate::slots::Slots;

/// How often to ask whether accepted jobs have been called back. Only during a stop.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// How long jobs that are aborted may take to end.
const ABORT_TIMEOUT: Duration = Duration::from_millis(500);

/// How long outcomes that are on their way into the database may take at the end of the grace.
const SETTLE_TIMEOUT: Duration = Duration::from_millis(500);

/// How long giving jobs back may take when Postgres does not answer.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(2500);

/// What a worker left behind when it stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stopped {
    /// Jobs that were in flight when the stop began and ended by themselves.
    pub finished: usize,
    /// Jobs given back to be claimed anew.
    pub released: usize,
    /// Jobs that functions have accepted and not called back for, as last seen: a callback server takes their
    /// callbacks, and any worker sees to their deadlines.
    pub accepted: usize,
    /// Jobs that could not be given back, because Postgres was away: others take them over when the lease has passed.
    pub orphaned: usize,
}

/// What goes on until the worker has drained, and how long that may take.
pub(crate) struct Drain {
    db: WorkerDb,
    slots: Arc<Slots>,
    pub(crate) grace: Duration,
    /// That of accepted jobs.
    callback_timeout: Duration,
    /// Stores deadlines of accepted jobs.
    deadlines: AbortOnDropHandle<()>,
    /// Sends heartbeats when handlers block the runtime.
    heartbeat_thread: Option<HeartbeatThread>,
}

impl Drain {
    /// Starts to store deadlines of accepted jobs.
    pub(crate) fn new(
        config: &WorkerConfig,
        db: WorkerDb,
        slots: Arc<Slots>,
        heartbeat_thread: Option<HeartbeatThread>,
    ) -> Self {
        let callback_timeout = config.callback_timeout;
        let deadlines = store_deadlines(db.clone(), slots.clone(), callback_timeout);
        let deadlines = AbortOnDropHandle::new(tokio::spawn(deadlines));
        Self { db, slots, grace: config.shutdown_grace, callback_timeout, deadlines, heartbeat_thread }
    }

    /// Drains a worker that has stopped claiming. The stop began at `stopped`, when these jobs were `held`; `running`
    /// are its slots in use; `heartbeat` shows that it lives, until it has given back what it holds.
    pub(crate) async fn run(
        mut self,
        stopped: Instant,
        held: Vec<ClaimId>,
        mut running: JoinSet<()>,
        mut heartbeat: AbortOnDropHandle<()>,
    ) -> Stopped {
        let deadline = stopped + self.grace;
        // What has not started can start elsewhere at once.
        let buffered = self.slots.take_buffered();
        let returned = if buffered.is_empty() { Some(0) } else { self.release(&buffered).await };
        self.slots.forget(&buffered);
        let in_flight = self.slots.held().len();
        let mut left = self.wait_for_running(&mut running, in_flight, deadline).await;
        // Some have ended while the claims under way did.
        let finished = held.iter().filter(|claim| !left.contains(claim) && !buffered.contains(claim)).count();
        if returned.is_none() {
            left.extend(buffered);
        }
        let mut accepted = 0;
        if left.is_empty() {
            accepted = self.wait_for_callbacks(deadline).await;
        }
        self.deadlines.abort();
        // Whoever stores deadlines must be the only one.
        let _ = (&mut self.deadlines).await;
        heartbeat.abort();
        // One under way would register the worker again.
        let _ = (&mut heartbeat).await;
        if let Some(thread) = self.heartbeat_thread.take() {
            thread.end().await;
        }
        // A claim that is carried out after the end of the registration would be nobody's.
        self.db.cancelled().await;
        let left_behind = self.leave().await;
        let (released, accepted) = left_behind.unwrap_or((0, accepted));
        let stopped = Stopped {
            finished,
            released: returned.unwrap_or(0) + released,
            accepted,
            orphaned: if left_behind.is_none() { left.len() } else { 0 },
        };
        tracing::info!(
            finished = stopped.finished,
            released = stopped.released,
            orphaned = stopped.orphaned,
            accepted = stopped.accepted,
            "worker stopped"
        );
        stopped
    }

    /// Waits for jobs in flight until the deadline, then aborts them. Returns the claims that are left.
    async fn wait_for_running(&self, running: &mut JoinSet<()>, in_flight: usize, deadline: Instant) -> Vec<ClaimId> {
        if in_flight > 0 {
            tracing::info!(jobs = in_flight, grace = in_words(self.grace), "waiting for jobs in flight");
        }
        while !self.slots.is_empty() {
            if timeout_at(deadline, self.slots.job_left.notified()).await.is_err() {
                break;
            }
        }
        let mut left = self.slots.held();
        // Without their dispatch nobody would settle them after the release.
        running.abort_all();
        // A handler that blocks cannot be stopped: it must not hold up what comes.
        let _ = timeout(ABORT_TIMEOUT, async { while running.join_next().await.is_some() {} }).await;
        running.detach_all();
        // What has ended may just be on its way into the database; given back, it would be repeated.
        while !left.is_empty() && timeout_at(deadline + SETTLE_TIMEOUT, self.slots.job_left.notified()).await.is_ok() {
            left = self.slots.held();
        }
        left
    }

    /// Gives back jobs that have not started; None when that did not work.
    async fn release(&self, claims: &[ClaimId]) -> Option<usize> {
        match timeout(RELEASE_TIMEOUT, self.db.release(claims)).await {
            Ok(Ok(released)) => Some(released),
            Ok(Err(error)) => {
                tracing::warn!("cannot give buffered jobs back yet: {}", chain(&error));
                None
            }
            Err(_) => {
                tracing::warn!("cannot give buffered jobs back yet: Postgres does not answer");
                None
            }
        }
    }

    /// Waits until the functions that accepted a job have called back, so that a callback server beside this worker
    /// stays for them. The callback may reach another process, so the database is asked. Returns how many have not.
    async fn wait_for_callbacks(&self, deadline: Instant) -> usize {
        let mut logged = false;
        let mut accepted = self.slots.unstored_since().0;
        loop {
            // Asked first: what is stored meanwhile is counted twice rather than not at all.
            let unstored = self.slots.unstored_since().0;
            match timeout_at(deadline, self.db.accepted()).await {
                Ok(Ok(stored)) => accepted = unstored + usize::try_from(stored).unwrap_or(0),
                Ok(Err(error)) => {
                    if !std::mem::replace(&mut logged, true) {
                        tracing::warn!("cannot see whether callbacks are due: {}", chain(&error));
                    }
                }
                Err(_) => return accepted,
            }
            if accepted == 0 || Instant::now() + ASK_INTERVAL >= deadline {
                return accepted;
            }
            if !std::mem::replace(&mut logged, true) {
                let grace = in_words(self.grace);
                tracing::info!(jobs = accepted, grace, "waiting for callbacks; a second signal quits at once");
            }
            tokio::time::sleep(ASK_INTERVAL).await;
        }
    }

    /// Gives back what this process still holds and ends its registration, once the deadlines of what functions have
    /// accepted are stored. Returns how many it gave back, and how many functions have accepted. None when that did not
    /// work: then others take over when the lease has passed.
    async fn leave(&self) -> Option<(usize, usize)> {
        let leaving = async {
            store(&self.db, &self.slots, self.callback_timeout).await?;
            while self.slots.unstored_since().0 > 0 {
                // Somebody holds a row.
                tokio::time::sleep(ASK_INTERVAL).await;
                store(&self.db, &self.slots, self.callback_timeout).await?;
            }
            let (mut released, mut all) = self.db.leave().await?;
            while !all {
                tokio::time::sleep(ASK_INTERVAL).await;
                let (more, gone) = self.db.leave().await?;
                (released, all) = (released + more, gone);
            }
            let accepted = self.db.accepted().await.unwrap_or_default();
            Ok::<_, DbError>((released, usize::try_from(accepted).unwrap_or_default()))
        };
        let released = match timeout(RELEASE_TIMEOUT, leaving).await {
            Ok(Ok(released)) => Some(released),
            Ok(Err(error)) => {
                tracing::error!("cannot give jobs back, others take them over after the lease: {}", chain(&error));
                None
            }
            Err(_) => {
                tracing::error!("cannot give jobs back in time, others take them over after the lease");
                None
            }
        };
        self.db.cancelled().await;
        released
    }
}
