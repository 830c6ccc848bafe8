//! Settlers of a [`Db`](super::Db), and how they fare: whoever asks whether a worker can work has no other way to know.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Semaphore;

/// How a settler fares.
pub(crate) struct SettlerStatus {
    /// For how many outcomes more there is room.
    pub(crate) room: Semaphore,
    most: usize,
    /// How many have failed and are to be tried again.
    pub(crate) failing: AtomicUsize,
    /// Why the last of those is.
    reason: Mutex<String>,
}

impl SettlerStatus {
    /// An outcome is to be tried again.
    pub(crate) fn fails(&self, reason: String) {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// How many outcomes are to be tried again, and why the last is, once that is more than half of what may wait.
    fn stuck(&self) -> Option<(usize, String)> {
        let failing = self.failing.load(Ordering::Relaxed);
        (failing > self.most / 2).then(|| (failing, self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()))
    }
}

/// Those of one pool.
#[derive(Default)]
pub(crate) struct Settlers(Mutex<Vec<Weak<SettlerStatus>>>);

impl Settlers {
    /// A settler begins, with room for so many outcomes.
    pub(crate) fn register(&self, most: usize) -> Arc<SettlerStatus> {
        let (failing, reason) = Default::default();
        let status = Arc::new(SettlerStatus { room: Semaphore::new(most), most, failing, reason });
        let mut settlers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        settlers.retain(|settler| settler.strong_count() > 0);
        settlers.push(Arc::downgrade(&status));
        status
    }

    /// How many outcomes one of them does not get stored, and why.
    pub(crate) fn stuck(&self) -> Option<(usize, String)> {
        let settlers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        settlers.iter().filter_map(Weak::upgrade).find_map(|settler| settler.stuck())
    }
}
