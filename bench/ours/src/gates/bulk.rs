//! An operator who changes many jobs while workers take them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use job_pg::NewJob;
use rivalkit::Args;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{LOOK, Tally, Timed, add, connection, stop, tidy, within, workers};

/// The command's flags.
pub const FLAGS: &[&str] = &["jobs", "job-ms", "workers", "waiting", "change"];

/// The next ones to start.
const NEXT: &str =
    "SELECT array_agg(id) FROM (SELECT id FROM app_jobs.jobs WHERE locked_at IS NULL ORDER BY id LIMIT $1) j";
const CHANGE: &str = "SELECT count(*) FROM app_jobs.reschedule_jobs($1, priority => 1)";
/// Those that wait as before.
const UNCHANGED: &str =
    "SELECT count(*) FROM app_jobs.jobs WHERE id = ANY ($1) AND priority <> 1 AND locked_at IS NULL";
const LEFT: &str = "SELECT count(*) FROM app_jobs.jobs";

/// The time over which a rate is taken.
const WINDOW: Duration = Duration::from_millis(500);

/// `--workers` at work on `--jobs` of `--job-ms`; when `--waiting` are left, reschedule_jobs gives another priority to
/// the `--change` that would start next.
///
/// # Errors
/// What the database or a worker said, or too few jobs.
pub async fn measure(args: &Args) -> Result<Value> {
    let (url, jobs, ms) = (args.required("url")?, args.number("jobs", None)?, args.number("job-ms", None)?);
    let (waiting, change) = (args.number("waiting", None)?, i64::try_from(args.number("change", None)?)?);
    let (client, operator) = (connection(url).await?, connection(url).await?);
    add(&client, jobs, |_| NewJob::of(&Timed { ms })).await?;
    tidy(&client).await?;
    let tally = Arc::new(Tally::default());
    let running = workers(url, args.number("workers", None)?, &tally)?;
    tally.begun(1).await?;
    let mut pace = Pace::default();
    within(|| {
        pace.look(&tally);
        tally.finished() + waiting >= jobs
    })
    .await
    .context("the workers have not come so far")?;
    let before = pace.last().context("too few jobs before")?;

    let next: Vec<i64> = operator.query_one(NEXT, &[&change]).await?.get(0);
    let (ids, start) = (next.clone(), Instant::now());
    let call = tokio::spawn(async move {
        let changed: i64 = operator.query_one(CHANGE, &[&ids]).await?.get(0);
        let seconds = start.elapsed().as_secs_f64();
        let unchanged: i64 = operator.query_one(UNCHANGED, &[&ids]).await?.get(0);
        anyhow::Ok((changed, seconds, unchanged))
    });
    let (mut pace, mut unsettled, mut looked) = (Pace::default(), 0, Instant::now());
    while !call.is_finished() {
        pace.look(&tally);
        if looked.elapsed() >= WINDOW / 5 {
            // Read before the rows are: what ends in between is not taken for unsettled.
            let finished = tally.finished();
            let left: i64 = client.query_one(LEFT, &[]).await?.get(0);
            unsettled = unsettled.max((finished + u64::try_from(left)?).saturating_sub(jobs));
            looked = Instant::now();
        }
        sleep(LOOK).await;
    }
    let (changed, seconds, unchanged) = call.await??;
    let least = pace.least.or_else(|| pace.last());
    if tally.finished() >= jobs {
        bail!("all {jobs} jobs were done before the call was");
    }
    stop(running).await?;
    Ok(json!({
        "seconds": seconds,
        "changed": changed,
        "unchanged": unchanged,
        "unsettled": unsettled,
        "before_per_s": before,
        "least_percent": least.map(|least| 100.0 * least / before),
    }))
}

/// How many jobs finish a second.
#[derive(Default)]
struct Pace {
    looks: Vec<(Instant, u64)>,
    /// The least over the time of a window.
    least: Option<f64>,
}

impl Pace {
    fn look(&mut self, tally: &Tally) {
        self.looks.push((Instant::now(), tally.finished()));
        if let Some(rate) = self.window() {
            self.least = Some(self.least.map_or(rate, |least| least.min(rate)));
        }
    }

    /// Over the last window; None when there is no whole one yet.
    fn window(&self) -> Option<f64> {
        let (now, finished) = *self.looks.last()?;
        let (then, before) = *self.looks.iter().rev().find(|(at, _)| now.duration_since(*at) >= WINDOW)?;
        Some((finished - before) as f64 / now.duration_since(then).as_secs_f64())
    }

    /// Over the last window, or over all the time when that is shorter.
    fn last(&self) -> Option<f64> {
        let ((now, finished), (first, before)) = (*self.looks.last()?, *self.looks.first()?);
        let seconds = now.duration_since(first).as_secs_f64();
        self.window().or_else(|| (seconds > 0.0).then(|| (finished - before) as f64 / seconds))
    }
}
