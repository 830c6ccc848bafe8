//! Drain: end a worker in order. No new claims; wait for what is in flight, and for the callbacks of accepted jobs, as
//! long as the grace lasts; give the rest back.

use std::sync::Arc;
use std::time::Duration;

use job_utils::config::in_words;
use job_utils::db::{Identity, Listener, WorkerDb};
use job_utils::error::chain;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::Stopped;
use crate::slots::Slots;

/// How often to look whether accepted jobs have been called back. Only during a stop.
const LOOK: Duration = Duration::from_millis(100);

/// How long jobs that are aborted may take to end.
const ABORT_TIMEOUT: Duration = Duration::from_millis(500);

/// How long giving jobs back may take when Postgres does not answer.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(2500);

/// A worker that has stopped claiming.
pub(crate) struct Draining {
    pub(crate) db: WorkerDb,
    pub(crate) listener: Listener,
    pub(crate) slots: Arc<Slots>,
    pub(crate) running: JoinSet<()>,
    pub(crate) grace: Duration,
    /// When the stop began.
    pub(crate) stopped: Instant,
}

pub(crate) async fn drain(mut worker: Draining) -> Stopped {
    let deadline = worker.stopped + worker.grace;
    // What has not started can start elsewhere at once.
    let buffered = worker.slots.take_buffered();
    let returned = if buffered.is_empty() { Some(0) } else { give_back(&worker, &buffered).await };
    worker.slots.forget(&buffered);
    let in_flight = worker.slots.held().len();
    if in_flight > 0 {
        tracing::info!(jobs = in_flight, grace = in_words(worker.grace), "waiting for jobs in flight");
    }
    while !worker.slots.is_empty() {
        if timeout_at(deadline, worker.slots.left.notified()).await.is_err() {
            break;
        }
    }
    let mut left = worker.slots.held();
    // Without their dispatch nobody would settle them after the release.
    worker.running.abort_all();
    // A handler that blocks cannot be stopped: it must not hold up what comes.
    let aborted = async { while worker.running.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(ABORT_TIMEOUT, aborted).await;
    worker.running.detach_all();
    let finished = in_flight - left.len();
    if returned.is_none() {
        left.extend(buffered);
    }
    if left.is_empty() {
        wait_for_callbacks(&worker, deadline).await;
    }
    let released = release(&worker, &left).await;
    let stopped = Stopped {
        finished,
        released: returned.unwrap_or(0) + released.unwrap_or(0),
        orphaned: if released.is_none() { left.len() + worker.slots.accepted_count() } else { 0 },
    };
    tracing::info!(
        finished = stopped.finished,
        released = stopped.released,
        orphaned = stopped.orphaned,
        "worker stopped"
    );
    stopped
}

/// Gives back jobs that have not started; None when that did not work.
async fn give_back(worker: &Draining, ids: &[i64]) -> Option<usize> {
    match tokio::time::timeout(RELEASE_TIMEOUT, worker.db.release(Some(ids))).await {
        Ok(Ok(released)) => Some(released),
        Ok(Err(error)) => {
            tracing::warn!("cannot give buffered jobs back yet: {}", chain(&error));
            None
        }
        Err(_) => {
            tracing::warn!("cannot give buffered jobs back yet: Postgres does not answer");
            None
        }
    }
}

/// Waits until the functions that accepted a job have called back. The callback may reach another process, so the
/// database is asked. It knows accepted jobs by the worker's id only: with a twin they are left to it.
async fn wait_for_callbacks(worker: &Draining, deadline: Instant) {
    let mut said = false;
    loop {
        let held = async {
            match worker.listener.identity().await {
                Identity::Shared => Ok(None),
                Identity::Sole | Identity::Unknown => worker.db.held().await.map(Some),
            }
        };
        match timeout_at(deadline, held).await {
            Ok(Ok(None)) | Err(_) => return,
            Ok(Ok(Some(jobs))) => {
                let held = usize::try_from(jobs).unwrap_or(0);
                worker.slots.recount_accepted(worker.slots.accepted_count(), held);
                if held == 0 {
                    return;
                }
                if !std::mem::replace(&mut said, true) {
                    tracing::info!(
                        jobs,
                        grace = in_words(worker.grace),
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
async fn release(worker: &Draining, left: &[i64]) -> Option<usize> {
    let released = async {
        // Asked anew: another process with this id may have come since the start, and since the drain began.
        let identity = worker.listener.identity().await;
        let released = match identity {
            Identity::Sole => worker.db.release(None).await,
            Identity::Shared | Identity::Unknown if left.is_empty() => Ok(0),
            Identity::Shared | Identity::Unknown => worker.db.release(Some(left)).await,
        };
        match released {
            // Accepted jobs stay locked, and nobody is known to look after them.
            Ok(_) if identity == Identity::Unknown && worker.slots.accepted_count() > 0 => {
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
    worker.db.cancelled().await;
    released
}
