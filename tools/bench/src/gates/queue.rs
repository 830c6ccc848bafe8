//! One named queue, whose jobs job-service sends to a function.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use job_testkit::process::Process;
use job_testkit::wait::try_poll;
use serde_json::json;
use tokio_postgres::{Client, Statement};

use super::super::http::{Function, LIMIT, last_lines, service};
use super::super::program::Program;
use super::super::results::Outcome;
use super::super::run::{Runner, rate, spent};
use super::super::server::process_cpu_seconds;

/// What is timed.
#[derive(Clone, Copy)]
pub(crate) struct OneQueue {
    /// Jobs that are timed.
    pub(crate) timed: u64,
    /// Jobs that are done before, so that their dead rows are there.
    pub(crate) done: u64,
    /// A transaction holds its snapshot all the while.
    pub(crate) held: bool,
}

/// Jobs that the start of the service takes.
const FIRST: u64 = 300;
/// How long those before may take, and how long jobs are timed.
const BEFORE: Duration = Duration::from_secs(90);
const TIME: Duration = Duration::from_secs(10);

/// The job with this many before it. The queue is in order: when its row has gone, those before it have.
const NTH: &str = "SELECT id FROM app_jobs.jobs ORDER BY id OFFSET $1 LIMIT 1";
const GONE: &str = "SELECT NOT EXISTS (SELECT FROM app_jobs.jobs WHERE id = $1)";

/// With so many jobs waiting when the clock starts.
pub(super) async fn measure(
    runner: &Runner<'_>,
    program: &Program,
    database: &str,
    OneQueue { timed, done, held }: OneQueue,
    waiting: u64,
) -> Result<Outcome> {
    let mut function = Function::start_fast(runner.programs, "answer").await?;
    let client = runner.server.connect(database).await?;
    let holder = runner.server.connect(database).await?;
    if held {
        holder.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class").await?;
    }
    let before = FIRST + done;
    let values = [("--jobs", (before + waiting).to_string()), ("--queues", "1".to_owned())];
    runner.call(program, database, &["enqueue", "--mode", "bulk"], &values).await?;
    client.batch_execute("VACUUM (ANALYZE) app_jobs.jobs").await?;
    client.batch_execute("CHECKPOINT").await?;
    let ids = [before - 1, before + timed.min(waiting) - 1];
    let [start, end] = [nth(&client, ids[0]).await?, nth(&client, ids[1]).await?];
    let gone = client.prepare(GONE).await?;

    let (child, _) = service(runner, database, &function.url)?;
    let mut child = child.try_spawn()?;
    if !wait_until_gone(&client, &gone, start, BEFORE).await? {
        bail!("{before} jobs were not done within {BEFORE:?}: {}", last_lines(&child));
    }
    let began = Instant::now();
    let readings = Readings::of(runner, &child, &function);
    let whole = wait_until_gone(&client, &gone, end, TIME).await?;
    let seconds = began.elapsed().as_secs_f64();
    let spent = Readings::of(runner, &child, &function).since(&readings);
    let jobs = if whole {
        timed.min(waiting)
    } else {
        let first: i64 = client.query_one("SELECT min(id) FROM app_jobs.jobs", &[]).await?.get(0);
        u64::try_from(first - start - 1)?
    };
    child.stop(LIMIT).await;
    function.process.stop(LIMIT).await;
    drop(holder);
    let mut figures =
        rate(&json!({ "jobs": jobs, "seconds": seconds, "client_cpu_seconds": spent.service }), spent.server);
    figures.extend(spent.function.map(|cpu| ("function_us", cpu * 1e6 / jobs as f64)));
    Ok(Outcome::Measured { figures, settings: None })
}

async fn nth(client: &Client, before: u64) -> Result<i64> {
    let row = client.query_opt(NTH, &[&i64::try_from(before)?]).await?;
    Ok(row.context("too few jobs were added")?.get(0))
}

/// Whether the job has gone within the time.
async fn wait_until_gone(client: &Client, gone: &Statement, id: i64, limit: Duration) -> Result<bool> {
    let look = async || match client.query_one(gone, &[&id]).await {
        Ok(row) => row.get::<_, bool>(0).then_some(Ok(())),
        Err(error) => Some(Err(error)),
    };
    match try_poll(limit, look).await {
        Ok(Ok(())) => Ok(true),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Ok(false),
    }
}

/// CPU seconds of server, service and function.
struct Readings {
    server: Option<f64>,
    service: Option<f64>,
    function: Option<f64>,
}

impl Readings {
    fn of(runner: &Runner<'_>, service: &Process, function: &Function) -> Self {
        Self {
            server: runner.server.cpu_seconds(),
            service: process_cpu_seconds(service.pid()),
            function: process_cpu_seconds(function.process.pid()),
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            server: spent(before.server, self.server),
            service: spent(before.service, self.service),
            function: spent(before.function, self.function),
        }
    }
}
