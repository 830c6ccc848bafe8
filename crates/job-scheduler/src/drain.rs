//! Drain: give the schedules back, so that another scheduler takes them at once.

use std::time::Duration;

use job_utils::db::{Identity, Listener, SchedulerDb};
use job_utils::error::chain;

use crate::Stopped;
use crate::agenda::Agenda;

/// Releases what is held, waiting for Postgres up to `grace`.
pub(crate) async fn drain(db: &SchedulerDb, agenda: &Agenda, listener: &Listener, grace: Duration) -> Stopped {
    let ids = agenda.ids();
    let release = async {
        // The sole owner of its id gives back everything under it, also what a lost answer kept it from knowing about.
        // Asked now: another process with this id may have come since the start.
        let listed = match listener.identity().await {
            Identity::Sole => None,
            Identity::Shared | Identity::Unknown => Some(ids.as_slice()),
        };
        db.release_scheduled(listed).await
    };
    let stopped = match tokio::time::timeout(grace, release).await {
        Ok(Ok(())) => Stopped { released: ids.len(), orphaned: 0 },
        Ok(Err(error)) => {
            tracing::warn!("cannot give the schedules back: {}", chain(&error));
            Stopped { released: 0, orphaned: ids.len() }
        }
        Err(_) => Stopped { released: 0, orphaned: ids.len() },
    };
    tracing::info!(released = stopped.released, orphaned = stopped.orphaned, "scheduler stopped");
    stopped
}
