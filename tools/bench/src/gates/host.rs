//! A function's host that is down for some time, with jobs waiting for it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use job_testkit::wait::try_poll;

use super::super::http::{Function, LIMIT, last_lines, service};
use super::super::program::Program;
use super::super::results::{Figures, Outcome};
use super::super::run::Runner;
use super::Column;

/// How long after it is back all jobs may take.
const CAP: Duration = Duration::from_secs(40);

const USED: &str = "SELECT coalesce(sum(attempts), 0)::float8 FROM app_jobs.jobs WHERE locked_at IS NULL";
const LEFT: &str = "SELECT count(*) FROM app_jobs.jobs";

pub(super) const COLUMNS: &[Column] = &[
    Column::new("requests while it was down", "requests", 0),
    Column::new("attempts used up", "attempts", 0),
    Column::new("all done after s", "back_s", 2),
    Column::new("not done", "left", 0),
];

/// With so many jobs waiting, for a function that answers 503 for so many seconds.
pub(super) async fn measure(
    runner: &Runner<'_>,
    program: &Program,
    database: &str,
    seconds: u64,
    jobs: u64,
) -> Result<Outcome> {
    let mut function = Function::start_with(runner.programs, &["down", &seconds.to_string()]).await?;
    let client = runner.server.connect(database).await?;
    runner.call(program, database, &["enqueue", "--mode", "bulk"], &[("--jobs", jobs.to_string())]).await?;
    client.batch_execute("VACUUM (ANALYZE) app_jobs.jobs").await?;
    let (child, _) = service(runner, database, &function.url)?;
    let mut child = child.try_spawn()?;

    let back = async || function.process.lines().iter().find_map(|line| line.strip_prefix("requests ")?.parse().ok());
    let Ok(requests) = try_poll(Duration::from_secs(seconds) + LIMIT, back).await else {
        bail!("the function was not asked: {}", last_lines(&child));
    };
    let began = Instant::now();
    let attempts: f64 = client.query_one(USED, &[]).await?.get(0);
    let left = async || client.query_one(LEFT, &[]).await.ok().map(|row| row.get::<_, i64>(0));
    let _ = try_poll(CAP, async || left().await.filter(|left| *left == 0)).await;
    let back_s = began.elapsed().as_secs_f64();
    let left = left().await.context("the database does not answer")?;
    child.stop(LIMIT).await;
    function.process.stop(LIMIT).await;
    let figures: [(_, f64); 4] =
        [("requests", requests), ("attempts", attempts), ("back_s", back_s), ("left", left as f64)];
    Ok(Outcome::Measured { figures: Figures::from(figures), settings: None })
}
