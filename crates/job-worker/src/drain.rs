//! Drain: end a worker in order. No new claims; wait for what is in flight, and for the callbacks of accepted jobs, as
//! long as the grace lasts; give the rest back.

use std::time::Duration;

use job_utils::db::Identity;
use job_utils::error::chain;
use tokio::time::{Instant, timeout_at};

use crate::Stopped;
use crate::claim::{Claimer, in_words};

/// How often to look whether accepted jobs have been called back. Only during a stop.
const LOOK: Duration = Duration::from_millis(100);

/// How long giving jobs back may take when Postgres does not answer.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) async fn drain(mut claimer: Claimer, identity: Identity) -> Stopped {
    let deadline = Instant::now() + claimer.grace;
    let in_flight = claimer.in_flight.len();
    if in_flight > 0 {
        tracing::info!(jobs = in_flight, grace = in_words(claimer.grace), "waiting for jobs in flight");
    }
    while let Ok(Some(())) = timeout_at(deadline, claimer.in_flight.ended()).await {}
    let left = claimer.in_flight.ids();
    // Without their dispatch nobody would settle them after the release.
    claimer.in_flight.abort().await;
    // Accepted jobs are no longer known by id; only the sole owner of the worker id may ask for all it holds.
    if identity == Identity::Sole && left.is_empty() {
        wait_for_callbacks(&claimer, deadline).await;
    }
    let ids = if identity == Identity::Sole { None } else { Some(left.as_slice()) };
    let released = match tokio::time::timeout(RELEASE_TIMEOUT, claimer.db.release(ids)).await {
        Ok(Ok(released)) => Some(released),
        Ok(Err(error)) => {
            tracing::error!("cannot give jobs back, their locks will expire: {}", chain(&error));
            None
        }
        Err(_) => {
            tracing::error!("cannot give jobs back in time, their locks will expire");
            None
        }
    };
    let stopped = Stopped {
        finished: in_flight - left.len(),
        released: released.unwrap_or(0),
        orphaned: if released.is_none() { left.len() } else { 0 },
    };
    tracing::info!(
        finished = stopped.finished,
        released = stopped.released,
        orphaned = stopped.orphaned,
        "worker stopped"
    );
    stopped
}

/// Waits until the functions that accepted a job have called back. The callback may reach another process, so the
/// database is asked.
async fn wait_for_callbacks(claimer: &Claimer, deadline: Instant) {
    let mut said = false;
    loop {
        match timeout_at(deadline, claimer.db.held()).await {
            Ok(Ok(0)) | Err(_) => return,
            Ok(Ok(jobs)) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::info!(jobs, "waiting for callbacks");
                }
            }
            Ok(Err(error)) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!("cannot see whether callbacks are due: {}", chain(&error));
                }
            }
        }
        if Instant::now() + LOOK >= deadline {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}
