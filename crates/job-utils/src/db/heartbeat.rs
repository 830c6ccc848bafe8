//! Heartbeat: show that a worker process lives, and look after the jobs of those that do not.
//!
//! ```text
//!   register ─▶ heartbeat … heartbeat ─▶ leave
//!                  │                └─▶ silence ─▶ rescued by another instance, after the lease
//!                  └─▶ its session ends ─▶ taken back by the next process with its id, at once
//! ```

use std::time::Duration;

use postgres_types::Type;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::db::statement::Parameters;
use crate::db::{Db, DbError};

const SQL: &str = "SELECT b.rescued, b.silent, b.overdue, b.expired FROM (SELECT set_config('synchronous_commit', 'off', true)) AS unsynced, \
                   @extschema@.heartbeat($1, $2, make_interval(secs => $3), $4, $5, make_interval(secs => $6)) b";

const ENDED: &str = "SELECT @extschema@.ended_instances($1, $2)";

const TAKE_BACK: &str = "SELECT @extschema@.take_back_jobs($1, $2, $3)";

const INTERRUPT: &str = "SELECT @extschema@.interrupt_jobs($1, $2, $3)";

/// A worker process, as its heartbeat tells it.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Unlike the worker's id, never that of another process.
    pub id: Uuid,
    /// Without a heartbeat for so long, others take over what it runs.
    pub lease: Duration,
    /// Whether a session of its holds the instance's lock, so that its end shows at once.
    pub listens: bool,
    /// What to store when a callback has not come in time.
    pub overdue_message: String,
    /// When a lock no longer counts, whoever holds it.
    pub job_expiry: Duration,
}

/// What a heartbeat has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// Jobs whose worker went silent: they start again.
    pub rescued: Vec<i64>,
    /// The ids of those workers.
    pub silent: Vec<String>,
    /// Accepted jobs whose callback did not come in time: they have failed.
    pub overdue: Vec<i64>,
    /// Locks have expired: a look from the beginning finds their jobs.
    pub expired: bool,
}

impl Heartbeat {
    /// From four columns, the first at `index`.
    pub(crate) fn from_row(row: &Row, index: usize) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            rescued: row.try_get(index)?,
            silent: row.try_get(index + 1)?,
            overdue: row.try_get(index + 2)?,
            expired: row.try_get(index + 3)?,
        })
    }
}

impl Db {
    /// A heartbeat; the first one registers the instance.
    pub(crate) async fn heartbeat(&self, worker_id: &str, instance: &Instance) -> Result<Heartbeat, DbError> {
        let client = self.abandonable().await?;
        let Instance { id, lease, listens, overdue_message, job_expiry } = instance;
        let result = async {
            let (lease, expiry) = (lease.as_secs_f64(), job_expiry.as_secs_f64());
            let parameters: Parameters<'_> = &[
                (&worker_id, Type::TEXT),
                (id, Type::UUID),
                (&lease, Type::FLOAT8),
                (listens, Type::BOOL),
                (overdue_message, Type::TEXT),
                (&expiry, Type::FLOAT8),
            ];
            Heartbeat::from_row(&self.row(&client, SQL, parameters).await?, 0)
        };
        let result = result.await;
        client.done();
        result.map_err(DbError::query("heartbeat"))
    }

    /// The other instances of this worker id whose session has ended, or is just connecting anew.
    pub(crate) async fn ended(&self, worker_id: &str, instance: Uuid) -> Result<Vec<Uuid>, DbError> {
        let client = self.connection().await?;
        let result =
            client.query_typed_one(&self.sql(ENDED), &[(&worker_id, Type::TEXT), (&instance, Type::UUID)]).await;
        result.and_then(|row| row.try_get(0)).map_err(DbError::query("look for ended instances"))
    }

    /// Interrupts the jobs of those of the `ended` instances whose session still has not come back; returns their ids.
    pub(crate) async fn take_back(&self, worker_id: &str, instance: Uuid, ended: &[Uuid]) -> Result<Vec<i64>, DbError> {
        let client = self.abandonable().await?;
        let result = client
            .query_typed_one(
                &self.sql(TAKE_BACK),
                &[(&worker_id, Type::TEXT), (&instance, Type::UUID), (&ended, Type::UUID_ARRAY)],
            )
            .await;
        client.done();
        result.and_then(|row| row.try_get(0)).map_err(DbError::query("take back"))
    }

    /// Interrupts what an instance holds in the database and, but for the claims with the epochs `kept`, does not know of.
    /// Returns the jobs' ids.
    pub(crate) async fn interrupt(&self, instance: Uuid, reason: &str, kept: &[i64]) -> Result<Vec<i64>, DbError> {
        let client = self.abandonable().await?;
        let result = client
            .query_typed_one(
                &self.sql(INTERRUPT),
                &[(&instance, Type::UUID), (&reason, Type::TEXT), (&kept, Type::INT8_ARRAY)],
            )
            .await;
        client.done();
        result.and_then(|row| row.try_get(0)).map_err(DbError::query("interrupt"))
    }
}
