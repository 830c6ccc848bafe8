//! The callback server's handle: settle, and nothing else.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::connection::Db;
use crate::error::DbError;
use crate::jobs::SettleError;
use crate::jobs::SettleResults;
use crate::jobs::Settled;
use crate::jobs::Settlement;
use crate::jobs::Settler;
use crate::schema::NotReady;
use job_utils::backoff::Backoff;
use job_utils::outcome::Outcome;

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
        Self::telling(db, |_, _, _, _| {})
    }

    /// [`Self::new`] that calls `ended` with worker, job, outcome and what became of it, before whoever waits for it
    /// knows: also when nobody waits any more.
    pub fn telling(db: Db, ended: impl Fn(&str, i64, &Outcome, Settled) + Send + Sync + 'static) -> Self {
        let settled = move |results: SettleResults<Ticket>| {
            for (settlement, result) in results {
                if let Ok(settled) = result {
                    ended(&settlement.worker_id, settlement.job_id, &settlement.outcome, settled);
                }
                // Whoever asked may have stopped waiting; the outcome is stored all the same.
                let _ = settlement.ticket.send(result);
            }
        };
        // A callback does not say which task its job is of.
        let settler = Settler::spawn(db.clone(), |_| None, settled);
        Self { db, settler }
    }

    /// Stores how an attempt ended and waits until it is stored. Without an epoch it is that of whatever claim of the
    /// job the worker holds. Dropping the future does not take it back.
    pub async fn settle(
        &self,
        worker_id: &str,
        job_id: i64,
        epoch: Option<i64>,
        outcome: Outcome,
    ) -> Result<Settled, SettleError> {
        let (ticket, stored) = oneshot::channel();
        self.settler
            .settle(Settlement { worker_id: worker_id.into(), job_id, epoch, outcome, run_time: None, ticket })
            .await?;
        stored.await.map_err(|_| SettleError::Stopped)?
    }

    /// Lets a callback come until `extension` from now at least; tries again for as long as the database is away.
    pub async fn extend(
        &self,
        worker_id: &str,
        job_id: i64,
        epoch: Option<i64>,
        extension: Duration,
    ) -> Result<Settled, DbError> {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            match self.db.extend(worker_id, job_id, epoch, extension).await {
                Ok(extended) => return Ok(if extended { Settled::Done } else { Settled::Stale }),
                Err(error) if error.is_transient() => tokio::time::sleep(backoff.next_wait()).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the database answers and has the schema.
    pub async fn ready(&self) -> Result<(), NotReady> {
        self.db.ready().await
    }
}
