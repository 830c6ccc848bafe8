//! A rate, and workers that want more.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use job_pg::{AdminDb, Gate, Limit, NewJob, Rate};
use rivalkit::Args;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Tally, Timed, add, connection, db, stop, tidy, workers};

/// The command's flags.
pub const FLAGS: &[&str] = &["rate", "burst", "workers", "seconds"];

/// Writes down when each job is claimed, on the database's clock: handlers start some time after that.
const RECORD: &str = "
CREATE TABLE public.starts (at timestamptz NOT NULL);
CREATE FUNCTION public.record_start() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.starts VALUES (NEW.locked_at);
    RETURN NULL;
END $$;
CREATE TRIGGER record_start AFTER UPDATE OF locked_at ON app_jobs.jobs
   FOR EACH ROW WHEN (OLD.locked_at IS NULL AND NEW.locked_at IS NOT NULL) EXECUTE FUNCTION public.record_start();";

/// Microseconds from the first start to each.
const STARTS: &str = "
SELECT (extract(epoch FROM at - min(at) OVER ()) * 1000000)::bigint FROM public.starts ORDER BY at";

/// `--workers` for `--seconds` from the first start on, under a rate of `--rate` a second with a bucket of `--burst`:
/// how much of what the bucket gave was used, and by how many starts the fullest time was above it.
///
/// # Errors
/// What the database or a worker said.
pub async fn measure(args: &Args) -> Result<Value> {
    let (url, seconds) = (args.required("url")?, args.number("seconds", None)?);
    let (rate, burst) = (args.number("rate", None)?, args.number("burst", None)?);
    let bucket = Rate { starts: u32::try_from(rate)?, per: Duration::from_secs(1), burst: u32::try_from(burst)? };
    let limit = Limit { rate: Some(bucket), ..Limit::default() };
    AdminDb::new(db(url)?).set_limit(Gate::Task("timed"), limit).await?;
    let client = connection(url).await?;
    client.batch_execute(RECORD).await?;
    add(&client, burst + rate * (seconds + 10), |_| NewJob::of(&Timed { ms: 0 })).await?;
    tidy(&client).await?;

    let tally = Arc::new(Tally::default());
    let running = workers(url, args.number("workers", None)?, &tally)?;
    tally.begun(1).await?;
    sleep(Duration::from_secs(seconds)).await;
    stop(running).await?;
    let starts: Vec<i64> = client.query(STARTS, &[]).await?.iter().map(|row| row.get(0)).collect();
    let until = i64::try_from(seconds * 1_000_000)?;
    let starts: Vec<i64> = starts.into_iter().filter(|at| *at <= until).collect();
    let above = above(&starts, rate as f64, burst as f64).context("no job has started")?;
    let allowed = (burst + rate * seconds) as f64;
    Ok(json!({
        "jobs": starts.len(),
        "per_s": starts.len() as f64 / seconds as f64,
        "used_percent": 100.0 * starts.len() as f64 / allowed,
        "above": above,
    }))
}

/// By how many starts the fullest time was above what a bucket gives, at the most; 0 when none was.
fn above(starts: &[i64], rate: f64, burst: f64) -> Option<f64> {
    let (mut tokens, mut last, mut least) = (burst, *starts.first()?, 0.0_f64);
    for at in starts {
        tokens = burst.min(tokens + (at - last) as f64 / 1e6 * rate) - 1.0;
        least = least.min(tokens);
        last = *at;
    }
    // Starts are written down to the microsecond.
    Some(if least > -1e-3 { 0.0 } else { -least })
}

#[cfg(test)]
mod tests {
    use super::above;

    #[test]
    fn a_start_too_many_is_seen() {
        // 100 a second, at most 2 at once.
        assert_eq!(above(&[0, 0, 10_000, 20_000], 100.0, 2.0), Some(0.0));
        assert_eq!(above(&[0, 0, 0], 100.0, 2.0), Some(1.0));
        assert!(above(&[0, 0, 10_000, 15_000], 100.0, 2.0).is_some_and(|above| (above - 0.5).abs() < 1e-9));
        assert_eq!(above(&[], 100.0, 2.0), None);
    }
}
