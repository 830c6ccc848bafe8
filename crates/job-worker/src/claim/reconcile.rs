//! Reconcile: find the jobs that are locked for this process and not known to it.
//!
//! An answer of the database that did not come leaves such jobs behind: a claim may have been carried out, or an
//! outcome not been stored. This worker's heartbeats would keep them locked for good, so they are interrupted. What a
//! claim in flight brings would be taken for such a job, so claims pause meanwhile.

use std::sync::Arc;
use std::time::Duration;

use job_pg::{Interrupted, WorkerDb};
use job_utils::error::chain;
use job_utils::events::Events;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::heartbeat::emit_exhausted;
use crate::slots::Slots;

/// How long to wait before each of the searches that follow an unclear answer: a statement whose connection was lost
/// may still be under way. The last is the first.
const PAUSES: &[Duration] = &[Duration::from_secs(30), Duration::from_secs(2), Duration::from_secs(2)];

/// How often to see whether the claims in flight have ended.
const CLAIMS_INTERVAL: Duration = Duration::from_millis(10);

pub(super) struct Reconciler {
    db: WorkerDb,
    slots: Arc<Slots>,
    events: Events,
    times: SearchTimes,
    /// A search is due, and waits for the claims in flight.
    waiting: bool,
    /// The search under way. It returns whether it succeeded.
    search: JoinSet<bool>,
}

impl Reconciler {
    pub(super) fn new(db: WorkerDb, slots: Arc<Slots>, events: Events) -> Self {
        let times = SearchTimes { left: 0, next: Instant::now() };
        Self { db, slots, events, times, waiting: false, search: JoinSet::new() }
    }

    /// An answer did not come: there may be such jobs from now on.
    pub(super) fn request(&mut self, now: Instant) {
        self.times.request(now);
    }

    /// Whether claims are to pause.
    pub(super) fn pauses_claims(&self) -> bool {
        self.waiting || !self.search.is_empty()
    }

    /// Searches when it is time, and returns when a search has ended.
    pub(super) async fn searched(&mut self, claims_in_flight: bool) {
        loop {
            if let Some(succeeded) = self.search.join_next().await {
                self.slots.search_ended();
                return self.times.ended(succeeded.unwrap_or(false), Instant::now());
            }
            match self.times.due() {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
            self.waiting = claims_in_flight;
            if self.waiting {
                self.times.put_off(Instant::now() + CLAIMS_INTERVAL);
            } else {
                self.start();
            }
        }
    }

    fn start(&mut self) {
        self.times.begun();
        let (db, known, events) = (self.db.clone(), self.slots.begin_search(), self.events.clone());
        self.search.spawn(async move {
            let reason =
                format!("worker {} lost track of the job: an answer of the database did not come", db.worker_id());
            match db.interrupt_unknown(&reason, &known).await {
                Ok(Interrupted { jobs, exhausted }) => {
                    if !jobs.is_empty() {
                        tracing::warn!(jobs = jobs.len(), "gave up jobs that this worker had lost track of");
                    }
                    emit_exhausted(&events, db.worker_id(), &exhausted);
                    true
                }
                Err(error) => {
                    tracing::debug!("cannot look for jobs that were lost track of: {}", chain(&error));
                    false
                }
            }
        });
    }
}

/// When to search.
struct SearchTimes {
    /// How many searches are due.
    left: usize,
    /// When the next of them is.
    next: Instant,
}

impl SearchTimes {
    fn request(&mut self, now: Instant) {
        let first = now + PAUSES[PAUSES.len() - 1];
        // One that is due is not put off.
        self.next = if self.left > 0 { self.next.min(first) } else { first };
        self.left = PAUSES.len();
    }

    fn due(&self) -> Option<Instant> {
        (self.left > 0).then_some(self.next)
    }

    fn put_off(&mut self, until: Instant) {
        self.next = until;
    }

    fn begun(&mut self) {
        self.left -= 1;
    }

    fn ended(&mut self, succeeded: bool, now: Instant) {
        if !succeeded {
            self.left = PAUSES.len();
        }
        self.next = now + PAUSES[self.left.saturating_sub(1)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unclear_answer_is_followed_by_three_searches() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut times = SearchTimes { left: 0, next: start };
        assert_eq!(times.due(), None);
        times.request(start);
        for due in [2, 4, 34] {
            assert_eq!(times.due(), Some(at(due)));
            times.begun();
            times.ended(true, at(due));
        }
        assert_eq!(times.due(), None);
    }

    #[test]
    fn a_search_that_failed_begins_anew_and_another_request_does_not_put_it_off() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut times = SearchTimes { left: 0, next: start };
        times.request(start);
        times.begun();
        times.ended(false, at(2));
        assert_eq!((times.due(), times.left), (Some(at(4)), 3));
        times.request(at(3));
        assert_eq!(times.due(), Some(at(4)));
        times.put_off(at(60));
        times.request(at(5));
        assert_eq!(times.due(), Some(at(7)), "the sooner of the two");
    }
}
