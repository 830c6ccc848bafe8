//! Drain: end a worker in order. No new claims; wait for what is in flight, and for the callbacks of accepted jobs, as
//! long as the grace lasts; give back what has not ended, and leave to their functions what those have accepted: they call
//! back to whatever callback server there is.

use std::sync::Arc;
use std::time::Duration;

use job_pg::{DbError, WorkerDb};
use job_utils::config::in_words;
use job_utils::error::chain;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use crate::Stopped;
use crate::accept::store;
use crate::slots::{Claim, Slots};
use crate::stand_in::StandIn;

/// How often to look whether accepted jobs have been called back. Only during a stop.
const LOOK: Duration = Duration::from_millis(100);

/// How long jobs that are aborted may take to end.
const ABORT_TIMEOUT: Duration = Duration::from_millis(500);

/// How long outcomes that are on their way into the database may take at the end of the grace.
const SETTLE_TIMEOUT: Duration = Duration::from_millis(500);

/// How long giving jobs back may take when Postgres does not answer.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(2500);

/// A worker that has stopped claiming.
pub(crate) struct Draining {
    pub(crate) db: WorkerDb,
    pub(crate) slots: Arc<Slots>,
    pub(crate) running: JoinSet<()>,
    pub(crate) grace: Duration,
    /// Stores deadlines of accepted jobs.
    pub(crate) accepting: AbortOnDropHandle<()>,
    /// For those that are left.
    pub(crate) callback_timeout: Duration,
    /// Shows that the worker lives, until it has given back what it holds.
    pub(crate) heartbeat: AbortOnDropHandle<()>,
    /// Does so when that cannot.
    pub(crate) stand_in: Option<StandIn>,
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
    // What has ended may just be on its way into the database; given back, it would be repeated.
    while !left.is_empty() && timeout_at(deadline + SETTLE_TIMEOUT, worker.slots.left.notified()).await.is_ok() {
        left = worker.slots.held();
    }
    let finished = in_flight - left.len();
    if returned.is_none() {
        left.extend(buffered);
    }
    let mut accepted = 0;
    if left.is_empty() {
        accepted = wait_for_callbacks(&worker, deadline).await;
    }
    worker.accepting.abort();
    // Whoever stores deadlines must be the only one.
    let _ = (&mut worker.accepting).await;
    worker.heartbeat.abort();
    // One under way would register the worker again.
    let _ = (&mut worker.heartbeat).await;
    if let Some(stand_in) = worker.stand_in.take() {
        stand_in.end().await;
    }
    // A claim that is carried out after the end of the registration would be nobody's.
    worker.db.cancelled().await;
    let left_behind = leave(&worker).await;
    let (released, accepted) = left_behind.unwrap_or((0, accepted));
    let stopped = Stopped {
        finished,
        released: returned.unwrap_or(0) + released,
        accepted,
        orphaned: if left_behind.is_none() { left.len() } else { 0 },
    };
    tracing::info!(
        finished = stopped.finished,
        released = stopped.released,
        orphaned = stopped.orphaned,
        accepted = stopped.accepted,
        "worker stopped"
    );
    stopped
}

/// Gives back jobs that have not started; None when that did not work.
async fn give_back(worker: &Draining, claims: &[Claim]) -> Option<usize> {
    match tokio::time::timeout(RELEASE_TIMEOUT, worker.db.release(claims)).await {
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

/// Waits until the functions that accepted a job have called back, so that a callback server beside this worker stays for
/// them. The callback may reach another process, so the database is asked. Returns how many have not.
async fn wait_for_callbacks(worker: &Draining, deadline: Instant) -> usize {
    let mut said = false;
    let mut accepted = worker.slots.unstored_since().0;
    loop {
        // Asked first: what is stored meanwhile is counted twice rather than not at all.
        let unstored = worker.slots.unstored_since().0;
        match timeout_at(deadline, worker.db.accepted()).await {
            Ok(Ok(stored)) => accepted = unstored + usize::try_from(stored).unwrap_or(0),
            Ok(Err(error)) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!("cannot see whether callbacks are due: {}", chain(&error));
                }
            }
            Err(_) => return accepted,
        }
        if accepted == 0 || Instant::now() + LOOK >= deadline {
            return accepted;
        }
        if !std::mem::replace(&mut said, true) {
            let grace = in_words(worker.grace);
            tracing::info!(jobs = accepted, grace, "waiting for callbacks; a second signal quits at once");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Gives back what this process still holds and ends its registration, once the deadlines of what functions have accepted are
/// stored. Returns how many it gave back, and how many functions have accepted. None when that did not work: then others take
/// over when the lease has passed.
async fn leave(worker: &Draining) -> Option<(usize, usize)> {
    let leaving = async {
        store(&worker.db, &worker.slots, worker.callback_timeout).await?;
        while worker.slots.unstored_since().0 > 0 {
            // Somebody holds a row.
            tokio::time::sleep(LOOK).await;
            store(&worker.db, &worker.slots, worker.callback_timeout).await?;
        }
        let (mut released, mut all) = worker.db.leave().await?;
        while !all {
            tokio::time::sleep(LOOK).await;
            let (more, gone) = worker.db.leave().await?;
            (released, all) = (released + more, gone);
        }
        let accepted = worker.db.accepted().await.unwrap_or_default();
        Ok::<_, DbError>((released, usize::try_from(accepted).unwrap_or_default()))
    };
    let released = match tokio::time::timeout(RELEASE_TIMEOUT, leaving).await {
        Ok(Ok(released)) => Some(released),
        Ok(Err(error)) => {
            tracing::error!("cannot give jobs back, others take them over after the lease: {}", chain(&error));
            None
        }
        Err(_) => {
            tracing::error!("cannot give jobs back in time, others take them over after the lease");
            None
        }
    };
    worker.db.cancelled().await;
    released
}
