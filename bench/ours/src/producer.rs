//! One connection that adds jobs.

use anyhow::Result;
use deadpool_postgres::Object;
use jiff::{SignedDuration, Timestamp};
use job_pg::config::SchemaName;
use job_pg::{Db, NewJob, enqueue, enqueue_many};
use job_worker::WorkerConfig;
use rivalkit::Spec;

use crate::Settings;

/// The newest row: it is the last to go, or nearly so, and is found at once behind all dead ones.
const NEWEST: &str = "SELECT id FROM app_jobs.jobs ORDER BY id DESC LIMIT 1";

/// A producer.
pub struct Producer {
    client: Object,
    schema: SchemaName,
}

impl Producer {
    /// Connects.
    pub async fn connect(url: &str) -> Result<Producer> {
        let config = WorkerConfig::from_env(&Settings::new(url, "worker-0", &[]))?;
        let db = Db::new(&config.postgres)?;
        Ok(Producer { client: db.connection().await?, schema: db.schema().clone() })
    }

    /// Removes the schema, jobs and all.
    pub async fn drop_schema(&self) -> Result<()> {
        Ok(self.client.batch_execute(&format!("DROP SCHEMA IF EXISTS {} CASCADE", self.schema)).await?)
    }

    /// Adds one job.
    pub async fn add_one(&self, job: u64, spec: &Spec) -> Result<()> {
        enqueue(&self.client, new_job(job, spec)).await?;
        Ok(())
    }

    /// Adds many jobs.
    pub async fn add_many(&self, first: u64, count: u64, spec: &Spec) -> Result<()> {
        enqueue_many(&self.client, (first..first + count).map(|job| new_job(job, spec))).await?;
        Ok(())
    }

    /// Adds the job that keeps a worker busy.
    pub async fn add_hold(&self) -> Result<()> {
        enqueue(&self.client, NewJob::raw("hold", "")).await?;
        Ok(())
    }

    /// Due jobs in the table.
    pub async fn left(&self) -> Result<i64> {
        Ok(self.client.query_one("SELECT count(*) FROM app_jobs.jobs WHERE run_at <= now()", &[]).await?.get(0))
    }

    /// Whether no job is in the table.
    pub async fn is_empty(&self) -> Result<bool> {
        let statement = self.client.prepare_cached(NEWEST).await?;
        Ok(self.client.query_opt(&statement, &[]).await?.is_none())
    }
}

fn new_job(job: u64, spec: &Spec) -> NewJob {
    let mut new = NewJob::raw("noop", format!(r#"{{"n":{job},"pad":"{}"}}"#, spec.pad()));
    if let Some(queue) = spec.queue(job) {
        new = new.queue(queue);
    }
    if let Some(priority) = spec.priority(job) {
        new = new.priority(priority);
    }
    if let Some(seconds) = spec.due_in(job) {
        new = new.run_at(Timestamp::now() + SignedDuration::from_secs(seconds as i64));
    }
    new
}
