//! Complete in a transaction: a job's end together with the work that it stands for.

use std::time::Duration;

use postgres_types::Type;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::config::SchemaName;
use crate::db::enqueue::{EnqueueClient, Rows};
use crate::db::{Db, DbError, Job, Transaction};

const SQL: &str = "SELECT @extschema@.complete_in_transaction($1)";

/// For the rest of the transaction; what is NULL is not set.
const ACT_FOR: &str = "SELECT set_config(s.name, s.value, true) \
                       FROM (VALUES ('jwt.claims.database_id', $1::uuid::text), ('jwt.claims.user_id', $2::uuid::text)) \
                       AS s (name, value) WHERE s.value IS NOT NULL";

/// How long a rollback may take before its connection is given up.
const ROLLBACK_TIMEOUT: Duration = Duration::from_millis(500);

/// A job that was not completed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompleteError {
    /// The attempt is no longer live: the job has been completed, taken over or started again. The transaction has to be rolled
    /// back, and PostgreSQL does so.
    #[error("the attempt of job {0} is no longer live: its work is rolled back")]
    Stale(i64),
    /// The database did not do it.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// What names an attempt in `X-Job-Token` and for the SQL function `complete_in_transaction`.
///
/// ```
/// assert_eq!(job_utils::db::attempt_token(42, 7), "42.7");
/// ```
pub fn attempt_token(job_id: i64, epoch: i64) -> String {
    format!("{job_id}.{epoch}")
}

/// Completes a claimed job in the caller's transaction: what the transaction writes and the end of the job are committed together
/// or not at all. Whoever has taken the job over meanwhile makes this an error.
///
/// # Errors
/// The attempt is no longer live; the database did not do it.
pub async fn complete_in_transaction<C: EnqueueClient>(
    transaction: &C,
    schema: &SchemaName,
    job: &Job,
) -> Result<(), CompleteError> {
    let token = attempt_token(job.id, job.epoch);
    let completed = transaction.rows("complete", &schema.apply(SQL), &[(&token, Type::TEXT)]).await;
    match completed {
        Ok(_) => Ok(()),
        Err(error) if error.sql_state() == Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) => {
            Err(CompleteError::Stale(job.id))
        }
        Err(error) => Err(error.into()),
    }
}

impl Db {
    /// Does a claimed job's work in a transaction that completes the job as well. It acts for the job's tenant and actor: the settings
    /// `jwt.claims.database_id` and `jwt.claims.user_id` are those of the job, where it has them.
    ///
    /// # Errors
    /// What `work` returns, and everything is rolled back; [`CompleteError`] when the job could not be completed. When the
    /// connection is lost during the commit it is not known whether it was committed.
    pub async fn complete_with<T, E>(
        &self,
        job: &Job,
        work: impl AsyncFnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<CompleteError>,
    {
        // Dropped before its end, by a handler's timeout say, it cancels the statement under way, so that the pool does not get back a
        // connection that is busy.
        let mut operation = self.operation().await.map_err(CompleteError::from)?;
        let result = self.complete_on(operation.object(), job, work).await;
        // A commit has waited for all before it. What fails may have left a statement behind, by a timeout within `work` say; the
        // rollback is sent already, and what is answered after it says that both have ended.
        if result.is_ok() || is_idle(&operation).await {
            operation.ended();
        }
        result
    }

    async fn complete_on<T, E>(
        &self,
        client: &mut tokio_postgres::Client,
        job: &Job,
        work: impl AsyncFnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<CompleteError>,
    {
        // Not deadpool's transaction, whose statements are kept: behind a pooler the next one may have another session.
        let failed = |error: DbError| E::from(CompleteError::from(error));
        let transaction = client.transaction().await.map_err(DbError::query("begin")).map_err(failed)?;
        act_for(&transaction, job).await.map_err(failed)?;
        let value = work(&transaction).await?;
        complete_in_transaction(&transaction, self.schema(), job).await?;
        transaction.commit().await.map_err(DbError::query("commit")).map_err(failed)?;
        Ok(value)
    }
}

/// Whether a connection has done what it was asked for.
async fn is_idle(client: &tokio_postgres::Client) -> bool {
    matches!(tokio::time::timeout(ROLLBACK_TIMEOUT, client.simple_query("")).await, Ok(Ok(_)))
}

/// Takes on a job's tenant and actor for the rest of the transaction.
async fn act_for(transaction: &Transaction<'_>, job: &Job) -> Result<(), DbError> {
    let (tenant, actor): (Option<Uuid>, Option<Uuid>) = (job.database_id, job.actor_id);
    if tenant.is_some() || actor.is_some() {
        transaction.rows("act for a tenant", ACT_FOR, &[(&tenant, Type::UUID), (&actor, Type::UUID)]).await?;
    }
    Ok(())
}
