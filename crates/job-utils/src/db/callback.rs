//! The callback server's handle: settle, and nothing else.

use crate::db::{Db, NotReady, SettleError, Settled, Settler};
use crate::wire::callback::Outcome;

/// What the callback server may do in the database.
#[derive(Clone)]
pub struct CallbackDb {
    db: Db,
    settler: Settler,
}

impl CallbackDb {
    /// A handle with a settler of its own.
    pub fn new(db: Db) -> Self {
        let settler = Settler::spawn(db.clone());
        Self { db, settler }
    }

    /// Stores how an attempt ended and waits until it is stored.
    pub async fn settle(&self, worker_id: &str, job_id: i64, outcome: Outcome) -> Result<Settled, SettleError> {
        self.settler.settle(worker_id, job_id, outcome).await
    }

    /// Whether the database answers and has the schema.
    pub async fn ready(&self) -> Result<(), NotReady> {
        self.db.ready().await
    }
}
