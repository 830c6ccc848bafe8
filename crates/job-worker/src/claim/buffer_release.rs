//! Buffer release: give back what has waited for a slot too long, as another worker may have one free, and what cannot
//! be sent now.

use std::sync::Arc;
use std::time::Duration;

use job_pg::{ClaimId, WorkerDb};
use job_utils::backoff::Backoff;
use job_utils::error::chain;
use tokio::task::JoinSet;

use crate::slots::Slots;

/// How long a claimed job may wait for a slot before it is given back.
const BUFFER_AGE: Duration = Duration::from_secs(2);

pub(super) struct BufferRelease {
    db: WorkerDb,
    slots: Arc<Slots>,
    /// Jobs that are being given back.
    releasing: JoinSet<()>,
}

impl BufferRelease {
    pub(super) fn new(db: WorkerDb, slots: Arc<Slots>) -> Self {
        Self { db, slots, releasing: JoinSet::new() }
    }

    /// Waits until buffered jobs are too old, or jobs cannot be sent, and starts to give them back.
    pub(super) async fn released(&mut self) {
        let aged = async {
            match self.slots.aged_at(BUFFER_AGE) {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = aged => {}
            () = self.slots.giving_back.notified() => {}
        }
        while self.releasing.try_join_next().is_some() {}
        let mut claims = self.slots.take_aged(BUFFER_AGE);
        claims.extend(self.slots.take_given_back());
        if !claims.is_empty() {
            self.releasing.spawn(release(self.db.clone(), claims));
        }
    }

    /// Waits until nothing is being given back.
    pub(super) async fn ended(&mut self) {
        while self.releasing.join_next().await.is_some() {}
    }
}

/// Gives back claims, as soon as the database does it.
async fn release(db: WorkerDb, claims: Vec<ClaimId>) {
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
