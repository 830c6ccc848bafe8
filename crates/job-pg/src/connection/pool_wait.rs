//! Pool wait: whether a piece of work waits for a connection of the pool. Who ends it for taking too long can say so
//! then.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

tokio::task_local! {
    static WAITS: PoolWaits;
}

/// What a piece of work waits for, as far as it is a connection of a [`Db`](crate::Db). What it has spawned is not
/// seen.
#[derive(Debug, Clone, Default)]
pub struct PoolWaits(Arc<Mutex<OpenWaits>>);

/// It may wait for several at once.
#[derive(Debug, Default)]
struct OpenWaits {
    count: usize,
    since: Option<Instant>,
}

impl PoolWaits {
    /// Runs the work.
    pub async fn of<F: Future>(&self, work: F) -> F::Output {
        WAITS.scope(self.clone(), work).await
    }

    /// For how long it has been waiting for a connection; None: it does not.
    pub fn so_far(&self) -> Option<Duration> {
        Some(self.open().since?.elapsed())
    }

    fn open(&self) -> std::sync::MutexGuard<'_, OpenWaits> {
        // A panic in here leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A wait, until it is dropped.
pub(crate) struct PoolWait(Option<PoolWaits>);

/// The work that runs, if anybody wants to know, waits for a connection from now on.
pub(crate) fn begin() -> PoolWait {
    let waits = WAITS.try_with(PoolWaits::clone).ok();
    if let Some(waits) = &waits {
        let mut open = waits.open();
        open.count += 1;
        open.since.get_or_insert_with(Instant::now);
    }
    PoolWait(waits)
}

impl Drop for PoolWait {
    fn drop(&mut self) {
        let Some(waits) = &self.0 else { return };
        let mut open = waits.open();
        open.count -= 1;
        if open.count == 0 {
            open.since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_is_known_while_it_lasts_and_only_of_the_work_that_is_looked_at() {
        let waits = PoolWaits::default();
        drop(begin());
        waits
            .of(async {
                assert_eq!(waits.so_far(), None);
                let first = begin();
                let second = begin();
                drop(first);
                assert!(waits.so_far().is_some());
                drop(second);
                assert_eq!(waits.so_far(), None);
            })
            .await;
        let _elsewhere = begin();
        assert_eq!(waits.so_far(), None);
    }
}
