//! Drain: give the schedules back, so that another scheduler takes them at once.

use std::time::Duration;

use job_utils::db::SchedulerDb;
use job_utils::error::chain;

use crate::Stopped;

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
