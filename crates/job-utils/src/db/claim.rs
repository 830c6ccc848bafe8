//! Claim: take due jobs for a worker.

use std::time::Duration;

use jiff::Timestamp;
use postgres_types::{FromSql, Type};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::db::{Db, DbError};

const SQL: &str = "SELECT id, database_id, actor_id, queue_name, task_identifier, payload, priority, run_at, attempts, \
                   max_attempts FROM @extschema@.claim_jobs($1, $2, $3, make_interval(secs => $4))";

const NEXT_RUN_AT: &str = "SELECT extract(epoch FROM @extschema@.next_run_at($1) - now())::float8";

/// A claimed job.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Job {
    /// The job's id.
    pub id: i64,
    /// The tenant's database.
    pub database_id: Option<Uuid>,
    /// Who caused the job.
    pub actor_id: Option<Uuid>,
    /// The named queue, whose jobs run one at a time.
    pub queue_name: Option<String>,
    /// Which function does it.
    pub task_identifier: String,
    /// The payload, JSON exactly as it was written.
    pub payload: String,
    /// Smaller runs earlier.
    pub priority: i32,
    /// Since when it has been due.
    pub run_at: Timestamp,
    /// Which attempt this is, from 1.
    pub attempts: i32,
    /// How many attempts there are.
    pub max_attempts: i32,
}

/// A json value as text, neither parsed nor written anew: numbers keep every digit.
struct RawJson(String);

impl<'a> FromSql<'a> for RawJson {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(std::str::from_utf8(raw)?.to_owned()))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSON
    }
}

impl Job {
    fn from_row(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            id: row.try_get(0)?,
            database_id: row.try_get(1)?,
            actor_id: row.try_get(2)?,
            queue_name: row.try_get(3)?,
            task_identifier: row.try_get(4)?,
            payload: row.try_get::<_, RawJson>(5)?.0,
            priority: row.try_get(6)?,
            run_at: timestamp(row, 7)?,
            attempts: row.try_get(8)?,
            max_attempts: row.try_get(9)?,
        })
    }
}

/// A timestamptz; `infinity` and `-infinity`, which Postgres allows and an instant cannot be, are the far ends of time.
fn timestamp(row: &Row, column: usize) -> Result<Timestamp, tokio_postgres::Error> {
    Ok(match row.try_get::<_, postgres_types::Timestamp<Timestamp>>(column)? {
        postgres_types::Timestamp::Value(value) => value,
        postgres_types::Timestamp::PosInfinity => Timestamp::MAX,
        postgres_types::Timestamp::NegInfinity => Timestamp::MIN,
    })
}

impl Db {
    /// Claims up to `limit` due jobs, in order. None when nothing is due.
    pub(crate) async fn claim(
        &self,
        worker_id: &str,
        tasks: Option<&[String]>,
        limit: usize,
        job_expiry: Duration,
    ) -> Result<Vec<Job>, DbError> {
        let client = self.connection().await?;
        let failed = DbError::query("claim");
        let limit = i32::try_from(limit).unwrap_or(i32::MAX);
        let result = async {
            let statement = client.prepare_cached(&self.sql(SQL)).await?;
            let rows = client.query(&statement, &[&worker_id, &tasks, &limit, &job_expiry.as_secs_f64()]).await?;
            rows.iter().map(Job::from_row).collect::<Result<Vec<_>, _>>()
        };
        let mut jobs = result.await.map_err(failed)?;
        // UPDATE … RETURNING promises no order.
        jobs.sort_unstable_by_key(|job| (job.priority, job.run_at, job.id));
        Ok(jobs)
    }

    /// How long until the next waiting job is due. None when none waits.
    pub(crate) async fn next_due_in(&self, tasks: Option<&[String]>) -> Result<Option<Duration>, DbError> {
        let client = self.connection().await?;
        let result = async {
            let statement = client.prepare_cached(&self.sql(NEXT_RUN_AT)).await?;
            client.query_one(&statement, &[&tasks]).await?.try_get::<_, Option<f64>>(0)
        };
        let seconds = result.await.map_err(DbError::query("look for the next due job"))?;
        // A run_at far away, or infinity, is no duration: it will be found by a later look.
        Ok(seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok()))
    }
}
