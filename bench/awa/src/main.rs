//! awa.

mod http;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use awa::model::insert::params_with;
use awa::model::migrations;
use awa::worker::TransitionWorkerRole;
use awa::{
    Client, ClientBuilder, InsertOpts, InsertParams, QueueConfig, QueueStorage, QueueStorageConfig, insert_with,
};
use rivalkit::{Probe, Profile, Rival, Spec};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use worker::{Counting, Noop};

const QUEUE: &str = "noop";

async fn pool(url: &str, connections: u32) -> Result<PgPool> {
    // No ping before each use: sqlx's default would cost every call a round trip.
    Ok(PgPoolOptions::new().max_connections(connections).test_before_acquire(false).connect(url).await?)
}

/// A client with its default storage and one queue.
fn builder(pool: PgPool, profile: Profile) -> ClientBuilder {
    let queue = match profile {
        // A deadline of zero takes the short path of compact receipts, as in its own benchmark.
        Profile::Throughput => QueueConfig {
            max_workers: 1_024,
            poll_interval: Duration::from_millis(50),
            deadline_duration: Duration::ZERO,
            ..QueueConfig::default()
        },
        Profile::Latency | Profile::Idle => {
            QueueConfig { max_workers: 24, deadline_duration: Duration::ZERO, ..QueueConfig::default() }
        }
    };
    Client::builder(pool).queue(QUEUE, queue).transition_role(TransitionWorkerRole::QueueStorageTarget)
}

fn options(job: u64, spec: &Spec) -> InsertOpts {
    let run_at = spec.due_in(job).map(|seconds| chrono::Utc::now() + chrono::Duration::seconds(seconds as i64));
    InsertOpts { queue: QUEUE.to_owned(), run_at, ..InsertOpts::default() }
}

fn params(job: u64, spec: &Spec) -> Result<InsertParams> {
    Ok(params_with(&Noop { n: job, pad: spec.pad() }, options(job, spec))?)
}

struct Awa {
    pool: PgPool,
    store: QueueStorage,
}

impl Rival for Awa {
    type Prepared = Client;
    type Running = Client;

    const BULK: u64 = 5_000;
    // A queue of awa is what a worker subscribes to, not a name that jobs serialise on.
    const QUEUES: bool = false;

    async fn connect(url: &str, clients: u32) -> Result<Awa> {
        Ok(Awa { pool: pool(url, clients).await?, store: QueueStorage::new(QueueStorageConfig::default())? })
    }

    async fn setup(&self) -> Result<()> {
        sqlx::query("DROP SCHEMA IF EXISTS awa CASCADE").execute(&self.pool).await?;
        // Its migrations hold an advisory lock on one connection and work on another.
        let pool = PgPoolOptions::new().max_connections(4).connect_with((*self.pool.connect_options()).clone()).await?;
        // The future of its migrations is not Send in a way that the compiler can see here.
        let runtime = Handle::current();
        spawn_blocking(move || {
            runtime.block_on(async {
                migrations::run(&pool).await?;
                QueueStorage::new(QueueStorageConfig::default())?.install(&pool).await?;
                anyhow::Ok(())
            })
        })
        .await?
    }

    async fn add_many(&self, first: u64, count: u64, spec: &Spec) -> Result<()> {
        let jobs = (first..first + count).map(|n| params(n, spec)).collect::<Result<Vec<_>>>()?;
        self.store.enqueue_params_copy(&self.pool, &jobs).await?;
        Ok(())
    }

    async fn add_one(&self, job: u64, spec: &Spec) -> Result<()> {
        // Cheaper than the store's own batch of one.
        insert_with(&self.pool, &Noop { n: job, pad: spec.pad() }, options(job, spec)).await?;
        Ok(())
    }

    async fn left(&self) -> Result<i64> {
        let counts = self.store.queue_counts(&self.pool, QUEUE).await?;
        let future: i64 = sqlx::query_scalar("SELECT count(*) FROM awa.deferred_jobs").fetch_one(&self.pool).await?;
        Ok(counts.available + counts.running + future)
    }

    async fn prepare(url: &str, profile: Profile, _index: u64, probe: Arc<Probe>) -> Result<Client> {
        Ok(builder(pool(url, 20).await?, profile).register_worker(Counting(probe)).build()?)
    }

    async fn start(client: Client) -> Result<Client> {
        client.start().await?;
        Ok(client)
    }

    async fn stop(client: Client) -> Result<()> {
        client.shutdown(Duration::from_secs(30)).await;
        Ok(())
    }

    fn settings(profile: Profile) -> String {
        match profile {
            Profile::Throughput => {
                "1,024 workers, 1 claimer, claim batch 512 (default), poll 50 ms, no deadline (compact receipts); COPY of 5,000"
            }
            Profile::Latency | Profile::Idle => "24 workers, LISTEN, poll 200 ms (default), no deadline (compact receipts)",
        }
        .to_owned()
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("http-drain") => http::drain().await,
        Some("http-latency") => http::latency().await,
        Some("function") => http::function().await,
        _ => rivalkit::main::<Awa>().await,
    }
}
