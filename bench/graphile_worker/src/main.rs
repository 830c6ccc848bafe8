//! graphile_worker, the Rust crate.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use graphile_worker::{
    Database, IntoTaskHandlerResult, JobSpec, LocalQueueConfig, RawJobSpec, TaskHandler, Worker, WorkerContext,
    WorkerOptions, WorkerUtils,
};
use rivalkit::{Probe, Profile, Rival, Spec};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::task::JoinHandle;

const SCHEMA: &str = "graphile_worker";

#[derive(Serialize, Deserialize)]
struct Noop {
    n: u64,
    pad: String,
}

struct Hits(Arc<Probe>);

impl Clone for Hits {
    fn clone(&self) -> Hits {
        Hits(self.0.clone())
    }
}

impl std::fmt::Debug for Hits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hits")
    }
}

impl TaskHandler for Noop {
    const IDENTIFIER: &'static str = "noop";

    async fn run(self, ctx: WorkerContext) -> impl IntoTaskHandlerResult {
        if let Some(hits) = ctx.get_ext::<Hits>() {
            hits.0.hit(self.n);
        }
        Ok::<(), String>(())
    }
}

async fn pool(url: &str, connections: u32) -> Result<PgPool> {
    // No ping before each use: sqlx's default would cost every call a round trip.
    Ok(PgPoolOptions::new().max_connections(connections).test_before_acquire(false).connect(url).await?)
}

struct GraphileWorker {
    pool: PgPool,
    utils: WorkerUtils,
}

fn job_spec(job: u64, spec: &Spec) -> JobSpec {
    let due = spec.due_in(job).map(|seconds| chrono::Utc::now() + chrono::Duration::seconds(seconds as i64));
    JobSpec { queue_name: spec.queue(job), run_at: due, ..JobSpec::default() }
}

impl Rival for GraphileWorker {
    type Prepared = Arc<Worker>;
    type Running = (Arc<Worker>, JoinHandle<Result<()>>);

    const BULK: u64 = 5_000;
    const QUEUES: bool = true;

    async fn connect(url: &str, clients: u32) -> Result<GraphileWorker> {
        let pool = pool(url, clients).await?;
        let utils = WorkerUtils::new(Database::from(pool.clone()), SCHEMA);
        Ok(GraphileWorker { pool, utils })
    }

    async fn setup(&self) -> Result<()> {
        sqlx::query("DROP SCHEMA IF EXISTS graphile_worker CASCADE").execute(&self.pool).await?;
        Ok(self.utils.migrate().await?)
    }

    async fn add_many(&self, first: u64, count: u64, spec: &Spec) -> Result<()> {
        let jobs: Vec<RawJobSpec> = (first..first + count)
            .map(|n| RawJobSpec {
                identifier: "noop".to_owned(),
                payload: serde_json::json!({ "n": n, "pad": spec.pad() }),
                spec: job_spec(n, spec),
            })
            .collect();
        self.utils.add_raw_jobs(&jobs).await?;
        Ok(())
    }

    async fn add_one(&self, job: u64, spec: &Spec) -> Result<()> {
        self.utils.add_job(Noop { n: job, pad: spec.pad() }, job_spec(job, spec)).await?;
        Ok(())
    }

    async fn left(&self) -> Result<i64> {
        Ok(sqlx::query_scalar("SELECT count(*) FROM graphile_worker._private_jobs").fetch_one(&self.pool).await?)
    }

    async fn prepare(url: &str, profile: Profile, _index: u64, probe: Arc<Probe>) -> Result<Arc<Worker>> {
        let options = WorkerOptions::default()
            .database(Database::from(pool(url, 20).await?))
            .schema(SCHEMA)
            .add_extension(Hits(probe))
            .define_job::<Noop>();
        let options = match profile {
            Profile::Throughput => options
                .concurrency(500)
                .poll_interval(Duration::from_millis(5))
                .complete_job_batch_delay(Duration::from_millis(5))
                .local_queue(LocalQueueConfig::default().with_size(5_000)),
            Profile::Latency => options.concurrency(24).local_queue(LocalQueueConfig::default().with_size(500)),
            // No local queue here: without a refetch delay an idle one asks the database without a pause, which is
            // good for the latency but not for this measure.
            Profile::Idle => options.concurrency(24),
        };
        Ok(Arc::new(options.init().await?))
    }

    async fn start(worker: Arc<Worker>) -> Result<(Arc<Worker>, JoinHandle<Result<()>>)> {
        let handle = tokio::spawn({
            let worker = worker.clone();
            async move { Ok(worker.run().await?) }
        });
        Ok((worker, handle))
    }

    async fn stop((worker, handle): (Arc<Worker>, JoinHandle<Result<()>>)) -> Result<()> {
        worker.request_shutdown();
        handle.await?
    }

    fn settings(profile: Profile) -> String {
        match profile {
            Profile::Throughput => {
                "its benchmark's: concurrency 500, local queue 5,000, poll 5 ms, completions batched for 5 ms; 5,000 a bulk add"
            }
            Profile::Latency => "concurrency 24, local queue 500, poll 1 s (default), completions not batched",
            Profile::Idle => "concurrency 24, no local queue, LISTEN, poll 1 s (default)",
        }
        .to_owned()
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    rivalkit::main::<GraphileWorker>().await
}
