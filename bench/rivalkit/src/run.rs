//! The commands.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};

use crate::{Args, Probe, Profile, Rival, Span, Spec, percentile, rss_kb, unsupported};

/// Jobs in flight at the most while the latency is measured at a rate.
const OPEN_LOOP_CLIENTS: u32 = 16;

/// Runs the command of this process's command line and prints its result as one line of JSON.
///
/// # Errors
/// What the library or the database said.
pub async fn main<R: Rival>() -> Result<()> {
    let args = Args::read(&[])?;
    let result = match args.command.as_str() {
        "setup" => {
            R::connect(args.required("url")?, 1).await?.setup().await?;
            json!({})
        }
        "enqueue" => enqueue::<R>(&args).await?,
        "drain" => drain::<R>(&args).await?,
        "latency" => latency::<R>(&args).await?,
        "idle" => idle::<R>(&args).await?,
        other => unsupported(other),
    };
    println!("{result}");
    Ok(())
}

async fn enqueue<R: Rival>(args: &Args) -> Result<Value> {
    let jobs = args.number("jobs", None)?;
    let clients = args.number("clients", Some(1))?;
    let spec = Arc::new(Spec {
        payload_bytes: args.number("payload-bytes", Some(0))? as usize,
        queues: args.number("queues", Some(0))?,
        priorities: args.number("priorities", Some(0))?,
        future: args.has("future"),
    });
    if spec.queues > 0 && !R::QUEUES {
        unsupported("--queues");
    }
    if spec.priorities > 0 && !R::PRIORITIES {
        unsupported("--priorities");
    }
    if args.text("notify").is_some_and(|notify| notify != "always") {
        unsupported("--notify demand");
    }
    let bulk = match args.required("mode")? {
        "bulk" => true,
        "single" => false,
        other => bail!("--mode {other}"),
    };
    let step = if bulk { R::BULK } else { 1 };
    let rival = Arc::new(R::connect(args.required("url")?, clients as u32).await?);
    let next = Arc::new(AtomicU64::new(0));
    let span = Span::begin();
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let (rival, spec, next) = (rival.clone(), spec.clone(), next.clone());
        tasks.spawn(async move {
            loop {
                let first = next.fetch_add(step, Ordering::Relaxed);
                if first >= jobs {
                    return anyhow::Ok(());
                }
                if bulk {
                    rival.add_many(first, step.min(jobs - first), &spec).await?;
                } else {
                    rival.add_one(first, &spec).await?;
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let (seconds, cpu) = span.end();
    Ok(json!({ "jobs": jobs, "seconds": seconds, "client_cpu_seconds": cpu }))
}

async fn drain<R: Rival>(args: &Args) -> Result<Value> {
    let jobs = args.number("jobs", None)?;
    let url = args.required("url")?;
    let probe = Arc::new(Probe::counting(jobs));
    let mut prepared = Vec::new();
    for index in 0..args.number("workers", Some(1))? {
        prepared.push(R::prepare(url, Profile::Throughput, index, probe.clone()).await?);
    }
    let span = Span::begin();
    let mut running = Vec::new();
    for worker in prepared {
        running.push(R::start(worker).await?);
    }
    let reached = timeout(args.cap()?, probe.all()).await.is_ok();
    let (seconds, cpu) = span.end();
    let done = if reached { jobs } else { probe.calls() };
    stop::<R>(running).await?;
    let left = R::connect(url, 1).await?.left().await?;
    let settings = R::settings(Profile::Throughput);
    Ok(json!({ "jobs": done, "seconds": seconds, "client_cpu_seconds": cpu, "left": left, "settings": settings }))
}

async fn stop<R: Rival>(running: Vec<R::Running>) -> Result<()> {
    for worker in running {
        match timeout(Duration::from_secs(60), R::stop(worker)).await {
            Ok(stopped) => stopped?,
            Err(_) => eprintln!("a worker did not stop within a minute"),
        }
    }
    Ok(())
}

/// Milliseconds between two moments on the probe's clock; negative when `to` came first.
fn milliseconds(from: u64, to: u64) -> f64 {
    (to as f64 - from as f64) / 1e6
}

async fn latency<R: Rival>(args: &Args) -> Result<Value> {
    let jobs = args.number("jobs", None)?;
    let url = args.required("url")?;
    let probe = Arc::new(Probe::timing(jobs));
    let worker = R::start(R::prepare(url, Profile::Latency, 0, probe.clone()).await?).await?;
    let rival = Arc::new(R::connect_for_latency(url, OPEN_LOOP_CLIENTS).await?);
    let spec = Spec::default();
    // The worker's own start-up work must not count.
    sleep(Duration::from_secs(1)).await;
    let before = match args.number("rate", Some(0))? {
        0 => one_by_one(rival.as_ref(), jobs, &spec, &probe).await?,
        rate => at_rate(&rival, jobs, rate, &spec, &probe).await?,
    };
    let (mut total, mut after) = (Vec::new(), Vec::new());
    for (job, (called, returned)) in before.into_iter().enumerate() {
        if let Some(start) = probe.start(job as u64) {
            total.push(milliseconds(called, start));
            after.push(milliseconds(returned, start));
        }
    }
    stop::<R>(vec![worker]).await?;
    Ok(json!({
        "p50_ms": percentile(&total, 0.5),
        "p99_ms": percentile(&total, 0.99),
        "after_commit_p50_ms": percentile(&after, 0.5),
        "jobs": total.len(),
        "settings": R::settings(Profile::Latency),
    }))
}

/// When the enqueue of each job was called and when it returned.
type Calls = Vec<(u64, u64)>;

async fn one_by_one<R: Rival>(rival: &R, jobs: u64, spec: &Spec, probe: &Probe) -> Result<Calls> {
    let mut calls = Vec::new();
    for job in 0..jobs {
        let called = probe.now();
        rival.add_one(job, spec).await?;
        calls.push((called, probe.now()));
        if timeout(Duration::from_secs(60), probe.started(job)).await.is_err() {
            eprintln!("job {job} did not start within a minute");
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(calls)
}

async fn at_rate<R: Rival>(rival: &Arc<R>, jobs: u64, rate: u64, spec: &Spec, probe: &Arc<Probe>) -> Result<Calls> {
    let begin = Instant::now();
    let mut ticks = interval(Duration::from_millis(1));
    let mut tasks = JoinSet::new();
    let mut job = 0;
    while job < jobs {
        ticks.tick().await;
        // A tick may be late: all jobs whose moment has passed go now, so that the rate holds.
        let due = (begin.elapsed().as_secs_f64() * rate as f64) as u64;
        while job < jobs.min(due) {
            let (rival, spec, probe) = (rival.clone(), spec.clone(), probe.clone());
            tasks.spawn(async move {
                let called = probe.now();
                rival.add_one(job, &spec).await?;
                anyhow::Ok((job, (called, probe.now())))
            });
            job += 1;
        }
    }
    let mut calls = vec![(0, 0); jobs as usize];
    while let Some(done) = tasks.join_next().await {
        let (job, call) = done??;
        calls[job as usize] = call;
    }
    if timeout(Duration::from_secs(60), probe.all()).await.is_err() {
        eprintln!("{} of {jobs} jobs started within a minute of the last", probe.calls());
    }
    Ok(calls)
}

async fn idle<R: Rival>(args: &Args) -> Result<Value> {
    let seconds = args.number("seconds", None)?;
    let probe = Arc::new(Probe::counting(u64::MAX));
    let worker = R::start(R::prepare(args.required("url")?, Profile::Idle, 0, probe).await?).await?;
    sleep(Duration::from_secs(1)).await;
    let span = Span::begin();
    sleep(Duration::from_secs(seconds)).await;
    let (seconds, cpu) = span.end();
    let rss = rss_kb()?;
    stop::<R>(vec![worker]).await?;
    Ok(json!({ "client_cpu_seconds": cpu, "seconds": seconds, "rss_kb": rss, "settings": R::settings(Profile::Idle) }))
}
