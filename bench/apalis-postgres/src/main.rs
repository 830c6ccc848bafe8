//! apalis with its Postgres backend.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use apalis::prelude::*;
use apalis_postgres::{Config, PgPool, PgTask, PostgresStorage, queries};
use rivalkit::{Probe, Profile, Rival, Spec};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgPoolOptions;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const QUEUE: &str = "noop";

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Noop {
    n: u64,
    pad: String,
}

async fn noop(job: Noop, probe: Data<Arc<Probe>>) -> Result<(), BoxDynError> {
    probe.hit(job.n);
    Ok(())
}

async fn pool(url: &str, connections: u32) -> Result<PgPool> {
    // No ping before each use: sqlx's default would cost every call a round trip.
    Ok(PgPoolOptions::new().max_connections(connections).test_before_acquire(false).connect(url).await?)
}

fn task(n: u64, spec: &Spec) -> Result<PgTask> {
    let task = TaskBuilder::new(serde_json::to_vec(&Noop { n, pad: spec.pad() })?);
    Ok(match spec.due_in(n) {
        Some(seconds) => task.run_in_seconds(seconds),
        None => task,
    }
    .build())
}

struct Apalis {
    pool: PgPool,
}

impl Apalis {
    async fn push(&self, tasks: Vec<PgTask>) -> Result<()> {
        let mut connection = self.pool.acquire().await?;
        queries::push_tasks(&mut *connection, QUEUE, tasks).await.map_err(|error| anyhow!("{error}"))
    }
}

/// A connected worker and its profile.
struct Prepared {
    pool: PgPool,
    profile: Profile,
    index: u64,
    probe: Arc<Probe>,
}

impl Rival for Apalis {
    type Prepared = Prepared;
    type Running = (oneshot::Sender<()>, JoinHandle<Result<()>>);

    const BULK: u64 = 5_000;
    const QUEUES: bool = false;

    async fn connect(url: &str, clients: u32) -> Result<Apalis> {
        Ok(Apalis { pool: pool(url, clients).await? })
    }

    async fn setup(&self) -> Result<()> {
        sqlx::query("DROP SCHEMA IF EXISTS apalis CASCADE").execute(&self.pool).await?;
        PostgresStorage::setup(&self.pool).await.map_err(|error| anyhow!("{error}"))
    }

    async fn add_many(&self, first: u64, count: u64, spec: &Spec) -> Result<()> {
        self.push((first..first + count).map(|n| task(n, spec)).collect::<Result<_>>()?).await
    }

    async fn add_one(&self, job: u64, spec: &Spec) -> Result<()> {
        self.push(vec![task(job, spec)?]).await
    }

    async fn left(&self) -> Result<i64> {
        let left = "SELECT count(*) FROM apalis.jobs WHERE status <> 'Done'";
        Ok(sqlx::query_scalar(left).fetch_one(&self.pool).await?)
    }

    async fn prepare(url: &str, profile: Profile, index: u64, probe: Arc<Probe>) -> Result<Prepared> {
        Ok(Prepared { pool: pool(url, 10).await?, profile, index, probe })
    }

    async fn start(prepared: Prepared) -> Result<(oneshot::Sender<()>, JoinHandle<Result<()>>)> {
        let Prepared { pool, profile, index, probe } = prepared;
        let throughput = profile == Profile::Throughput;
        let config =
            Config::default().queue(QUEUE).batch_size(if throughput { 500 } else { 10 }).lock_tasks(!throughput);
        let poll = Duration::from_millis(if throughput { 50 } else { 1_000 });
        let backend = PostgresStorage::<Noop>::new(&pool).with_config(config).with_pubsub().poll_with_interval(poll);
        let (stop, stopped) = oneshot::channel();
        let handle = tokio::spawn(async move {
            let worker = WorkerBuilder::new(format!("bench-{}-{index}", std::process::id()))
                .backend(backend)
                .concurrency(if throughput { 1_000 } else { 24 })
                .data(probe)
                .build(noop);
            let signal = async move {
                let _ = stopped.await;
                Ok::<(), std::io::Error>(())
            };
            worker.run_until(signal).await.map_err(|error| anyhow!("{error}"))
        });
        Ok((stop, handle))
    }

    async fn stop((stop, handle): (oneshot::Sender<()>, JoinHandle<Result<()>>)) -> Result<()> {
        let _ = stop.send(());
        handle.await?
    }

    fn settings(profile: Profile) -> String {
        match profile {
            Profile::Throughput => {
                "batch 500, concurrency 1,000, no 'Running' mark (lock_tasks off), LISTEN and poll 50 ms; 5,000 a bulk push"
            }
            Profile::Latency | Profile::Idle => "batch 10 (default), concurrency 24, LISTEN and poll 1 s",
        }
        .to_owned()
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    rivalkit::main::<Apalis>().await
}
