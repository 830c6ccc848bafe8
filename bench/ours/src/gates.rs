//! Gates under load: jobs that take their time, and what is counted of them.

pub mod bulk;
pub mod claims;
pub mod fair;
pub mod limit;
pub mod producers;
pub mod rate;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use deadpool_postgres::Object;
use job_pg::{Db, NewJob, enqueue_many};
use job_worker::{Context, Task, Worker, WorkerConfig};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::{CONCURRENCY, Running, Settings, parts, start};

/// Jobs of one `enqueue_many`.
const BULK: u64 = 10_000;
/// Between two looks at what goes on.
const LOOK: Duration = Duration::from_millis(10);
/// How long anything may take to begin.
const PATIENCE: Duration = Duration::from_secs(60);

/// A job that takes so many milliseconds.
#[derive(Serialize, Deserialize)]
struct Timed {
    ms: u64,
}

impl Task for Timed {
    const IDENTIFIER: &'static str = "timed";
}

/// What handlers report.
#[derive(Default)]
struct Tally {
    started: AtomicU64,
    finished: AtomicU64,
    running: AtomicU64,
    /// The most that ran at once.
    most: AtomicU64,
    /// What the finished ones took, in microseconds.
    took: AtomicU64,
}

impl Tally {
    fn started(&self) -> u64 {
        self.started.load(Ordering::Acquire)
    }

    fn finished(&self) -> u64 {
        self.finished.load(Ordering::Acquire)
    }

    fn most(&self) -> u64 {
        self.most.load(Ordering::Acquire)
    }

    /// What a finished job took, in seconds.
    fn mean(&self) -> f64 {
        self.took.load(Ordering::Acquire) as f64 / 1e6 / self.finished() as f64
    }

    /// Waits until so many have started.
    async fn begun(&self, jobs: u64) -> Result<()> {
        within(|| self.started() >= jobs).await.with_context(|| format!("{} of {jobs} jobs started", self.started()))
    }
}

async fn timed(job: Timed, context: Context<Arc<Tally>>) {
    let (tally, begun) = (context.state(), Instant::now());
    tally.most.fetch_max(tally.running.fetch_add(1, Ordering::AcqRel) + 1, Ordering::AcqRel);
    tally.started.fetch_add(1, Ordering::AcqRel);
    if job.ms > 0 {
        sleep(Duration::from_millis(job.ms)).await;
    }
    tally.running.fetch_sub(1, Ordering::AcqRel);
    tally.took.fetch_add(begun.elapsed().as_micros() as u64, Ordering::AcqRel);
    tally.finished.fetch_add(1, Ordering::AcqRel);
}

/// Looks until it holds.
async fn within(mut holds: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > PATIENCE {
            bail!("not within {PATIENCE:?}");
        }
        sleep(LOOK).await;
    }
    Ok(())
}

fn db(url: &str) -> Result<Db> {
    Ok(Db::new(&WorkerConfig::from_env(&Settings::new(url, "worker-0", &[]))?.postgres)?)
}

/// A connection with a pool of its own.
async fn connection(url: &str) -> Result<Object> {
    Ok(db(url)?.connection().await?)
}

/// Adds many jobs: the one of each number.
async fn add(client: &Object, jobs: u64, job: impl Fn(u64) -> NewJob) -> Result<()> {
    for first in (0..jobs).step_by(BULK as usize) {
        enqueue_many(client, (first..jobs.min(first + BULK)).map(&job)).await?;
    }
    Ok(())
}

/// What autovacuum and the checkpointer would do in time.
async fn tidy(client: &Object) -> Result<()> {
    client.batch_execute("VACUUM (ANALYZE) app_jobs.jobs").await?;
    Ok(client.batch_execute("CHECKPOINT").await?)
}

/// Workers that run timed jobs, each with a pool of its own.
fn workers(url: &str, count: u64, tally: &Arc<Tally>) -> Result<Vec<Running>> {
    let one = |index| {
        let (config, db) = parts(&Settings::new(url, &format!("worker-{index}"), CONCURRENCY))?;
        anyhow::Ok(start(Worker::builder(db).config(config).state(tally.clone()).task(timed).build()?))
    };
    (0..count).map(one).collect()
}

/// Stops workers. What they hold goes back.
async fn stop(workers: Vec<Running>) -> Result<()> {
    for worker in &workers {
        worker.shutdown.trigger();
    }
    for worker in workers {
        worker.worker.await??;
    }
    Ok(())
}
