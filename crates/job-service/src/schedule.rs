//! Add a schedule whose rule has been read.

use job_pg::{EnqueueClient, EnqueueError, Field, IntoJob, Timestamp};
use job_scheduler::timetable::{TimeZone, Timetable};
use serde_json::Value;

#[cfg(feature = "cron")]
mod cron;

/// Adds a schedule and returns its id, as that of job-worker does, and refuses a rule that the scheduler could not use:
/// there the scheduler alone would tell of a typo, in its log and in the row's `last_error`.
///
/// `rule` is a cron rule, or whatever `schedule_info` may be: `"*/5 * * * *"`, `json!({"rule": "0 9 * * MON", "tz":
/// "Europe/Berlin"})`. With the feature `cron` it may be a `cron::Schedule` ([`IntoRule`]).
///
/// An application says its schedules at every start: one with the same key is replaced. Without a key the task's
/// identifier is the key (with a tenant, `<task>:<tenant>`), so give keys to two schedules of one task.
///
/// The jobs that a schedule makes have its key as well. A fire while one waits or runs is skipped; a job that is
/// enqueued under that key by hand takes the place of one that waits, as anywhere.
///
/// ```no_run
/// # use job_service::{Db, EnqueueError, Field, NewJob, schedule};
/// # async fn example(db: &Db) -> Result<(), EnqueueError> {
/// schedule(db, "*/5 * * * *", NewJob::raw("report", "")).await?;
/// schedule(db, "0 9 * * MON", NewJob::raw("report", r#"{"of": "the week"}"#).key("weekly-report")).await?;
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
/// Here a date without an offset is read as UTC, and by the scheduler in its own zone (TZ): where `start` and `end` are
/// within a day of each other, give both an offset, or the one may find a fire between them that the other does not. Of
/// what merely has no effect the scheduler tells.
///
/// # Errors
/// As those of [`enqueue`](crate::enqueue); [`Field::Rule`] when the rule cannot be used. A time, a key mode or an
/// actor are refused: a schedule has none.
pub async fn schedule<C: EnqueueClient>(
    client: C,
    rule: impl IntoRule + Send,
    job: impl IntoJob + Send,
) -> Result<i64, EnqueueError> {
    let rule = rule.into_rule()?;
    // As the scheduler will read it.
    Timetable::from_json(&rule.to_string(), &TimeZone::UTC).map_err(|error| refused(error.to_string()))?;
    job_pg::schedule(client, rule, job).await
}

fn refused(message: String) -> EnqueueError {
    EnqueueError::Refused { position: None, field: Field::Rule, message, source: None }
}

/// What the rule of a schedule may be given as: a text (a cron rule or a date), JSON, an instant for a single fire.
///
/// With the feature `cron` also a `cron::Schedule`, with the meaning that the crate cron gives it: Sunday is 1, seconds
/// come first, a day matches when day of month and day of week both do. Its years end with 2100; a rule for every year
/// goes on. Like other rules it follows the zone of the schedule, and what job-scheduler's README says of days when
/// clocks change.
///
///
/// ```
/// # #[cfg(feature = "cron")] {
/// use job_service::IntoRule;
/// use serde_json::json;
///
/// let sundays: cron::Schedule = "0 30 9 * * 1".parse().unwrap();
/// let rule = sundays.into_rule().unwrap();
/// assert_eq!(rule, json!({"second": [0], "minute": [30], "hour": [9], "dayOfWeek": [0]}));
/// // In a zone, and with the other options:
/// let rule = json!({"rule": rule, "tz": "Europe/Berlin", "missed": "once"});
/// # assert!(rule.into_rule().is_ok());
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the rule of a schedule",
    note = "give a cron rule as text, or JSON as `serde_json::Value` (of what implements Serialize, by `serde_json::to_value`)",
    note = "`cron::Schedule` can, with job-service's feature `cron`"
)]
pub trait IntoRule {
    /// The rule as schedule_info has it.
    ///
    /// # Errors
    /// [`Field::Rule`] for what cannot be expressed.
    fn into_rule(self) -> Result<Value, EnqueueError>;
}

impl IntoRule for Value {
    fn into_rule(self) -> Result<Value, EnqueueError> {
        Ok(self)
    }
}

impl IntoRule for &Value {
    fn into_rule(self) -> Result<Value, EnqueueError> {
        Ok(self.clone())
    }
}

impl IntoRule for &str {
    fn into_rule(self) -> Result<Value, EnqueueError> {
        Ok(self.into())
    }
}

impl IntoRule for String {
    fn into_rule(self) -> Result<Value, EnqueueError> {
        Ok(self.into())
    }
}

impl IntoRule for &String {
    fn into_rule(self) -> Result<Value, EnqueueError> {
        Ok(self.as_str().into())
    }
}

impl IntoRule for Timestamp {
    fn into_rule(self) -> Result<Value, EnqueueError> {
        Ok(self.to_string().into())
    }
}
