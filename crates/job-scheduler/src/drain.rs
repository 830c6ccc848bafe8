//! Drain: give the schedules back, so that another scheduler takes them at once.

use std::time::Duration;

use job_pg::SchedulerDb;
use job_utils::error::chain;

/// What a scheduler left behind when it stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stopped {
    /// Schedules given back for another scheduler.
    pub released: usize,
    /// Schedules that could not be given back, because Postgres was away: others take them when the lease has passed,
    /// and the next process with the same id at once.
    pub orphaned: usize,
}

/// Releases what is held, waiting for Postgres up to `grace`. `held`: how many schedules that are, as far as is known.
pub(crate) async fn drain(db: &SchedulerDb, held: usize, grace: Duration) -> Stopped {
    let stopped = match tokio::time::timeout(grace, db.leave()).await {
        Ok(Ok(released)) => Stopped { released: usize::try_from(released).unwrap_or_default(), orphaned: 0 },
        Ok(Err(error)) => {
            tracing::warn!("cannot give the schedules back: {}", chain(&error));
            Stopped { released: 0, orphaned: held }
        }
        Err(_) => Stopped { released: 0, orphaned: held },
    };
    tracing::info!(released = stopped.released, orphaned = stopped.orphaned, "scheduler stopped");
    stopped
}
