//! Complete in a transaction: a job's end together with the work that it stands for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postgres_types::Type;
use tokio_postgres::IsolationLevel;
use tokio_postgres::error::SqlState;

use crate::config::SchemaName;
use crate::connection::Db;
use crate::connection::statement::Parameters;
use crate::error::DbError;
use crate::jobs::Job;
use crate::jobs::enqueue::{EnqueueClient, Rows};
use tokio_postgres::Transaction;

const SQL: &str = "SELECT @extschema@.complete_in_transaction($1)";

/// Locks the attempt's row, before any work: whoever else needs rows of the work and this one (a producer with the
/// job's key) then waits here rather than in the middle, where the two would wait for each other. No row: the attempt
/// is no longer live. And the settings for the rest of the transaction; what is NULL is not set. A row that is locked
/// is not taken over, so a client that has gone without a word must be noticed before its lease ends, as the pool
/// notices a server; one that is halted, or whose runtime is blocked, says nothing and keeps its connection, so the
/// server ends it when there has been no statement for longer than the work may take; sooner where that is set.
const BEGIN: &str = "WITH own AS MATERIALIZED (\
                     SELECT j.id FROM @extschema@.jobs j WHERE j.id = $1 AND j.epoch = $2 AND j.locked_at IS NOT NULL FOR UPDATE), \
                     setting AS MATERIALIZED (\
                     SELECT set_config(s.name, s.value, true) FROM own, \
                     (VALUES ('jwt.claims.database_id', $3::uuid::text), ('jwt.claims.user_id', $4::uuid::text), \
                     ('jwt.claims.entity_id', $6::uuid::text), ('jwt.claims.organization_id', $7::uuid::text), \
                     ('tcp_keepalives_idle', '10'), ('tcp_keepalives_interval', '5'), ('tcp_keepalives_count', '3'), \
                     ('tcp_user_timeout', '20000'), \
                     ('idle_in_transaction_session_timeout', (SELECT $5::int4::text FROM \
                     (SELECT 1000::numeric * extract(epoch FROM current_setting('idle_in_transaction_session_timeout')::interval) AS ms) AS given \
                     WHERE given.ms = 0::numeric OR given.ms > $5::int4::numeric))) AS s (name, value) WHERE s.value IS NOT NULL) \
                     SELECT (SELECT count(*) FROM setting) FROM own";

/// How long a rollback may take before its connection is given up.
const ROLLBACK_TIMEOUT: Duration = Duration::from_millis(500);

/// A job that was not completed.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum CompleteError {
    /// The attempt is no longer live: the job has been completed, taken over or started again. The transaction has to
    /// be rolled back, and PostgreSQL does so.
    #[error("the attempt of job {0} is no longer live: its work is rolled back")]
    Stale(i64),
    /// A transaction of this attempt is open, which has to end before another begins: two would wait for each other.
    #[error("a transaction that completes job {0} is open already")]
    Open(i64),
    /// The database did not do it.
    #[error(transparent)]
    Db(#[from] DbError),
}

job_utils::debug_as_chain!(CompleteError);

/// What names an attempt in `X-Job-Token` and for the SQL function `complete_in_transaction`.
///
/// ```
/// assert_eq!(job_pg::attempt_token(42, 7), "42.7");
/// ```
pub fn attempt_token(job_id: i64, epoch: i64) -> String {
    format!("{job_id}.{epoch}")
}

/// Completes a claimed job in the caller's transaction: what the transaction writes and the end of the job are
/// committed together or not at all. Whoever has taken the job over meanwhile makes this an error.
///
/// # Errors
/// The attempt is no longer live; the database did not do it.
pub async fn complete_in_transaction<C: EnqueueClient>(
    mut transaction: C,
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

/// What a job's transaction is to be like.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct TransactionOptions<'a> {
    /// None: that of the session.
    pub isolation: Option<IsolationLevel>,
    /// After so long without a statement the server ends the transaction and its session, or sooner where the session's
    /// settings say so; None: as those say. From 1 ms to 24 days.
    pub idle: Option<Duration>,
    /// Is set when the work begins, or never can; an error before that says nothing of the work.
    pub begun: Option<&'a AtomicBool>,
}

impl TransactionOptions<'_> {
    fn begin(&self) {
        if let Some(begun) = self.begun {
            begun.store(true, Ordering::Relaxed);
        }
    }
}

impl Db {
    /// Does a claimed job's work in a transaction that completes the job as well. It acts for whom the job is: the
    /// settings `jwt.claims.database_id`, `user_id`, `entity_id` and `organization_id` are those of the job, where it
    /// has them. It holds the job's row from the beginning.
    ///
    /// It waits for a connection as long as it takes: drop it to give up. Of a pool's connections it leaves two to
    /// everybody else, as far as there are more than two.
    ///
    /// # Errors
    /// What `work` returns, and everything is rolled back; [`CompleteError`] when the job could not be completed. When
    /// the connection is lost during the commit it is not known whether it was committed.
    pub async fn complete_with<T, E>(
        &self,
        job: &Job,
        options: TransactionOptions<'_>,
        work: impl AsyncFnOnce(&mut Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<CompleteError>,
    {
        // Dropped before its end, by a handler's timeout say, it cancels the statement under way, so that the pool does
        // not get back a connection that is busy.
        let mut long = self.long_operation().await.map_err(CompleteError::from)?;
        let operation = &mut long.operation;
        let result = self.complete_on(operation.object(), job, options, work).await;
        // A commit has waited for all before it. What fails may have left a statement behind, by a timeout within
        // `work` say; the rollback is sent already, and what is answered after it says that both have ended.
        if result.is_ok() || is_idle(operation).await {
            operation.ended();
        }
        result
    }

    async fn complete_on<T, E>(
        &self,
        client: &mut tokio_postgres::Client,
        job: &Job,
        options: TransactionOptions<'_>,
        work: impl AsyncFnOnce(&mut Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<CompleteError>,
    {
        // Not deadpool's transaction, whose statements are kept: behind a pooler the next one may have another session.
        let failed = |error: DbError| E::from(CompleteError::from(error));
        let mut transaction = client.build_transaction();
        if let Some(isolation) = options.isolation {
            transaction = transaction.isolation_level(isolation);
        }
        let mut transaction = transaction.start().await.map_err(DbError::query("begin")).map_err(failed)?;
        if !self.begin_work(&transaction, job, options.idle).await.map_err(failed)? {
            options.begin();
            return Err(CompleteError::Stale(job.id).into());
        }
        options.begin();
        let value = work(&mut transaction).await?;
        complete_in_transaction(&transaction, self.schema(), job).await?;
        transaction.commit().await.map_err(DbError::query("commit")).map_err(failed)?;
        Ok(value)
    }

    /// Locks the job's row and takes on whom it is for, for the rest of the transaction; false when the attempt is no
    /// longer live.
    async fn begin_work(
        &self,
        mut transaction: &Transaction<'_>,
        job: &Job,
        idle: Option<Duration>,
    ) -> Result<bool, DbError> {
        // Milliseconds, of which 0 would be none.
        let idle = idle.map(|idle| i32::try_from(idle.as_millis()).unwrap_or(i32::MAX).max(1));
        let parameters: Parameters<'_> = &[
            (&job.id, Type::INT8),
            (&job.epoch, Type::INT8),
            (&job.tenant, Type::UUID),
            (&job.actor, Type::UUID),
            (&idle, Type::INT4),
            (&job.entity, Type::UUID),
            (&job.organization, Type::UUID),
        ];
        Ok(!transaction.rows("begin", &self.sql(BEGIN), parameters).await?.is_empty())
    }
}

/// Whether a connection has done what it was asked for.
async fn is_idle(client: &tokio_postgres::Client) -> bool {
    matches!(tokio::time::timeout(ROLLBACK_TIMEOUT, client.simple_query("")).await, Ok(Ok(_)))
}
