//! Buffer release: give back what has waited for a slot too long, as another worker may have one free, and what cannot
//! be sent now.

use std::sync::Arc;
use std::time::Duration;

use job_pg::WorkerDb;
use tokio::task::JoinSet;

use crate::release::release;
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
