//! Claim: take due jobs for a worker.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::db::columns::{Instant, RawJson};
use crate::db::{Db, DbError};

/// One statement for the look and, when it finds nothing, the question when to look next: both by one now(), so that a
/// job that comes due in between is in one of the two.
const SQL: &str = "WITH claimed AS MATERIALIZED (\
                   SELECT id, database_id, actor_id, queue_name, task_identifier, payload, priority, run_at, attempts, \
                   max_attempts FROM @extschema@.claim_jobs($1, $2, $3, make_interval(secs => $4))) \
                   SELECT *, NULL::float8 FROM claimed UNION ALL \
                   SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
                   extract(epoch FROM @extschema@.next_run_at($2) - now())::float8 \
                   WHERE NOT EXISTS (SELECT FROM claimed)";

/// What a look found.
#[derive(Debug, Clone)]
pub enum Claimed {
    /// Jobs, in order.
    Jobs(Vec<Job>),
    /// Nothing is due. The next waiting job is due in this time; None when none waits.
    Nothing(Option<Duration>),
}

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
            run_at: row.try_get::<_, Instant>(7)?.0,
            attempts: row.try_get(8)?,
            max_attempts: row.try_get(9)?,
        })
    }
}

impl Db {
    /// Claims up to `limit` due jobs. Dropped, it cancels the claim.
    pub(crate) async fn claim(
        &self,
        worker_id: &str,
        tasks: Option<&[String]>,
        limit: usize,
        job_expiry: Duration,
    ) -> Result<Claimed, DbError> {
        let client = self.abandonable().await?;
        let limit = i32::try_from(limit).unwrap_or(i32::MAX);
        let result = async {
            let statement = client.prepare_cached(&self.sql(SQL)).await?;
            let rows = client.query(&statement, &[&worker_id, &tasks, &limit, &job_expiry.as_secs_f64()]).await?;
            if let [row] = rows.as_slice()
                && row.try_get::<_, Option<i64>>(0)?.is_none()
            {
                let seconds: Option<f64> = row.try_get(10)?;
                // A run_at far away, or infinity, is no duration: a later look will find it.
                let due = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok());
                return Ok(Claimed::Nothing(due));
            }
            let mut jobs = rows.iter().map(Job::from_row).collect::<Result<Vec<_>, _>>()?;
            // UPDATE … RETURNING promises no order.
            jobs.sort_unstable_by_key(|job| (job.priority, job.run_at, job.id));
            Ok(Claimed::Jobs(jobs))
        };
        let result = result.await;
        client.done();
        result.map_err(DbError::query("claim"))
    }
}
