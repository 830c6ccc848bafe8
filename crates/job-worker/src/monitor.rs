//! Slot monitor: what a slot runs at this moment.
//!
//! An attempt is found by its claim while it runs, to be ended when its job has been taken away or cancelled. And the
//! monitor knows how long the attempt's handler has held its thread.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use job_pg::{ClaimId, Running};
use tokio::sync::Notify;

/// An attempt that has run for so long is asked about. Quick ones cost nothing.
const ASK_AFTER: Duration = Duration::from_secs(1);

/// A handler that holds its thread for so long in one go blocks it.
pub(crate) const BLOCKED: Duration = Duration::from_secs(1);

/// A handler that blocked its thread so long ago may still be why something is late.
const RECENT: Duration = Duration::from_secs(15);

/// The monitors of a worker. They are kept: there are as many as jobs have run at once.
#[derive(Default)]
pub(crate) struct SlotMonitors(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    all: Vec<Arc<SlotMonitor>>,
    free: Vec<Arc<SlotMonitor>>,
}

/// One slot's monitor.
pub(crate) struct SlotMonitor {
    attempt: Mutex<Option<RunningAttempt>>,
    /// The attempt has been taken away.
    taken: Notify,
    /// When the handler's code got its thread, in milliseconds since `origin`; 0: it has none.
    entered: AtomicU64,
    /// When a handler last let go of a thread that it had blocked, and for how long it had.
    blocked: Mutex<Option<(Instant, Duration)>>,
    origin: Instant,
}

struct RunningAttempt {
    claim: ClaimId,
    since: Instant,
    /// It may end its job by itself, in a transaction: that the job is gone means nothing.
    ends_itself: bool,
    taken: Option<Taken>,
}

/// How an attempt has lost its job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It was deleted, unlocked, or claimed by somebody else.
    Away,
    /// Somebody has cancelled it, and perhaps said why.
    Cancelled(Option<Arc<str>>),
}

/// Claims that somebody has cancelled, and why.
pub(crate) type CancelledClaims = HashMap<ClaimId, Option<Arc<str>>>;

impl SlotMonitors {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A monitor for a slot that begins.
    pub(crate) fn take(&self) -> Arc<SlotMonitor> {
        let mut inner = self.inner();
        if let Some(monitor) = inner.free.pop() {
            return monitor;
        }
        let (attempt, taken, entered, blocked) = Default::default();
        let monitor = Arc::new(SlotMonitor { attempt, taken, entered, blocked, origin: Instant::now() });
        inner.all.push(monitor.clone());
        monitor
    }

    /// The slot has ended.
    pub(crate) fn give_back(&self, monitor: Arc<SlotMonitor>) {
        monitor.end();
        self.inner().free.push(monitor);
    }

    /// The claims of attempts that have run for a while and do not end their jobs themselves.
    pub(crate) fn running(&self) -> Running {
        let inner = self.inner();
        let claim = |monitor: &Arc<SlotMonitor>| {
            let attempt = monitor.attempt();
            let attempt = attempt.as_ref().filter(|attempt| !attempt.ends_itself && attempt.taken.is_none())?;
            (attempt.since.elapsed() >= ASK_AFTER).then_some(attempt.claim)
        };
        inner.all.iter().filter_map(claim).collect()
    }

    /// These claims no longer hold their jobs: ends the attempts that still run by them, and returns their jobs' ids.
    pub(crate) fn take_away(&self, claims: &[ClaimId]) -> Vec<i64> {
        let inner = self.inner();
        let ended = |monitor: &Arc<SlotMonitor>| {
            let mut attempt = monitor.attempt();
            let attempt = attempt.as_mut().filter(|attempt| !attempt.ends_itself && attempt.taken.is_none())?;
            if !claims.contains(&attempt.claim) {
                return None;
            }
            attempt.taken = Some(Taken::Away);
            monitor.taken.notify_waiters();
            Some(attempt.claim.0)
        };
        inner.all.iter().filter_map(ended).collect()
    }

    /// Ends the attempts among these that run, and removes them from the map. One that may end its job by itself is
    /// ended as well: by the time that a cancellation is seen, it has not.
    pub(crate) fn cancel(&self, cancelled: &mut CancelledClaims) {
        for monitor in &self.inner().all {
            let mut attempt = monitor.attempt();
            let Some(attempt) = attempt.as_mut() else { continue };
            let Some(reason) = cancelled.remove(&attempt.claim) else { continue };
            if attempt.taken.is_none() {
                attempt.taken = Some(Taken::Cancelled(reason));
                monitor.taken.notify_waiters();
            }
        }
    }

    /// Whether an attempt has run for so long.
    pub(crate) fn any_runs_since(&self, age: Duration) -> bool {
        let runs = |monitor: &Arc<SlotMonitor>| {
            monitor.attempt().as_ref().is_some_and(|attempt| attempt.since.elapsed() >= age)
        };
        self.inner().all.iter().any(runs)
    }

    /// How long a handler has blocked its thread, one that still does or one that has let go of it not long ago.
    pub(crate) fn blocked(&self) -> Option<Duration> {
        self.inner().all.iter().filter_map(|monitor| monitor.blocked()).max()
    }
}

impl SlotMonitor {
    fn attempt(&self) -> MutexGuard<'_, Option<RunningAttempt>> {
        self.attempt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An attempt begins.
    pub(crate) fn begin(&self, claim: ClaimId) {
        let attempt = RunningAttempt { claim, since: Instant::now(), ends_itself: false, taken: None };
        *self.attempt() = Some(attempt);
    }

    /// Its outcome is known: from now on the job may be gone, and rightly so.
    pub(crate) fn end(&self) {
        *self.attempt() = None;
        self.entered.store(0, Ordering::Relaxed);
    }

    /// The attempt ends its job by itself, if it is still the one that runs here.
    pub(crate) fn ends_itself(&self, claim: ClaimId) {
        if let Some(attempt) = self.attempt().as_mut().filter(|attempt| attempt.claim == claim) {
            attempt.ends_itself = true;
        }
    }

    /// Waits until the attempt that runs here has been taken away or cancelled.
    pub(crate) async fn taken(&self) -> Taken {
        loop {
            // Made first: it wakes for what comes after this.
            let notified = self.taken.notified();
            if let Some(taken) = self.attempt().as_ref().and_then(|attempt| attempt.taken.clone()) {
                return taken;
            }
            notified.await;
        }
    }

    /// The handler's code gets its thread.
    pub(crate) fn enter(&self) {
        self.entered.store(self.now(), Ordering::Relaxed);
    }

    /// It lets go of it, after so long.
    pub(crate) fn leave(&self, held: Duration) {
        self.entered.store(0, Ordering::Relaxed);
        if held >= BLOCKED {
            *self.blocked.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), held));
        }
    }

    /// For how long a handler here has blocked its thread, now or not long ago.
    fn blocked(&self) -> Option<Duration> {
        let entered = self.entered.load(Ordering::Relaxed);
        let held = Duration::from_millis(self.now().saturating_sub(entered));
        if entered > 0 && held >= BLOCKED {
            return Some(held);
        }
        let blocked = *self.blocked.lock().unwrap_or_else(PoisonError::into_inner);
        blocked.filter(|(ended, _)| ended.elapsed() < RECENT).map(|(_, held)| held)
    }

    fn now(&self) -> u64 {
        // 0 means something else.
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_attempt_is_ended_by_its_own_claim_only_and_not_when_it_ends_its_job_itself() {
        let monitors = SlotMonitors::default();
        let monitor = monitors.take();
        monitor.begin((1, 7));
        assert!(monitors.take_away(&[(1, 8), (2, 7)]).is_empty(), "another claim of the job, and another job");
        monitor.ends_itself((1, 8));
        assert_eq!(monitors.take_away(&[(1, 7)]), [1]);
        assert_eq!(monitor.taken().await, Taken::Away);
        assert!(monitors.take_away(&[(1, 7)]).is_empty(), "once");
        monitor.begin((1, 9));
        monitor.ends_itself((1, 9));
        assert!(monitors.take_away(&[(1, 9)]).is_empty());
        let reason: Option<Arc<str>> = Some("a reason".into());
        let mut cancelled = CancelledClaims::from([((1, 9), reason.clone()), ((2, 9), None)]);
        monitors.cancel(&mut cancelled);
        assert_eq!(cancelled, CancelledClaims::from([((2, 9), None)]), "the other does not run");
        assert_eq!(monitor.taken().await, Taken::Cancelled(reason), "whether it ends its job itself or not");
        monitor.end();
        assert!(monitors.take_away(&[(1, 9)]).is_empty(), "its outcome is known");
        monitors.give_back(monitor);
        monitors.take();
        assert_eq!(monitors.inner().all.len(), 1, "monitors are used again");
    }
}
