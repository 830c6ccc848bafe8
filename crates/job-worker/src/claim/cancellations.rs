//! Cancellations: end the attempts of this worker that somebody has cancelled.
//!
//! A notification says that there are some. Where none can come, and an attempt has run for a moment, the worker looks
//! twice a second: one look into an index that is empty as long as nobody cancels. A job can be cancelled while the
//! answer of its claim is on its way, or between the buffer and its slot: so what was read is kept for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use job_pg::{CancelledAttempt, ClaimId, DbError, Job, Listener, WorkerDb};
use job_utils::error::chain;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::monitor::CancelledClaims;
use crate::slots::Slots;

/// How often a worker looks that no notification can reach. With the second that a handler has to clean up, the slot of
/// a cancelled job is free within two.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What has run for so long is worth a look.
const LOOK_AGE: Duration = Duration::from_millis(250);

/// The least time between two looks, however many notifications come, and after one that failed.
const LEAST_PAUSE: Duration = Duration::from_millis(100);

/// How soon to try again when a cancelled job is between its buffer and its slot.
const AGAIN: Duration = Duration::from_millis(20);

/// For so long the answer of a claim may be on its way.
const KEPT: Duration = Duration::from_secs(60);

pub(super) struct Cancellations {
    db: WorkerDb,
    slots: Arc<Slots>,
    listener: Listener,
    unmet: Unmet,
    looking: JoinSet<Result<Vec<CancelledAttempt>, DbError>>,
    /// There is something to look for.
    wanted: bool,
    /// When the next look may begin.
    not_before: Instant,
    /// When to look without a notification.
    poll_at: Instant,
    /// When to see again whether a job has come into its slot that is on its way there.
    apply_at: Option<Instant>,
    /// The last look failed, and that has been logged.
    failing: bool,
}

impl Cancellations {
    pub(super) fn new(db: WorkerDb, slots: Arc<Slots>, listener: Listener) -> Self {
        let (not_before, poll_at) = (Instant::now(), Instant::now());
        let (unmet, looking, wanted, apply_at, failing) = Default::default();
        Self { db, slots, listener, unmet, looking, wanted, not_before, poll_at, apply_at, failing }
    }

    /// Ends cancelled attempts, for good.
    pub(super) async fn end_attempts(&mut self) {
        loop {
            let next_at = self.next_at();
            tokio::select! {
                biased;
                Some(looked) = self.looking.join_next() => match looked {
                    Ok(looked) => self.looked(looked),
                    Err(error) => tracing::error!("a look for cancelled attempts was lost: {error}"),
                },
                () = self.listener.cancelled.woken() => self.wanted = true,
                () = self.slots.jobs_gone.notified() => self.wanted = true,
                () = tokio::time::sleep_until(next_at) => self.next(Instant::now()),
            }
        }
    }

    /// Goes on, for a worker that no longer claims.
    pub(super) async fn go_on(mut self) {
        self.end_attempts().await;
    }

    /// When there is something to do.
    fn next_at(&self) -> Instant {
        let look_at = match (self.wanted && self.looking.is_empty(), self.listener.is_listening()) {
            (true, _) => Some(self.not_before),
            (false, true) => None,
            (false, false) => Some(self.poll_at),
        };
        look_at.into_iter().chain(self.apply_at).min().unwrap_or_else(|| Instant::now() + KEPT)
    }

    fn next(&mut self, now: Instant) {
        if self.apply_at.is_some_and(|at| at <= now) {
            self.apply(now);
        }
        if self.poll_at <= now {
            self.poll_at = now + LOOK_INTERVAL;
            self.wanted |= !self.listener.is_listening() && self.slots.monitors.any_runs_since(LOOK_AGE);
        }
        if self.wanted && self.looking.is_empty() && self.not_before <= now {
            self.wanted = false;
            self.look(now);
        }
    }

    /// Without those of them that have been cancelled: jobs that a claim has just brought.
    pub(super) fn without_cancelled(&mut self, mut jobs: Vec<Job>) -> Vec<Job> {
        self.unmet.remove_from(&mut jobs, Job::claim_id);
        jobs
    }

    fn look(&mut self, now: Instant) {
        self.not_before = now + LEAST_PAUSE;
        let db = self.db.clone();
        self.looking.spawn(async move {
            let cancelled = db.cancelled_attempts().await?;
            if !cancelled.is_empty() {
                // What stays is removed by the next call of cancel_jobs.
                let epochs: Vec<i64> = cancelled.iter().map(|attempt| attempt.claim.1).collect();
                tokio::spawn(async move { db.forget_cancelled(&epochs).await });
            }
            Ok(cancelled)
        });
    }

    fn looked(&mut self, looked: Result<Vec<CancelledAttempt>, DbError>) {
        let now = Instant::now();
        let cancelled = match looked {
            Ok(cancelled) => cancelled,
            Err(error) => {
                self.wanted = true;
                self.not_before = now + LOOK_INTERVAL;
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!("cannot look for cancelled attempts, trying again: {}", chain(&error));
                }
                return;
            }
        };
        self.failing = false;
        for CancelledAttempt { claim, reason } in cancelled {
            self.unmet.add(claim, reason.map(Into::into), now);
        }
        self.apply(now);
    }

    /// Ends what runs, and drops what is to run.
    fn apply(&mut self, now: Instant) {
        self.apply_at = None;
        self.unmet.meet(now, |claims| {
            // In this order: nothing that is cancelled may take the place of an attempt that ends.
            self.slots.drop_cancelled(claims);
            self.slots.monitors.cancel(claims);
            // A job is just starting, or its outcome is just being stored. Others may be on their way.
            let again = if self.slots.holds_any(claims) { AGAIN } else { LEAST_PAUSE };
            self.apply_at = (!claims.is_empty()).then(|| now + again);
        });
    }
}

/// Cancelled claims that have met neither an attempt nor a job in a buffer: their jobs may be on their way, or ended.
#[derive(Default)]
struct Unmet {
    claims: CancelledClaims,
    /// Since when each of them is known.
    since: HashMap<ClaimId, Instant>,
}

impl Unmet {
    fn add(&mut self, claim: ClaimId, reason: Option<Arc<str>>, now: Instant) {
        self.claims.insert(claim, reason);
        self.since.insert(claim, now);
    }

    /// Removes the jobs with these claims.
    fn remove_from<T>(&mut self, jobs: &mut Vec<T>, claim: impl Fn(&T) -> ClaimId) {
        if !self.claims.is_empty() {
            jobs.retain(|job| self.claims.remove(&claim(job)).is_none());
        }
    }

    /// Shows them to what removes those that it has, and forgets those that have been kept for long.
    fn meet(&mut self, now: Instant, meet: impl FnOnce(&mut CancelledClaims)) {
        if self.claims.is_empty() {
            return;
        }
        self.since.retain(|_, since| now.saturating_duration_since(*since) < KEPT);
        self.claims.retain(|claim, _| self.since.contains_key(claim));
        meet(&mut self.claims);
        self.since.retain(|claim, _| self.claims.contains_key(claim));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_was_cancelled_while_its_claim_was_on_its_way_does_not_start() {
        let (mut unmet, now) = (Unmet::default(), Instant::now());
        unmet.add((1, 7), None, now);
        unmet.add((2, 8), Some("a reason".into()), now);
        unmet.meet(now, |claims| drop(claims.remove(&(2, 8))));
        let mut jobs = vec![(1, 7), (1, 9), (2, 8)];
        unmet.remove_from(&mut jobs, |job| *job);
        assert_eq!(jobs, [(1, 9), (2, 8)], "another claim of the job, and one that has been met");
        unmet.add((3, 1), None, now);
        let later = now + KEPT;
        unmet.add((4, 1), None, later);
        unmet.meet(later, |claims| assert_eq!(claims.keys().collect::<Vec<_>>(), [&(4, 1)]));
        assert_eq!(unmet.since.len(), 1);
    }
}
