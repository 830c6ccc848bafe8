//! The callback server's handle: settle, and nothing else.

use tokio::sync::oneshot;

use crate::db::{Db, NotReady, Results, SettleError, Settled, Settlement, Settler};
use crate::wire::callback::Outcome;

/// Who waits for an outcome to be stored.
type Ticket = oneshot::Sender<Result<Settled, SettleError>>;

/// What the callback server may do in the database.
#[derive(Clone)]
pub struct CallbackDb {
    db: Db,
    settler: Settler<Ticket>,
}

impl CallbackDb {
    /// A handle with a settler of its own.
    pub fn new(db: Db) -> Self {
        let settler = Settler::spawn(db.clone(), |results: Results<Ticket>| {
            for (settlement, result) in results {
                // Whoever asked may have stopped waiting; the outcome is stored all the same.
                let _ = settlement.ticket.send(result);
            }
        });
        Self { db, settler }
    }

    /// Stores how an attempt ended and waits until it is stored. Dropping the future does not take it back.
    pub async fn settle(&self, worker_id: &str, job_id: i64, outcome: Outcome) -> Result<Settled, SettleError> {
        let (ticket, stored) = oneshot::channel();
        self.settler.settle(Settlement { worker_id: worker_id.into(), job_id, outcome, ticket }).await?;
        stored.await.map_err(|_| SettleError::Stopped)?
    }

    /// Whether the database answers and has the schema.
    pub async fn ready(&self) -> Result<(), NotReady> {
        self.db.ready().await
    }
}
