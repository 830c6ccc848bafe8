//! Two tenants, one with very many long jobs and one with few short ones.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use deadpool_postgres::Object;
use job_pg::{NewJob, Uuid, enqueue, enqueue_many};
use job_worker::{Context, Task, Worker};
use rivalkit::{Args, percentile, unsupported};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::{add, connection, stop, tidy};
use crate::{Running, Settings, parts, start};

/// The command's flags.
pub const FLAGS: &[&str] = &["seconds", "slots", "long-ms", "short-ms", "waiting", "jobs"];

/// The tenant with the long jobs, and the one with the short ones.
const TENANTS: [Uuid; 2] = [Uuid::from_u128(1), Uuid::from_u128(2)];
/// The small tenant's jobs for one of the large one's.
const SMALL: u64 = 1_000;
/// Between two single jobs of the small tenant.
const BETWEEN: Duration = Duration::from_millis(50);

#[derive(Serialize, Deserialize)]
struct Shared {
    ms: u64,
    /// When it was added, in microseconds on this process's clock; only for those whose wait is measured.
    at: Option<u64>,
}

impl Task for Shared {
    const IDENTIFIER: &'static str = "shared";
}

/// What handlers report.
struct Tally {
    zero: Instant,
    done: [AtomicU64; 2],
    /// Microseconds of run time.
    took: [AtomicU64; 2],
    /// Milliseconds from the call that adds a job until its handler starts.
    waits: Mutex<Vec<f64>>,
}

impl Tally {
    fn new() -> Self {
        let (zero, none) = (Instant::now(), || [AtomicU64::new(0), AtomicU64::new(0)]);
        Self { zero, done: none(), took: none(), waits: Mutex::default() }
    }

    fn now(&self) -> u64 {
        self.zero.elapsed().as_micros() as u64
    }

    fn done(&self) -> u64 {
        self.done.iter().map(|done| done.load(Ordering::Acquire)).sum()
    }

    fn took(&self) -> [f64; 2] {
        [0, 1].map(|tenant: usize| self.took[tenant].load(Ordering::Acquire) as f64)
    }

    fn take_waits(&self) -> Vec<f64> {
        std::mem::take(&mut *self.waits.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn shared(job: Shared, context: Context<Arc<Tally>>) {
    let (tally, begun) = (context.state(), Instant::now());
    if let Some(at) = job.at {
        let wait = (tally.now() - at) as f64 / 1000.0;
        tally.waits.lock().unwrap_or_else(PoisonError::into_inner).push(wait);
    }
    if job.ms > 0 {
        sleep(Duration::from_millis(job.ms)).await;
    }
    let tenant = usize::from(context.job().tenant == Some(TENANTS[1]));
    tally.took[tenant].fetch_add(begun.elapsed().as_micros() as u64, Ordering::AcqRel);
    tally.done[tenant].fetch_add(1, Ordering::AcqRel);
}

fn job(tenant: usize, ms: u64, at: Option<u64>) -> NewJob {
    NewJob::of(&Shared { ms, at }).tenant(TENANTS[tenant])
}

fn worker(url: &str, slots: u64, tally: &Arc<Tally>) -> Result<Vec<Running>> {
    let slots = slots.to_string();
    let (config, db) = parts(&Settings::new(url, "worker-0", &[("JOBS_CONCURRENCY", &slots)]))?;
    Ok(vec![start(Worker::builder(db).config(config).state(tally.clone()).task(shared).build()?)])
}

async fn set_fair(client: &Object, on: bool) -> Result<()> {
    client.execute("SELECT app_jobs.set_fair('tenant', $1)", &[&on]).await?;
    Ok(())
}

/// One worker of `--slots`. The large tenant's jobs take `--long-ms`, and `--waiting` of them wait; the small one's
/// take `--short-ms`. In turn:
///
/// - how long the small tenant's jobs wait, one each 50 ms, alone and beside the other's;
/// - the run time of each while a thousandth as many of the small one's wait all the time, and what part of its slots
///   the worker uses so, with fairness and without it;
/// - the drain of `--jobs` of both that do nothing, without fairness and with it.
///
/// # Errors
/// What the database or a worker said.
pub async fn measure(args: &Args) -> Result<Value> {
    let (url, slots) = (args.required("url")?, args.number("slots", None)?);
    let (long, short) = (args.number("long-ms", None)?, args.number("short-ms", None)?);
    let (waiting, jobs) = (args.number("waiting", None)?, args.number("jobs", None)?);
    let time = Duration::from_secs(args.number("seconds", None)?);
    let client = connection(url).await?;
    let known = client.query_one("SELECT to_regproc('app_jobs.set_fair') IS NOT NULL", &[]).await?;
    if !known.get::<_, bool>(0) {
        unsupported("set_fair");
    }

    let off = drain(&client, url, jobs, false).await?;
    let on = drain(&client, url, jobs, true).await?;

    let tally = Arc::new(Tally::new());
    let running = worker(url, slots, &tally)?;
    one_by_one(&client, &tally, short, Duration::from_secs(1)).await?;
    tally.take_waits();
    one_by_one(&client, &tally, short, time).await?;
    let alone = tally.take_waits();
    add(&client, waiting, |_| job(0, long, None)).await?;
    tidy(&client).await?;
    one_by_one(&client, &tally, short, time).await?;
    let beside = tally.take_waits();

    // Both wait all the time: what a fair share is, is half.
    let backlog = (waiting / SMALL).max(1);
    keep_waiting(&client, &tally, short, backlog, Duration::from_secs(1)).await?;
    let before = tally.took();
    keep_waiting(&client, &tally, short, backlog, time).await?;
    let after = tally.took();
    let [large, small] = [0, 1].map(|tenant: usize| after[tenant] - before[tenant]);
    let share = small / (large + small);
    set_fair(&client, false).await?;
    keep_waiting(&client, &tally, short, backlog, Duration::from_secs(1)).await?;
    let before: f64 = tally.took().iter().sum();
    keep_waiting(&client, &tally, short, backlog, time).await?;
    let unfair = tally.took().iter().sum::<f64>() - before;
    stop(running).await?;
    let of_slots = |took: f64| 100.0 * took / (slots as f64 * time.as_micros() as f64);
    Ok(json!({
        "alone_p99_ms": percentile(&alone, 0.99),
        "beside_p50_ms": percentile(&beside, 0.5),
        "beside_p99_ms": percentile(&beside, 0.99),
        "share_percent": 100.0 * share,
        "error_percent": 100.0 * (share - 0.5).abs() / 0.5,
        "used_off_percent": of_slots(unfair),
        "used_on_percent": of_slots(large + small),
        "off_per_s": off,
        "on_per_s": on,
    }))
}

/// Jobs a second of both tenants that do nothing.
async fn drain(client: &Object, url: &str, jobs: u64, fair: bool) -> Result<f64> {
    set_fair(client, fair).await?;
    add(client, jobs, |n| job((n % 2) as usize, 0, None)).await?;
    tidy(client).await?;
    let tally = Arc::new(Tally::new());
    let running = worker(url, 24, &tally)?;
    let begun = Instant::now();
    super::within(|| tally.done() >= jobs).await.context("the drain")?;
    let seconds = begun.elapsed().as_secs_f64();
    stop(running).await?;
    Ok(jobs as f64 / seconds)
}

/// Adds single jobs of the small tenant, and waits until all have started.
async fn one_by_one(client: &Object, tally: &Arc<Tally>, ms: u64, time: Duration) -> Result<()> {
    let (before, end) = (tally.done[1].load(Ordering::Acquire), Instant::now() + time);
    let (mut added, mut ticks) = (0, interval(BETWEEN));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < end {
        ticks.tick().await;
        enqueue(client, job(1, ms, Some(tally.now()))).await?;
        added += 1;
    }
    super::within(|| tally.done[1].load(Ordering::Acquire) >= before + added).await.context("the small tenant's jobs")
}

/// Keeps so many of the small tenant's jobs waiting.
async fn keep_waiting(client: &Object, tally: &Arc<Tally>, ms: u64, backlog: u64, time: Duration) -> Result<()> {
    let (before, begun) = (tally.done[1].load(Ordering::Acquire), Instant::now());
    let (mut added, mut ticks) = (0, interval(Duration::from_millis(5)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while begun.elapsed() < time {
        ticks.tick().await;
        let wanted = backlog + tally.done[1].load(Ordering::Acquire) - before;
        enqueue_many(client, (added..wanted).map(|_| job(1, ms, None))).await?;
        added = added.max(wanted);
    }
    Ok(())
}
