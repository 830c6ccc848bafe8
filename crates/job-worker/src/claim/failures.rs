//! Claims that fail: the pace of the retries, and one line of the log for an outage.

use std::time::Duration;

use job_pg::DbError;
use job_utils::backoff::Backoff;
use job_utils::config::in_words;
use job_utils::error::chain;
use tokio::time::Instant;

pub(super) struct ClaimFailures {
    backoff: Backoff,
    /// The last claim failed, and that has been logged.
    failing: bool,
}

impl ClaimFailures {
    pub(super) fn new() -> Self {
        Self { backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(1)), failing: false }
    }

    /// Whether the last claim failed.
    pub(super) fn is_failing(&self) -> bool {
        self.failing
    }

    /// A claim failed. `blocked`: how long a handler has blocked its thread, if one has. Returns when to try again.
    pub(super) fn failed(&mut self, error: &DbError, blocked: impl FnOnce() -> Option<Duration>) -> Instant {
        if !std::mem::replace(&mut self.failing, true) {
            match blocked() {
                None => tracing::warn!("cannot claim, trying again: {}", chain(error)),
                Some(held) => tracing::warn!(
                    "cannot claim, trying again: a handler has blocked a thread for {}, and the worker with it: {}",
                    in_words(Duration::from_secs(held.as_secs())),
                    chain(error)
                ),
            }
        }
        Instant::now() + self.backoff.next_wait()
    }

    /// A claim succeeded. Returns whether that ends a time of failures.
    pub(super) fn succeeded(&mut self) -> bool {
        let recovered = std::mem::take(&mut self.failing);
        if recovered {
            tracing::info!("claiming again");
            self.backoff.reset();
        }
        recovered
    }
}
