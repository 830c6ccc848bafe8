//! Accept: store until when the callbacks of accepted jobs may come.
//!
//! A function that has accepted a job holds it, whatever becomes of this worker. The row has to say so, or others would
//! start the job again when this worker ends. Most functions call back within a moment, and then there is nothing to
//! store. So that is not done job by job, but a moment later for all that are left.

use std::sync::Arc;
use std::time::Duration;

use job_pg::{DbError, WorkerDb};
use job_utils::backoff::Backoff;
use job_utils::error::chain;
use tokio::time::sleep_until;

use crate::slots::Slots;

/// How long a function may take to call back without costing anything. A worker that is killed within this time loses
/// the acceptance: its job is started again, and the callback of the first attempt is stale.
const STORE_DELAY: Duration = Duration::from_millis(200);

/// So many accepted jobs are worth a statement before that, and one stores no more.
const STORE_BATCH: usize = 2000;

/// Stores the deadlines of accepted jobs, for good. Nobody else may meanwhile.
pub(crate) async fn store_deadlines(db: WorkerDb, slots: Arc<Slots>, callback_timeout: Duration) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    let mut logged = false;
    loop {
        let (_, Some(since)) = slots.unstored_since() else {
            slots.accepting.notified().await;
            continue;
        };
        tokio::select! {
            () = sleep_until(since + STORE_DELAY) => {}
            () = full_batch(&slots) => {}
        }
        match store(&db, &slots, callback_timeout).await {
            Ok(()) => {
                backoff.reset();
                logged = false;
            }
            Err(error) => {
                if !std::mem::replace(&mut logged, true) {
                    tracing::warn!("cannot store deadlines of accepted jobs yet: {}", chain(&error));
                }
                tokio::time::sleep(backoff.next_wait()).await;
            }
        }
    }
}

async fn full_batch(slots: &Slots) {
    while slots.unstored_since().0 < STORE_BATCH {
        slots.accepting.notified().await;
    }
}

/// Stores one statement's worth of deadlines. What somebody holds at this moment is left for another time.
pub(crate) async fn store(db: &WorkerDb, slots: &Slots, callback_timeout: Duration) -> Result<(), DbError> {
    let claims = slots.unstored(STORE_BATCH);
    if claims.is_empty() {
        return Ok(());
    }
    let left = db.accept(&claims, callback_timeout).await?;
    slots.deadlines_stored(&claims, &left);
    Ok(())
}
