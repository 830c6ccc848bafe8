//! Looks at the jobs table every few milliseconds and prints what changed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use job_pg::Db;
use tokio::time::{MissedTickBehavior, interval};

use super::database::Database;
use super::stack::{Stack, TASK};
use super::tracked_jobs::{Row, TrackedJobs};

/// Short beside a job that asks GraphQL twice over HTTP, so that its claim is seen.
const PERIOD: Duration = Duration::from_millis(2);

/// The clock once, and beside it every job of ours that is there. Jobs older than the demo are left out by their id.
const LOOK: &str = "
    SELECT c.now, j.id, j.payload ->> 'email_type',
           coalesce(j.payload ->> 'invite_token', j.payload ->> 'reset_token', j.payload ->> 'verification_token', ''),
           extract(epoch FROM j.created_at)::float8, j.locked_by, j.last_error, j.attempts, j.max_attempts
      FROM (SELECT extract(epoch FROM clock_timestamp())::float8 AS now) c
      LEFT JOIN app_jobs.jobs j ON j.id > $1 AND j.task_identifier = $2
     ORDER BY j.id";

/// Whether every schedule of the demo is past its end. A second more, for a job of the last instant to be inserted.
const SCHEDULES_OVER: &str = "
    SELECT coalesce(bool_and((s.schedule_info ->> 'end')::timestamptz + interval '1 second' < clock_timestamp()), false)
      FROM app_jobs.scheduled_jobs s WHERE s.task_identifier = $1 AND s.payload ->> 'reset_token' = 'scheduled-token-123'";

/// An observer of the queue.
pub(super) struct Watch {
    db: Db,
    after: i64,
    tracked_jobs: TrackedJobs,
}

impl Watch {
    pub(super) async fn start(database: &Database) -> Result<Self> {
        let db = database.connect()?;
        let client = db.connection().await?;
        let row =
            client.query_one("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM app_jobs.jobs_id_seq", &[]);
        let after = row.await?.get(0);
        drop(client);
        Ok(Self { db, after, tracked_jobs: TrackedJobs::default() })
    }

    pub(super) fn tracked_jobs(&self) -> &TrackedJobs {
        &self.tracked_jobs
    }

    /// Goes on looking while `work` is done, and after it until `over` says so. Returns what `work` returned.
    pub(super) async fn until<T>(
        &mut self,
        stack: &mut Stack,
        limit: Duration,
        work: impl Future<Output = Result<T>>,
        over: impl Fn(&TrackedJobs, &T) -> bool,
    ) -> Result<T> {
        let start = Instant::now();
        let mut work = std::pin::pin!(work);
        let mut worked = None;
        let mut looks = interval(PERIOD);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                result = &mut work, if worked.is_none() => worked = Some(result?),
                _ = looks.tick() => {}
            }
            self.look().await?;
            if let Some(worked) = worked.take_if(|worked| over(&self.tracked_jobs, worked)) {
                return Ok(worked);
            }
            stack.check()?;
            if start.elapsed() > limit {
                bail!("jobs are not done within {limit:?}\n{}", stack.logs());
            }
        }
    }

    /// Takes the schedule out of the database again.
    pub(super) async fn remove_schedule(&self, id: i64) -> Result<()> {
        let client = self.db.connection().await?;
        client.execute("DELETE FROM app_jobs.scheduled_jobs WHERE id = $1", &[&id]).await?;
        Ok(())
    }

    async fn look(&mut self) -> Result<()> {
        let client = self.db.connection().await?;
        let look = client.prepare_cached(LOOK).await?;
        let rows = client.query(&look, &[&self.after, &TASK]).await?;
        let now = rows.first().context("a look returned no row")?.get(0);
        let over = client.prepare_cached(SCHEDULES_OVER).await?;
        let schedule_over = client.query_one(&over, &[&TASK]).await?.get(0);
        for line in self.tracked_jobs.look(now, rows.iter().filter_map(job).collect(), schedule_over) {
            println!("{line}");
        }
        Ok(())
    }
}

fn job(row: &tokio_postgres::Row) -> Option<Row> {
    Some(Row {
        id: row.get::<_, Option<i64>>(1)?,
        email_type: row.get::<_, Option<String>>(2)?,
        token: row.get(3),
        created_at: row.get(4),
        locked_by: row.get(5),
        last_error: row.get(6),
        attempts: row.get(7),
        max_attempts: row.get(8),
    })
}
