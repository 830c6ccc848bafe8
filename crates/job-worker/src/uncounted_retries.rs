//! Uncounted retries: attempts that could not do their work through no fault of the job's are made again without being
//! counted.
//!
//! Whatever is in the way goes away as a rule. Of two transactions in each other's way one gets on, and connections
//! come back. A handler that is always in its own way (with two transactions of its own, say) must not go round for
//! good. So after some such attempts in a row one counts as a failure. How many there were is known to this worker
//! alone: the table has no column for it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// So many attempts of a job in a row are not counted.
pub(crate) const MOST_IN_A_ROW: u32 = 10;

/// The wait after the first of them, on average; it doubles from one to the next.
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// The most jobs that are known at once. Failures of others count: nothing would end their retries.
const MOST_JOBS: usize = 10_000;

/// Jobs whose last attempts were not counted, and how many in a row.
#[derive(Default)]
pub(crate) struct UncountedRetries {
    in_a_row: Mutex<HashMap<i64, u32>>,
}

impl UncountedRetries {
    /// An attempt of the job could not do its work. Returns how long the job is to wait; None: too many in a row.
    pub(crate) fn next_wait(&self, job: i64) -> Option<Duration> {
        // A panic in here leaves nothing half done.
        let mut in_a_row = self.in_a_row.lock().unwrap_or_else(PoisonError::into_inner);
        if in_a_row.len() >= MOST_JOBS && !in_a_row.contains_key(&job) {
            return None;
        }
        let retries = in_a_row.entry(job).or_default();
        if *retries >= MOST_IN_A_ROW {
            in_a_row.remove(&job);
            return None;
        }
        // Those that were in each other's way are not to meet again.
        let wait = FIRST_WAIT.mul_f64(0.5 + fastrand::f64()) * (1 << *retries);
        *retries += 1;
        Some(wait)
    }

    /// An attempt of the job has ended in another way.
    pub(crate) fn reset(&self, job: i64) {
        self.in_a_row.lock().unwrap_or_else(PoisonError::into_inner).remove(&job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_end_in_a_row_and_begin_anew_after_another_end() {
        let retries = UncountedRetries::default();
        let waits: Vec<Duration> = std::iter::from_fn(|| retries.next_wait(1)).collect();
        assert_eq!(waits.len(), 10);
        for (i, wait) in waits.iter().enumerate() {
            let usual = 0.05 * f64::from(1 << i);
            assert!((0.5 * usual..=1.5 * usual).contains(&wait.as_secs_f64()), "{i}: {wait:?}");
        }
        // The one after them has counted.
        assert!(retries.next_wait(1).is_some() && retries.next_wait(2).is_some());
        retries.reset(1);
        let waits = std::iter::from_fn(|| retries.next_wait(1)).count();
        assert_eq!(waits, 10);
    }

    #[test]
    fn what_is_known_has_a_bound() {
        let retries = UncountedRetries::default();
        for job in 0..25_000 {
            retries.next_wait(job);
        }
        assert!(retries.in_a_row.lock().unwrap().len() <= MOST_JOBS);
        assert!(retries.next_wait(1).is_some() && retries.next_wait(25_001).is_none());
        retries.reset(1);
        assert!(retries.next_wait(25_001).is_some());
    }
}
