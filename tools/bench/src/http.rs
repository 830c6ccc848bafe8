//! Measures over HTTP: our job-service as a process of its own, functions beside it, and rivals by their own programs.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use job_testkit::cluster::free_port;
use job_testkit::env;
use job_testkit::process::{Process, Program as Child};
use job_testkit::wait::try_poll;
use serde_json::json;
use tokio::net::TcpStream;

use super::meter::Meter;
use super::plan::{self, Scenario, Work};
use super::program::{self, Kind, ORIGINAL, Program, Programs};
use super::results::{Figures, Outcome};
use super::run::{Runner, copy, outcome, rate, spent};
use super::schedules;
use super::server::{process_cpu_seconds, process_rss_kb};

/// How long a process may take to start or to stop.
pub(super) const LIMIT: Duration = Duration::from_secs(30);
/// How long our own drain may take.
const CAP: Duration = Duration::from_secs(60);
/// How long a rival's drain may take; what it has done by then counts.
const RIVAL_CAP: u64 = 20;
/// Jobs of a rival that does hundreds a second.
const SLOW_JOBS: u64 = 3_000;

/// The newest row: it is the last to go, or nearly so, and is found at once behind all dead ones.
const NEWEST: &str = "SELECT id FROM app_jobs.jobs ORDER BY id DESC LIMIT 1";

/// Whether a program has this scenario at all; for other than HTTP its answer tells.
pub(super) fn takes_part(scenario: &Scenario, program: &Program) -> bool {
    let function = match scenario.work {
        Work::HttpDrain { function } | Work::HttpLatency { function } => function,
        Work::Schedules(wanted) => return schedules::takes_part(wanted, program),
        _ => return true,
    };
    match (function, program.name.as_str()) {
        // It does not read answers: with a function that does not call back, no job would ever end.
        (plan::Function::Answer, ORIGINAL) => false,
        (plan::Function::Node { .. }, name) => program.kind == Kind::Ours || name == ORIGINAL,
        _ => true,
    }
}

/// A running function.
pub(super) struct Function {
    pub(super) process: Process,
    pub(super) url: String,
}

impl Function {
    /// The fast one, in a mode.
    pub(super) async fn start_fast(programs: &Programs, mode: &str) -> Result<Self> {
        Self::start_with(programs, &[mode]).await
    }

    /// The fast one, with these arguments.
    pub(super) async fn start_with(programs: &Programs, arguments: &[&str]) -> Result<Self> {
        let child = arguments.iter().fold(Child::at(programs.function.path()?), |child, argument| child.arg(argument));
        let mut process = child.try_spawn()?;
        let url = process.wait_for_line("http://", LIMIT).await;
        Ok(Self { process, url })
    }

    /// The original's own; None when it is not there.
    async fn start_node(programs: &Programs) -> Result<Option<Self>> {
        let Some(directory) = programs.original() else { return Ok(None) };
        let port = free_port()?;
        let mut process = Child::at("node")
            .arg("--require")
            .arg(directory.join("shim.cjs"))
            .arg(directory.join("function.mjs"))
            .env("PORT", port.to_string())
            .env("LOG_LEVEL", "error")
            .env("NODE_ENV", "production")
            .try_spawn()?;
        let up = async || TcpStream::connect(("127.0.0.1", port)).await.ok();
        if try_poll(LIMIT, up).await.is_err() || !process.is_running() {
            bail!("the original's function did not start: {}", process.output());
        }
        Ok(Some(Self { process, url: format!("http://127.0.0.1:{port}") }))
    }

    async fn start(programs: &Programs, function: plan::Function) -> Result<Option<Self>> {
        match function {
            plan::Function::Answer => Self::start_fast(programs, "answer").await.map(Some),
            plan::Function::Callback => Self::start_fast(programs, "callback").await.map(Some),
            plan::Function::Node { .. } => Self::start_node(programs).await,
        }
    }
}

/// job-service as it is shipped, for a database and a function.
pub(super) fn service(runner: &Runner<'_>, database: &str, function: &str) -> Result<(Child, u16)> {
    let port = free_port()?;
    let service = Child::at(program::service("job-service"))
        .env("DATABASE_URL", runner.server.url(database))
        .env("HOSTNAME", "bench-worker")
        .env("RUST_LOG", "warn")
        .env("JOBS_CONCURRENCY", CONCURRENCY)
        .env("KNATIVE_SERVICE_URL", function)
        .env("INTERNAL_JOBS_CALLBACK_PORT", port.to_string())
        .env("INTERNAL_JOBS_CALLBACK_URL", format!("http://127.0.0.1:{port}/callback"));
    Ok((settings_of_ours(service), port))
}

/// Settings of our own go through, for trying others.
pub(super) fn settings_of_ours(service: Child) -> Child {
    let known = job_service::known();
    let names = known.read().iter().map(|var| var.name).filter(|name| name.starts_with("JOBS_"));
    service.envs(names.filter_map(|name| Some((name, env::var(name)?))))
}

/// Jobs in dispatch at once, for a function that answers in microseconds.
const CONCURRENCY: &str = "64";

pub(super) async fn drain(
    runner: &Runner<'_>,
    program: &Program,
    database: &str,
    function: plan::Function,
    jobs: u64,
) -> Result<Outcome> {
    if program.kind == Kind::Rival {
        return drain_rival(runner, program, database, function, jobs).await;
    }
    let Some(mut function) = Function::start(runner.programs, function).await? else {
        return Ok(Outcome::Unsupported);
    };
    runner.call(program, database, &["enqueue", "--mode", "bulk"], &[("--jobs", jobs.to_string())]).await?;
    let client = runner.server.connect(database).await?;
    let newest = client.prepare(NEWEST).await?;
    let (service, _) = service(runner, database, &function.url)?;
    let (server, start) = (runner.server.cpu_seconds(), Instant::now());
    let mut service = service.try_spawn()?;
    let mut failed = None;
    let drained = try_poll(CAP, async || match client.query_opt(&newest, &[]).await {
        Ok(None) => Some(()),
        Ok(Some(_)) => None,
        Err(error) => {
            failed = Some(error);
            Some(())
        }
    });
    let drained = drained.await;
    let seconds = start.elapsed().as_secs_f64();
    let server = spent(server, runner.server.cpu_seconds());
    let (cpu, function_cpu) = (process_cpu_seconds(service.pid()), process_cpu_seconds(function.process.pid()));
    service.stop(LIMIT).await;
    function.process.stop(LIMIT).await;
    if let Some(error) = failed {
        return Err(error.into());
    }
    let left: i64 = client.query_one("SELECT count(*) FROM app_jobs.jobs", &[]).await?.get(0);
    let done = jobs.saturating_sub(u64::try_from(left)?);
    if drained.is_err() && done == 0 {
        bail!("no job was done; job-service wrote: {}", last_lines(&service));
    }
    let answer = json!({ "jobs": done, "seconds": seconds, "client_cpu_seconds": cpu });
    let mut figures = rate(&answer, server);
    if let Some(cpu) = function_cpu {
        figures.insert("function_us", cpu * 1e6 / done as f64);
        figures.insert("function_share", cpu / seconds);
    }
    Ok(Outcome::Measured { figures, settings: Some(format!("JOBS_CONCURRENCY={CONCURRENCY}, RUST_LOG=warn")) })
}

pub(super) fn last_lines(process: &Process) -> String {
    let lines = process.lines();
    lines[lines.len().saturating_sub(3)..].join("; ")
}

async fn drain_rival(
    runner: &Runner<'_>,
    program: &Program,
    database: &str,
    function: plan::Function,
    jobs: u64,
) -> Result<Outcome> {
    let slow = program.name == ORIGINAL || function == plan::Function::Callback;
    let jobs = if slow { jobs.min(SLOW_JOBS) } else { jobs };
    let mut values = vec![("--jobs", jobs.to_string()), ("--cap-seconds", RIVAL_CAP.to_string())];
    let mode = if function == plan::Function::Answer { "answer" } else { "callback" };
    values.push(("--mode", mode.to_owned()));
    let fast = match function {
        plan::Function::Node { workers } => {
            // Its program starts that function itself.
            values.push(("--workers", workers.to_string()));
            None
        }
        _ => Some(Function::start_fast(runner.programs, mode).await?),
    };
    values.extend(fast.as_ref().map(|function| ("--function-url", function.url.clone())));
    let before = runner.server.cpu_seconds();
    let reply = runner.call(program, database, &["http-drain"], &values).await?;
    let server = spent(before, runner.server.cpu_seconds());
    Ok(outcome(reply, |answer| rate(answer, server)))
}

pub(super) async fn latency(
    runner: &Runner<'_>,
    program: &Program,
    database: &str,
    function: plan::Function,
    jobs: u64,
) -> Result<Outcome> {
    let mode = if function == plan::Function::Answer { "answer" } else { "callback" };
    let function = Function::start_fast(runner.programs, mode).await?;
    let mut values = vec![("--jobs", jobs.to_string())];
    let mut running = None;
    if program.kind == Kind::Ours {
        let (service, port) = service(runner, database, &function.url)?;
        running = Some(ready(service.try_spawn()?, port).await?);
    } else {
        values.extend([("--mode", mode.to_owned()), ("--function-url", function.url.clone())]);
    }
    let reply = runner.call(program, database, &["http-latency"], &values).await?;
    if let Some(service) = &mut running {
        service.stop(LIMIT).await;
    }
    Ok(outcome(reply, |answer| {
        let mut figures = Figures::new();
        copy(answer, &[("p50_ms", "p50_ms"), ("p99_ms", "p99_ms")], &mut figures);
        figures
    }))
}

/// Waits until the service is ready.
async fn ready(mut service: Process, port: u16) -> Result<Process> {
    let client = reqwest::Client::new();
    let url = format!("http://127.0.0.1:{port}/readyz");
    let up = async || client.get(&url).send().await.ok().filter(|answer| answer.status().is_success());
    if try_poll(LIMIT, up).await.is_err() || !service.is_running() {
        bail!("job-service was not ready: {}", last_lines(&service));
    }
    Ok(service)
}

/// What job-service costs when it has nothing to do.
pub(super) async fn idle(runner: &Runner<'_>, database: &str, seconds: u64) -> Result<Outcome> {
    runner.server.log_statements(database).await?;
    let (service, port) = service(runner, database, "http://127.0.0.1:9")?;
    let mut service = ready(service.try_spawn()?, port).await?;
    // The beginning is not idleness.
    pause(Duration::from_secs(5)).await;
    let meter = Meter::start(runner.server, service.pid())?;
    pause(Duration::from_secs(seconds)).await;
    let mut figures = meter.read(runner.server, service.pid())?.idle();
    figures.extend(process_rss_kb(service.pid()).map(|kilobytes| ("rss_mb", kilobytes / 1024.0)));
    service.stop(LIMIT).await;
    Ok(Outcome::Measured { figures, settings: None })
}

/// Lets time pass, which is what is measured.
pub(super) async fn pause(time: Duration) {
    job_testkit::wait::work_for(time).await;
}
