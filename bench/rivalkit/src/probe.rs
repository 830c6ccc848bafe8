//! What handlers report to: how many ran, and when each one started.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::Notify;

/// Counts handler calls and keeps the moment at which each job's handler started.
pub struct Probe {
    zero: Instant,
    /// Nanoseconds since `zero` plus one, by the job's number; 0: not started. Empty when no starts are kept.
    starts: Vec<AtomicU64>,
    calls: AtomicU64,
    target: u64,
    reached: Notify,
    call: Notify,
}

impl Probe {
    /// A probe that wakes [`Probe::all`] at the `target`-th call.
    #[must_use]
    pub fn counting(target: u64) -> Probe {
        Probe::new(target, 0)
    }

    /// A probe that also keeps the start of jobs 0 to `jobs` - 1.
    #[must_use]
    pub fn timing(jobs: u64) -> Probe {
        Probe::new(jobs, jobs)
    }

    fn new(target: u64, jobs: u64) -> Probe {
        Probe {
            zero: Instant::now(),
            starts: (0..jobs).map(|_| AtomicU64::new(0)).collect(),
            calls: AtomicU64::new(0),
            target,
            reached: Notify::new(),
            call: Notify::new(),
        }
    }

    /// To be called by the handler with the job's number.
    pub fn hit(&self, job: u64) {
        let timed = !self.starts.is_empty();
        if let Some(start) = self.starts.get(job as usize) {
            let _ = start.compare_exchange(0, self.now(), Ordering::Relaxed, Ordering::Relaxed);
        }
        let calls = self.calls.fetch_add(1, Ordering::AcqRel) + 1;
        if calls == self.target {
            self.reached.notify_one();
        }
        if timed {
            self.call.notify_one();
        }
    }

    /// Nanoseconds on this probe's clock, never 0.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.zero.elapsed().as_nanos() as u64 + 1
    }

    /// How many handlers were called.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Acquire)
    }

    /// When the job's handler started, on this probe's clock; `None`: not yet.
    #[must_use]
    pub fn start(&self, job: u64) -> Option<u64> {
        match self.starts.get(job as usize)?.load(Ordering::Relaxed) {
            0 => None,
            start => Some(start),
        }
    }

    /// Waits for the target-th call.
    pub async fn all(&self) {
        if self.calls() < self.target {
            self.reached.notified().await;
        }
    }

    /// Waits until the job's handler has started.
    pub async fn started(&self, job: u64) -> u64 {
        loop {
            if let Some(start) = self.start(job) {
                return start;
            }
            self.call.notified().await;
        }
    }
}
