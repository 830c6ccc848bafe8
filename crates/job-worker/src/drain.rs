//! Drain: end a worker in order. No new claims; wait for what is in flight, and for the callbacks of accepted jobs, as
//! long as the grace lasts; give the rest back.

use std::time::Duration;

use job_utils::config::in_words;
use job_utils::db::Identity;
use job_utils::error::chain;
use tokio::time::{Instant, timeout_at};

use crate::Stopped;
use crate::claim::Claimer;

/// How often to look whether accepted jobs have been called back. Only during a stop.
const LOOK: Duration = Duration::from_millis(100);

/// How long giving jobs back may take when Postgres does not answer.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(2500);

pub(crate) async fn drain(mut claimer: Claimer) -> Stopped {
    let deadline = *claimer.stopped.get_or_init(Instant::now) + claimer.grace;
    let in_flight = claimer.in_flight.len();
    if in_flight > 0 {
        tracing::info!(jobs = in_flight, grace = in_words(claimer.grace), "waiting for jobs in flight");
    }
    while let Ok(Some(accepted)) = timeout_at(deadline, claimer.in_flight.ended()).await {
        claimer.accepted += usize::from(accepted);
    }
    let left = claimer.in_flight.ids();
    // Without their dispatch nobody would settle them after the release.
    claimer.in_flight.abort().await;
    if left.is_empty() {
        wait_for_callbacks(&mut claimer, deadline).await;
    }
    let released = release(&claimer, &left).await;
    let stopped = Stopped {
        finished: in_flight - left.len(),
        released: released.unwrap_or(0),
        orphaned: if released.is_none() { left.len() + claimer.accepted } else { 0 },
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
/// database is asked. It knows accepted jobs by the worker's id only: with a twin they are left to it.
async fn wait_for_callbacks(claimer: &mut Claimer, deadline: Instant) {
    let mut said = false;
    loop {
        let held = async {
            match claimer.listener.identity().await {
                Identity::Shared => Ok(None),
                Identity::Sole | Identity::Unknown => claimer.db.held().await.map(Some),
            }
        };
        match timeout_at(deadline, held).await {
            Ok(Ok(None)) | Err(_) => return,
            Ok(Ok(Some(jobs))) => {
                claimer.accepted = usize::try_from(jobs).unwrap_or(0);
                if claimer.accepted == 0 {
                    return;
                }
                if !std::mem::replace(&mut said, true) {
                    tracing::info!(
                        jobs,
                        grace = in_words(claimer.grace),
                        "waiting for callbacks; a second signal quits at once"
                    );
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

/// Gives back what is held: everything under the id when nobody else has it, else what is known to be ours. None when
/// something could not be given back.
async fn release(claimer: &Claimer, left: &[i64]) -> Option<usize> {
    let released = async {
        // Asked anew: another process with this id may have come since the start, and since the drain began.
        let identity = claimer.listener.identity().await;
        let released = match identity {
            Identity::Sole => claimer.db.release(None).await,
            Identity::Shared | Identity::Unknown if left.is_empty() => Ok(0),
            Identity::Shared | Identity::Unknown => claimer.db.release(Some(left)).await,
        };
        match released {
            // Accepted jobs stay locked, and nobody is known to look after them.
            Ok(_) if identity == Identity::Unknown && claimer.accepted > 0 => {
                tracing::error!("cannot see whether another process has this worker id: accepted jobs stay locked");
                None
            }
            Ok(released) => Some(released),
            Err(error) => {
                tracing::error!("cannot give jobs back, their locks will expire: {}", chain(&error));
                None
            }
        }
    };
    let released = tokio::time::timeout(RELEASE_TIMEOUT, released).await.unwrap_or_else(|_| {
        tracing::error!("cannot give jobs back in time, their locks will expire");
        None
    });
    claimer.db.cancelled().await;
    released
}
