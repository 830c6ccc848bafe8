//! The scheduler's handle: claim schedules, see what is held, release. Jobs are made by [`materialise`](super::materialise).

use jiff::Timestamp;
use tokio_postgres::Row;

use crate::db::{Db, DbError};

const CLAIM: &str = "SELECT id, task_identifier, schedule_info::text FROM @extschema@.claim_scheduled_jobs($1, $2, $3)";
const HELD: &str =
    "SELECT id, task_identifier, schedule_info::text FROM @extschema@.scheduled_jobs WHERE locked_by = $1";
const RELEASE: &str = "SELECT @extschema@.release_scheduled_jobs($1, $2)";
const NOW: &str = "SELECT clock_timestamp()";

/// A schedule that a scheduler watches.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ScheduledJob {
    /// The schedule's id.
    pub id: i64,
    /// Which function its jobs are for.
    pub task_identifier: String,
    /// When to fire, in any of the accepted forms: the JSON as it was written. Not parsed here, because Postgres takes
    /// JSON that a parser refuses (1e999, a lone surrogate), and one such row must not hide the others.
    pub schedule_info: String,
}

impl ScheduledJob {
    fn from_row(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self { id: row.try_get(0)?, task_identifier: row.try_get(1)?, schedule_info: row.try_get(2)? })
    }
}

/// What a scheduler may do in the database, under its id.
#[derive(Clone)]
pub struct SchedulerDb {
    pub(crate) db: Db,
    scheduler_id: String,
}

impl SchedulerDb {
    /// A handle for the scheduler `scheduler_id`.
    pub fn new(db: Db, scheduler_id: impl Into<String>) -> Self {
        Self { db, scheduler_id: scheduler_id.into() }
    }

    /// The scheduler's id.
    pub fn scheduler_id(&self) -> &str {
        &self.scheduler_id
    }

    /// Claims up to `limit` schedules of `tasks` (None: any) that nobody watches; empty when there are none.
    pub async fn claim_scheduled(&self, tasks: Option<&[String]>, limit: i32) -> Result<Vec<ScheduledJob>, DbError> {
        self.rows("claim schedules", CLAIM, &[&self.scheduler_id, &tasks, &limit]).await
    }

    /// Every schedule this scheduler holds now, as it stands in the table.
    pub async fn held(&self) -> Result<Vec<ScheduledJob>, DbError> {
        self.rows("look at held schedules", HELD, &[&self.scheduler_id]).await
    }

    async fn rows(
        &self,
        operation: &'static str,
        sql: &str,
        parameters: &[&(dyn postgres_types::ToSql + Sync)],
    ) -> Result<Vec<ScheduledJob>, DbError> {
        let client = self.db.connection().await?;
        let result = async {
            let statement = client.prepare_cached(&self.db.sql(sql)).await?;
            client
                .query(&statement, parameters)
                .await?
                .iter()
                .map(ScheduledJob::from_row)
                .collect::<Result<Vec<_>, _>>()
        };
        result.await.map_err(DbError::query(operation))
    }

    /// Gives up the listed schedules, or with None all this scheduler holds.
    pub async fn release_scheduled(&self, ids: Option<&[i64]>) -> Result<(), DbError> {
        let client = self.db.connection().await?;
        let sql = self.db.sql(RELEASE);
        client.query(&sql, &[&self.scheduler_id, &ids]).await.map_err(DbError::query("release schedules"))?;
        Ok(())
    }

    /// The database's clock, which decides when schedules fire: hosts may disagree.
    pub async fn now(&self) -> Result<Timestamp, DbError> {
        let client = self.db.connection().await?;
        let row = client.query_one(NOW, &[]).await.map_err(DbError::query("read the clock"))?;
        Ok(row.get(0))
    }
}
