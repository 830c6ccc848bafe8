//! Release: give back jobs that have been claimed and have not begun.

use std::time::Duration;

use job_pg::{ClaimId, WorkerDb};
use job_utils::backoff::Backoff;
use job_utils::error::chain;

/// Gives back claims, as soon as the database does it.
pub(crate) async fn release(db: WorkerDb, claims: Vec<ClaimId>) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    loop {
        match db.release(&claims).await {
            Ok(jobs) => {
                tracing::debug!(jobs, "gave back jobs that waited for a free slot or for their host");
                return;
            }
            Err(error) => {
                tracing::warn!("cannot give back jobs yet that wait for a slot or for their host: {}", chain(&error))
            }
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}
