//! River's Rust crate.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rivalkit::{Probe, Profile, Rival, Spec};
use riverqueue::database::{PostgresDatabase, SchemaName};
use riverqueue::jiff::{SignedDuration, Timestamp};
use riverqueue::migrate::PostgresMigrator;
use riverqueue::{
    Client, InsertOpts, Job, JobArgs, QUEUE_DEFAULT, QueueConfig, RunHandle, WorkContext, WorkOutcome, Worker, Workers,
};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

#[derive(Clone, Debug, Deserialize, JobArgs, Serialize)]
#[river(kind = "noop")]
struct Noop {
    n: u64,
    pad: String,
}

struct Counting(Arc<Probe>);

impl Worker<Noop> for Counting {
    type Error = Infallible;

    fn work(
        &self,
        _context: WorkContext,
        job: Job<Noop>,
    ) -> impl Future<Output = Result<WorkOutcome, Infallible>> + Send {
        self.0.hit(job.args.n);
        ready(Ok(WorkOutcome::Complete))
    }
}

async fn pool(url: &str, connections: u32) -> Result<PgPool> {
    // No ping before each use: sqlx's default would cost every call a round trip.
    Ok(PgPoolOptions::new().max_connections(connections).test_before_acquire(false).connect(url).await?)
}

fn options(job: u64, spec: &Spec) -> InsertOpts {
    match spec.due_in(job) {
        Some(seconds) => {
            InsertOpts::default().with_scheduled_at(Timestamp::now() + SignedDuration::from_secs(seconds as i64))
        }
        None => InsertOpts::default(),
    }
}

fn schema() -> Result<SchemaName> {
    Ok(SchemaName::new("river")?)
}

async fn database(url: &str, connections: u32) -> Result<PostgresDatabase> {
    Ok(PostgresDatabase::new(pool(url, connections).await?).with_schema(schema()?))
}

struct River {
    pool: PgPool,
    client: Client,
}

impl Rival for River {
    type Prepared = Client;
    type Running = RunHandle;

    const BULK: u64 = 5_000;
    // Its queues carry a concurrency of their own and must be configured one by one: another thing.
    const QUEUES: bool = false;

    async fn connect(url: &str, clients: u32) -> Result<River> {
        let pool = pool(url, clients).await?;
        let client = Client::builder(PostgresDatabase::new(pool.clone()).with_schema(schema()?)).build()?;
        Ok(River { pool, client })
    }

    async fn connect_for_latency(url: &str, clients: u32) -> Result<River> {
        let pool = pool(url, clients).await?;
        // Within its cooldown (default 100 ms) a client sends no second notification for a queue: good for the rate of
        // single inserts, but the job then waits for the worker's poll.
        let client = Client::builder(PostgresDatabase::new(pool.clone()).with_schema(schema()?))
            .fetch_cooldown(Duration::from_millis(1))
            .build()?;
        Ok(River { pool, client })
    }

    async fn setup(&self) -> Result<()> {
        for statement in ["DROP SCHEMA IF EXISTS river CASCADE", "CREATE SCHEMA river"] {
            sqlx::query(statement).execute(&self.pool).await?;
        }
        PostgresMigrator::new(self.pool.clone()).with_schema(schema()?).migrate_up().await?;
        Ok(())
    }

    async fn add_many(&self, first: u64, count: u64, spec: &Spec) -> Result<()> {
        let jobs: Vec<_> = (first..first + count).map(|n| (Noop { n, pad: spec.pad() }, options(n, spec))).collect();
        self.client.insert_many(jobs).await?;
        Ok(())
    }

    async fn add_one(&self, job: u64, spec: &Spec) -> Result<()> {
        self.client.insert(Noop { n: job, pad: spec.pad() }).opts(options(job, spec)).await?;
        Ok(())
    }

    async fn left(&self) -> Result<i64> {
        let left = "SELECT count(*) FROM river.river_job WHERE finalized_at IS NULL";
        Ok(sqlx::query_scalar(left).fetch_one(&self.pool).await?)
    }

    async fn prepare(url: &str, profile: Profile, index: u64, probe: Arc<Probe>) -> Result<Client> {
        let mut workers = Workers::new();
        workers.add::<Noop, _>(Counting(probe))?;
        let queue = match profile {
            Profile::Throughput => QueueConfig::new(2_000)
                .with_fetch_cooldown(Duration::from_millis(2))
                .with_fetch_poll_interval(Duration::from_millis(20)),
            Profile::Latency | Profile::Idle => QueueConfig::new(24).with_fetch_cooldown(Duration::from_millis(1)),
        };
        Ok(Client::builder(database(url, 50).await?)
            .id(format!("bench-{index}"))
            .workers(workers)
            .queue(QUEUE_DEFAULT, queue)
            .build()?)
    }

    async fn start(client: Client) -> Result<RunHandle> {
        Ok(client.start()?)
    }

    async fn stop(mut running: RunHandle) -> Result<()> {
        Ok(running.stop().await?)
    }

    fn settings(profile: Profile) -> String {
        match profile {
            Profile::Throughput => {
                "its benchmark's: 2,000 workers, fetch cooldown 2 ms, poll 20 ms, pool 50; 5,000 a bulk insert"
            }
            Profile::Latency | Profile::Idle => {
                "24 workers, fetch cooldown 1 ms on both sides (its least; default 100 ms), LISTEN, poll 1 s (default)"
            }
        }
        .to_owned()
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    rivalkit::main::<River>().await
}
