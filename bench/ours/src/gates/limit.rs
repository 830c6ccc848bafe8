//! A limit of running jobs, and workers that want more.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use job_pg::{AdminDb, Gate, Limit, NewJob};
use rivalkit::{Args, Span};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{LOOK, Tally, Timed, add, connection, db, stop, tidy, workers};

/// The command's flags.
pub const FLAGS: &[&str] = &["jobs", "job-ms", "workers", "max-running", "seconds"];

const RUNNING: &str = "SELECT count(*) FROM app_jobs.jobs WHERE locked_at IS NOT NULL";

/// `--workers` that could run far more, with `--jobs` of `--job-ms` waiting, for `--seconds` under a limit of
/// `--max-running`: how many start a second, and the most that ran at once by what handlers count and by the rows.
///
/// # Errors
/// What the database or a worker said, or too few jobs.
pub async fn measure(args: &Args) -> Result<Value> {
    let (url, jobs, ms) = (args.required("url")?, args.number("jobs", None)?, args.number("job-ms", None)?);
    let most = args.number("max-running", None)?;
    let limit = Limit { max_running: Some(u32::try_from(most)?), ..Limit::default() };
    AdminDb::new(db(url)?).set_limit(Gate::Task("timed"), limit).await?;
    let client = connection(url).await?;
    add(&client, jobs, |_| NewJob::of(&Timed { ms })).await?;
    tidy(&client).await?;

    let tally = Arc::new(Tally::default());
    let running = workers(url, args.number("workers", None)?, &tally)?;
    tally.begun(most).await?;
    // The first jobs are not the pace.
    sleep(Duration::from_secs(1)).await;
    let time = Duration::from_secs(args.number("seconds", None)?);
    let (span, before) = (Span::begin(), tally.started());
    let mut most_locked = 0;
    while span.end().0 < time.as_secs_f64() {
        most_locked = most_locked.max(client.query_one(RUNNING, &[]).await?.get::<_, i64>(0));
        sleep(2 * LOOK).await;
    }
    let (seconds, cpu) = span.end();
    let started = tally.started() - before;
    if tally.started() >= jobs {
        bail!("all {jobs} jobs have started before the time was over");
    }
    stop(running).await?;
    let per_s = started as f64 / seconds;
    Ok(json!({
        "jobs": started,
        "per_s": per_s,
        "job_ms": tally.mean() * 1000.0,
        // Of what the limit allows: so many at once, each for the time that a job took.
        "used_percent": 100.0 * per_s * tally.mean() / most as f64,
        "most_running": tally.most(),
        "most_locked": most_locked,
        "client_us": cpu * 1e6 / started as f64,
    }))
}
