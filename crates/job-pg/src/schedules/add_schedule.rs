//! Add a schedule: a job that is enqueued again and again.

use postgres_types::Type;
use serde::Serialize;

use crate::jobs::Field;
use crate::jobs::IntoJob;
use crate::jobs::enqueue::{EnqueueClient, EnqueueError};

/// The call, in the select list as add_job's.
const SQL: &str = "SELECT (@extschema@.add_scheduled_job($1::text, nullif($2::text, '')::json, $3::text::json, $4::text, $5::text, \
                   $6::int, $7::int)).id";

/// With a tenant, as the last parameter.
const OF_TENANT: &str = "SELECT (@extschema@.add_scheduled_job($8::uuid, $1::text, nullif($2::text, '')::json, $3::text::json, \
                         $4::text, $5::text, $6::int, $7::int)).id";

/// Adds a schedule and returns its id. `rule` is a cron rule, or whatever `schedule_info` may be: `"*/5 * * * *"`,
/// `json!({"rule": "0 9 * * MON", "tz": "Europe/Berlin"})`.
///
/// An application says its schedules at every start: one with the same key is replaced. Without a key the task's
/// identifier is the key (with a tenant, `<task>:<tenant>`), so give keys to two schedules of one task.
///
/// The jobs that a schedule makes have its key as well. A fire while one waits or runs is skipped; a job that is
/// enqueued under that key by hand takes the place of one that waits, as anywhere.
///
/// ```no_run
/// # use job_pg::{DbError, EnqueueError, NewJob, Db, schedule};
/// # async fn example(db: &Db) -> Result<(), EnqueueError> {
/// schedule(db, "*/5 * * * *", NewJob::raw("report", "")).await?;
/// schedule(db, "0 9 * * MON", NewJob::raw("report", r#"{"of": "the week"}"#).key("weekly-report")).await?;
/// # Ok(())
/// # }
/// ```
///
/// A rule is read in the scheduler's zone (TZ, UTC unless set), or in one of its own:
///
/// ```no_run
/// # use job_pg::{Db, EnqueueError, NewJob, schedule};
/// # async fn example(db: &Db) -> Result<(), EnqueueError> {
/// let mondays = serde_json::json!({ "rule": "0 9 * * MON", "tz": "Europe/Berlin" });
/// schedule(db, mondays, NewJob::raw("report", "").key("report-on-mondays")).await?;
/// # Ok(())
/// # }
/// ```
///
/// Whether the rule can be used is told by the scheduler, and before by `schedule` of job-service, which refuses one
/// that cannot.
///
/// # Errors
/// As those of [`enqueue`](crate::jobs::enqueue). A time, a key mode or an actor are refused: a schedule has none.
pub async fn schedule<C: EnqueueClient>(
    mut client: C,
    rule: impl Serialize + Send,
    job: impl IntoJob + Send,
) -> Result<i64, EnqueueError> {
    let mut job = job.into_job();
    job.check()?;
    let odd = |field| Err(EnqueueError::refused(field, "a schedule has none of its own".to_owned()));
    if job.run_at.is_some() || job.delay.is_some() {
        return odd(Field::RunAt);
    }
    if job.actor.is_some() {
        return odd(Field::Actor);
    }
    if job.has_options_of_enqueue() {
        return odd(Field::Key);
    }
    // One schedule for one start or many. Keys are shared by all tenants.
    let key = job.key.take().unwrap_or_else(|| match job.tenant {
        Some(tenant) => format!("{}:{tenant}", job.task),
        None => job.task.clone(),
    });
    let rule = serde_json::to_string(&rule)
        .map_err(|error| EnqueueError::refused(Field::Rule, format!("cannot be written as JSON: {error}")))?;
    let parameters: [(&(dyn postgres_types::ToSql + Sync), Type); 8] = [
        (&job.task, Type::TEXT),
        (&job.payload, Type::TEXT),
        (&rule, Type::TEXT),
        (&key, Type::TEXT),
        (&job.queue, Type::TEXT),
        (&job.max_attempts, Type::INT4),
        (&job.priority, Type::INT4),
        (&job.tenant, Type::UUID),
    ];
    let (sql, parameters) = if job.tenant.is_some() { (OF_TENANT, &parameters[..]) } else { (SQL, &parameters[..7]) };
    let schema = client.schema();
    let rows = client.rows("schedule", &schema.apply(sql), parameters).await;
    let rows = rows.map_err(|error| EnqueueError::read(error, &schema))?;
    // One row, or an error.
    let id: Option<i64> = rows[0].get(0, "schedule")?;
    id.ok_or(EnqueueError::KeptOut { positions: Vec::new() })
}
