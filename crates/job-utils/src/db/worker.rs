//! The worker's handle: claim, settle by a [`Settler`], release. Nothing else.

use std::sync::Arc;
use std::time::Duration;

pub use crate::db::claim::{Claim, Claimed, Job, Position};
use crate::db::{Db, DbError, Horizon};

/// What a worker may do in the database, under its id.
#[derive(Clone)]
pub struct WorkerDb {
    db: Db,
    worker_id: Arc<str>,
}

impl WorkerDb {
    /// A handle for the worker `worker_id`.
    pub fn new(db: Db, worker_id: impl Into<Arc<str>>) -> Self {
        Self { db, worker_id: worker_id.into() }
    }

    /// The worker's id.
    pub fn worker_id(&self) -> &Arc<str> {
        &self.worker_id
    }

    /// Claims due jobs; returns them in order.
    pub async fn claim(&self, claim: Claim<'_>) -> Result<Claimed, DbError> {
        self.db.claim(&self.worker_id, claim).await
    }

    /// Whether every transaction has ended that may have written jobs without waking this waiter. Look once more after
    /// that, then sleep.
    pub async fn horizon_passed(&self, horizon: Horizon) -> Result<bool, DbError> {
        self.db.horizon_passed(horizon).await
    }

    /// Fails accepted jobs whose callback is overdue; returns their ids, and how many other jobs are held besides those
    /// `in_flight`.
    pub async fn fail_overdue(
        &self,
        limit: Duration,
        message: &str,
        in_flight: &[i64],
    ) -> Result<(Vec<i64>, usize), DbError> {
        self.db.fail_overdue(&self.worker_id, limit, message, in_flight).await
    }

    /// How many jobs this worker holds, accepted ones included.
    pub async fn held(&self) -> Result<i64, DbError> {
        self.db.held(&self.worker_id).await
    }

    /// Waits until claims and releases that were dropped before their end have been cancelled, not for long.
    pub async fn cancelled(&self) {
        self.db.cancelled().await;
    }

    /// Gives back the listed jobs, or with None all this worker holds; returns how many.
    pub async fn release(&self, ids: Option<&[i64]>) -> Result<usize, DbError> {
        self.db.release(&self.worker_id, ids).await
    }
}
