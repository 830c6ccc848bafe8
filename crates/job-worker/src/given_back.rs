//! Given back: attempts that could not do their work through no fault of the job's, to be made again without being counted.
//!
//! Whatever is in the way goes away as a rule: of two transactions in each other's way one gets on, connections come back. A handler that
//! is always in its own way (with two transactions of its own, say) must not go round for good, so a row of them ends in failures that
//! count. The row is known to this worker alone: it is short, and there is no place for it in the table.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// So many attempts of a job in a row are given back.
pub(crate) const MOST: u32 = 10;

/// The wait after the first of them, on average; it doubles from one to the next.
const FIRST: Duration = Duration::from_millis(50);

/// Of so many jobs at once it is known. Failures of others count: nothing would end their rows.
const JOBS: usize = 10_000;

/// Jobs whose last attempts were given back, and how many in a row.
#[derive(Default)]
pub(crate) struct GivenBack {
    rows: Mutex<HashMap<i64, u32>>,
}

impl GivenBack {
    /// An attempt of the job could not do its work. How long the job is to wait; None: it has been so too often.
    pub(crate) fn again(&self, job: i64) -> Option<Duration> {
        // A panic in here leaves nothing half done.
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if rows.len() >= JOBS && !rows.contains_key(&job) {
            return None;
        }
        let row = rows.entry(job).or_default();
        if *row >= MOST {
            rows.remove(&job);
            return None;
        }
        // Those that were in each other's way are not to meet again.
        let wait = FIRST.mul_f64(0.5 + fastrand::f64()) * (1 << *row);
        *row += 1;
        Some(wait)
    }

    /// An attempt of the job has ended in another way.
    pub(crate) fn ended(&self, job: i64) {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).remove(&job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_them_ends_and_begins_anew_after_another_end() {
        let given_back = GivenBack::default();
        let waits: Vec<Duration> = std::iter::from_fn(|| given_back.again(1)).collect();
        assert_eq!(waits.len(), 10);
        for (i, wait) in waits.iter().enumerate() {
            let usual = 0.05 * f64::from(1 << i);
            assert!((0.5 * usual..=1.5 * usual).contains(&wait.as_secs_f64()), "{i}: {wait:?}");
        }
        // The one after them has counted.
        assert!(given_back.again(1).is_some() && given_back.again(2).is_some());
        given_back.ended(1);
        let waits = std::iter::from_fn(|| given_back.again(1)).count();
        assert_eq!(waits, 10);
    }

    #[test]
    fn what_is_known_has_a_bound() {
        let given_back = GivenBack::default();
        for job in 0..25_000 {
            given_back.again(job);
        }
        assert!(given_back.rows.lock().unwrap().len() <= JOBS);
        assert!(given_back.again(1).is_some() && given_back.again(25_001).is_none());
        given_back.ended(1);
        assert!(given_back.again(25_001).is_some());
    }
}
