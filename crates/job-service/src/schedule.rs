//! Add a schedule whose rule has been read.

use job_scheduler::timetable::{TimeZone, Timetable};
use job_utils::db::{EnqueueClient, EnqueueError, Field, IntoJob};
use serde::Serialize;

/// Adds a schedule and returns its id, as that of job-worker does, and refuses a rule that the scheduler could not use: there the
/// scheduler alone would tell of a typo, in its log and in the row's `last_error`.
///
/// `rule` is a cron rule, or whatever `schedule_info` may be: `"*/5 * * * *"`, `json!({"rule": "0 9 * * MON", "tz": "Europe/Berlin"})`.
/// A job with a key replaces the schedule with that key, so that an application can say its schedules at every start.
///
/// The jobs that it makes have the same key. A fire while one waits or runs is skipped; a job that is enqueued under that key by hand
/// takes the place of one that waits, as anywhere.
///
/// ```no_run
/// # use job_service::{Db, EnqueueError, Field, NewJob, schedule};
/// # async fn example(db: &Db) -> Result<(), EnqueueError> {
/// schedule(db, "*/5 * * * *", NewJob::raw("report", "").key("report-every-5-minutes")).await?;
/// let error = schedule(db, "*/5 * * 13 *", NewJob::raw("report", "")).await.unwrap_err();
/// assert_eq!(error.field(), Some(Field::Rule));
/// # Ok(())
/// # }
/// ```
///
/// A rule is read in the scheduler's zone (TZ, UTC unless set), or in one of its own:
///
/// ```no_run
/// # use job_service::{Db, EnqueueError, NewJob, schedule};
/// # async fn example(db: &Db) -> Result<(), EnqueueError> {
/// let mondays = serde_json::json!({ "rule": "0 9 * * MON", "tz": "Europe/Berlin" });
/// schedule(db, mondays, NewJob::raw("report", "").key("report-on-mondays")).await?;
/// # Ok(())
/// # }
/// ```
///
/// Here a date without an offset is read as UTC, and by the scheduler in its own zone (TZ): where `start` and `end` are within a day of each
/// other, give both an offset, or the one may find a fire between them that the other does not. Of what merely has no effect the scheduler
/// tells.
///
/// # Errors
/// As those of [`enqueue`](crate::enqueue); [`Field::Rule`] when the rule cannot be used. A time, a key mode or an actor are refused: a
/// schedule has none.
pub async fn schedule<C: EnqueueClient>(
    client: C,
    rule: impl Serialize + Send,
    job: impl IntoJob + Send,
) -> Result<i64, EnqueueError> {
    check(&rule)?;
    job_utils::db::schedule(client, rule, job).await
}

/// Reads the rule as the scheduler will, from its text.
fn check(rule: &impl Serialize) -> Result<(), EnqueueError> {
    let refused = |message| EnqueueError::Refused { position: None, field: Field::Rule, message, source: None };
    let text = serde_json::to_string(rule).map_err(|error| refused(format!("cannot be written as JSON: {error}")))?;
    Timetable::from_json(&text, &TimeZone::UTC).map_err(|error| refused(error.to_string()))?;
    Ok(())
}
