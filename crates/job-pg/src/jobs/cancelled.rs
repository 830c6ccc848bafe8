//! Cancelled: which attempts of a process somebody has cancelled, and why.

use postgres_types::Type;
use uuid::Uuid;

use crate::connection::Db;
use crate::error::DbError;
use crate::jobs::claim::ClaimId;

/// The channel on which workers are told that attempts have been cancelled.
pub const CANCEL_CHANNEL: &str = "jobs:cancel";

/// Nothing as a rule: one look into an index that is empty.
const CANCELLED: &str =
    "SELECT c.job_id, c.epoch, c.reason FROM @extschema@.cancelled_attempts c WHERE c.instance = $1";

/// What somebody holds is removed by the next call of cancel_jobs.
const FORGET: &str = "DELETE FROM @extschema@.cancelled_attempts c WHERE c.instance = $1 AND c.epoch = ANY (ARRAY(\
                      SELECT l.epoch FROM @extschema@.cancelled_attempts l \
                      WHERE l.instance = $1 AND l.epoch = ANY ($2) FOR UPDATE SKIP LOCKED))";

/// An attempt that somebody has cancelled. The job's row is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelledAttempt {
    /// Whose attempt it is.
    pub claim: ClaimId,
    /// Why, when somebody has said so.
    pub reason: Option<String>,
}

impl Db {
    /// The attempts of an instance that have been cancelled, until they are forgotten.
    pub(crate) async fn cancelled_attempts(&self, instance: Uuid) -> Result<Vec<CancelledAttempt>, DbError> {
        let client = self.operation().await?;
        let sql = self.sql(CANCELLED);
        let result = async {
            let rows = client.query_typed(&sql, &[(&instance, Type::UUID)]).await?;
            let read = |row: &tokio_postgres::Row| {
                Ok(CancelledAttempt { claim: (row.try_get(0)?, row.try_get(1)?), reason: row.try_get(2)? })
            };
            rows.iter().map(read).collect()
        };
        client.run("look for cancelled attempts", result).await
    }

    /// Removes what an instance has been told of, by epochs.
    pub(crate) async fn forget_cancelled(&self, instance: Uuid, epochs: &[i64]) -> Result<(), DbError> {
        let client = self.operation().await?;
        let sql = self.sql(FORGET);
        let result =
            async { client.query_typed(&sql, &[(&instance, Type::UUID), (&epochs, Type::INT8_ARRAY)]).await.map(drop) };
        client.run("forget cancelled attempts", result).await
    }
}
