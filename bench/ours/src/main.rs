//! This project: a `job_worker::Worker` with a typed handler that counts, and `enqueue` and `enqueue_many`.
//!
//! Beside the common commands (bench/README.md) there are
//! - `busy`: a worker whose only slot is held by a job for good; prints `busy` when it is. A producer's NOTIFY on
//!   demand then finds nobody waiting.
//! - `http-latency --jobs N`: enqueues one job after the other and times each until its row is gone. The worker is a
//!   job-service that somebody else started.
//! - `limit`, `rate`, `producers`, `claims`, `fair`, `bulk`: gates under load; each adds its jobs itself (src/gates/).
//!
//! Variables `JOBS_*` of the environment go before the settings written here, for trying others.

mod gates;
mod producer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use job_pg::Db;
use job_pg::migrate::migrate;
use job_utils::config::{Env, ProcessEnv};
use job_utils::shutdown::Shutdown;
use job_worker::WorkerConfig;
use job_worker::{Context, Stopped, Task, TaskOptions, Worker, WorkerError};
use producer::Producer;
use rivalkit::{Args, Probe, Profile, Rival, Spec, percentile};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// One for all measurements: a worker that holds jobs ahead needs no more.
const CONCURRENCY: &[(&str, &str)] = &[("JOBS_CONCURRENCY", "24")];

/// Settings for a worker; the process's own variables JOBS_* first.
struct Settings(BTreeMap<String, String>);

impl Settings {
    fn new(url: &str, worker: &str, values: &[(&str, &str)]) -> Settings {
        let given = [("DATABASE_URL", url), ("HOSTNAME", worker)];
        let all = values.iter().chain(&given).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Settings(all.collect())
    }
}

impl Env for Settings {
    fn get(&self, name: &str) -> Option<String> {
        let own = name.starts_with("JOBS_").then(|| ProcessEnv.get(name)).flatten();
        own.or_else(|| self.0.get(name).cloned())
    }
}

#[derive(Serialize, Deserialize)]
struct Noop {
    n: u64,
    pad: String,
}

impl Task for Noop {
    const IDENTIFIER: &'static str = "noop";
}

async fn noop(job: Noop, context: Context<Arc<Probe>>) {
    context.state().hit(job.n);
}

/// What a worker is made of.
fn parts(settings: &Settings) -> Result<(WorkerConfig, Db)> {
    let config = WorkerConfig::from_env(settings)?;
    let db = Db::new(&config.postgres)?;
    Ok((config, db))
}

fn start(worker: Worker) -> Running {
    let shutdown = Shutdown::new();
    Running { worker: tokio::spawn(worker.run(shutdown.clone())), shutdown }
}

struct Running {
    worker: JoinHandle<Result<Stopped, WorkerError>>,
    shutdown: Shutdown,
}

struct Ours {
    url: String,
    free: Mutex<Vec<Producer>>,
    /// Told whenever a connection is free again.
    freed: Notify,
}

impl Ours {
    async fn producer(&self) -> Producer {
        loop {
            if let Some(producer) = self.free.lock().await.pop() {
                return producer;
            }
            self.freed.notified().await;
        }
    }

    async fn give_back(&self, producer: Producer) {
        self.free.lock().await.push(producer);
        self.freed.notify_one();
    }
}

impl Rival for Ours {
    type Prepared = Worker;
    type Running = Running;

    const BULK: u64 = 10_000;
    const QUEUES: bool = true;
    const PRIORITIES: bool = true;

    async fn connect(url: &str, clients: u32) -> Result<Ours> {
        let mut free = Vec::new();
        for _ in 0..clients {
            free.push(Producer::connect(url).await?);
        }
        Ok(Ours { url: url.to_owned(), free: Mutex::new(free), freed: Notify::new() })
    }

    async fn setup(&self) -> Result<()> {
        let producer = self.producer().await;
        producer.drop_schema().await?;
        self.give_back(producer).await;
        let config = WorkerConfig::from_env(&Settings::new(&self.url, "worker-0", &[]))?;
        let _migrated = migrate(&Db::new(&config.postgres)?).await?;
        Ok(())
    }

    async fn add_many(&self, first: u64, count: u64, spec: &Spec) -> Result<()> {
        let producer = self.producer().await;
        let added = producer.add_many(first, count, spec).await;
        self.give_back(producer).await;
        added
    }

    async fn add_one(&self, job: u64, spec: &Spec) -> Result<()> {
        let producer = self.producer().await;
        let added = producer.add_one(job, spec).await;
        self.give_back(producer).await;
        added
    }

    async fn left(&self) -> Result<i64> {
        let producer = self.producer().await;
        let left = producer.left().await;
        self.give_back(producer).await;
        left
    }

    async fn prepare(url: &str, _profile: Profile, index: u64, probe: Arc<Probe>) -> Result<Worker> {
        let (config, db) = parts(&Settings::new(url, &format!("worker-{index}"), CONCURRENCY))?;
        Ok(Worker::builder(db).config(config).state(probe).task(noop).build()?)
    }

    async fn start(worker: Worker) -> Result<Running> {
        Ok(start(worker))
    }

    async fn stop(running: Running) -> Result<()> {
        running.shutdown.trigger();
        running.worker.await??;
        Ok(())
    }

    fn settings(_profile: Profile) -> String {
        let words: Vec<String> = CONCURRENCY.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("{}; enqueue_many with 10,000 jobs, which makes statements of 2,000", words.join(", "))
    }
}

/// A worker whose one slot is taken for good, until this process is ended.
async fn busy(url: &str) -> Result<()> {
    let settings = Settings::new(url, "worker-busy", &[("JOBS_CONCURRENCY", "1"), ("JOBS_PREFETCH", "0")]);
    let (config, db) = parts(&settings)?;
    let worker = Worker::builder(db).config(config).raw_task("hold", TaskOptions::new(), |_| async {
        println!("busy");
        std::future::pending::<()>().await
    });
    let running = start(worker.build()?);
    Producer::connect(url).await?.add_hold().await?;
    running.worker.await??;
    Ok(())
}

async fn http_latency(args: &Args) -> Result<Value> {
    let producer = Producer::connect(args.required("url")?).await?;
    let spec = Spec::default();
    let mut times = Vec::new();
    for job in 0..args.number("jobs", None)? {
        let called = Instant::now();
        producer.add_one(job, &spec).await?;
        while !producer.is_empty().await? {
            // Shorter than tokio's clock can: the time measured is around a millisecond.
            tokio::task::block_in_place(|| std::thread::sleep(Duration::from_micros(100)));
            (called.elapsed() < Duration::from_secs(60)).then_some(()).context("a job was not done within a minute")?;
        }
        times.push(called.elapsed().as_secs_f64() * 1000.0);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(json!({ "p50_ms": percentile(&times, 0.5), "p99_ms": percentile(&times, 0.99), "jobs": times.len() }))
}

#[tokio::main]
async fn main() -> Result<()> {
    let result = match std::env::args().nth(1).as_deref() {
        Some("busy") => return busy(Args::read(&[])?.required("url")?).await,
        Some("http-latency") => http_latency(&Args::read(&["jobs"])?).await?,
        Some("limit") => gates::limit::measure(&Args::read(gates::limit::FLAGS)?).await?,
        Some("rate") => gates::rate::measure(&Args::read(gates::rate::FLAGS)?).await?,
        Some("producers") => gates::producers::measure(&Args::read(gates::producers::FLAGS)?).await?,
        Some("claims") => gates::claims::measure(&Args::read(gates::claims::FLAGS)?).await?,
        Some("fair") => gates::fair::measure(&Args::read(gates::fair::FLAGS)?).await?,
        Some("bulk") => gates::bulk::measure(&Args::read(gates::bulk::FLAGS)?).await?,
        _ => return rivalkit::main::<Ours>().await,
    };
    println!("{result}");
    Ok(())
}
