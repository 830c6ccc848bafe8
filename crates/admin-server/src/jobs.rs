//! The queue in the API: jobs, schedules, and enqueueing.

use async_graphql::{Context, Error, InputObject, Result, SimpleObject};
use job_pg::{AddJobError, AdminDb, AdminJob, AdminSchedule, DbError, ListFilter, NewJob};
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::budget::Budget;
use crate::error::{bad_input, coded, database};
use crate::list::{BigIntFilter, Connection, StringFilter};
use crate::scalars::{BigInt, Datetime, Json};

/// A job that waits, runs, or has failed. A finished job has no row.
#[derive(SimpleObject)]
pub(crate) struct Job {
    id: BigInt,
    database_id: Option<Uuid>,
    actor_id: Option<Uuid>,
    queue_name: Option<String>,
    task_identifier: String,
    payload: Json,
    priority: i32,
    run_at: Datetime,
    attempts: i32,
    max_attempts: i32,
    key: Option<String>,
    last_error: Option<String>,
    locked_at: Option<Datetime>,
    locked_by: Option<String>,
    created_at: Datetime,
    updated_at: Datetime,
}

impl From<AdminJob> for Job {
    fn from(job: AdminJob) -> Self {
        Self {
            id: BigInt(job.id),
            database_id: job.tenant,
            actor_id: job.actor,
            queue_name: job.queue,
            task_identifier: job.task,
            payload: Json(job.payload),
            priority: job.priority,
            run_at: Datetime(job.run_at),
            attempts: job.attempts,
            max_attempts: job.max_attempts,
            key: job.key,
            last_error: job.last_error,
            locked_at: job.locked_at.map(Datetime),
            locked_by: job.locked_by,
            created_at: Datetime(job.created_at),
            updated_at: Datetime(job.updated_at),
        }
    }
}

/// A rule that a scheduler turns into jobs.
#[derive(SimpleObject)]
pub(crate) struct ScheduledJob {
    id: BigInt,
    database_id: Option<Uuid>,
    actor_id: Option<Uuid>,
    queue_name: Option<String>,
    task_identifier: String,
    payload: Json,
    priority: i32,
    max_attempts: i32,
    key: Option<String>,
    locked_at: Option<Datetime>,
    locked_by: Option<String>,
    schedule_info: Json,
    last_scheduled: Option<Datetime>,
    last_scheduled_id: Option<BigInt>,
    paused_at: Option<Datetime>,
    ended_at: Option<Datetime>,
    last_error: Option<String>,
}

impl From<AdminSchedule> for ScheduledJob {
    fn from(schedule: AdminSchedule) -> Self {
        Self {
            id: BigInt(schedule.id),
            database_id: schedule.tenant,
            actor_id: schedule.actor,
            queue_name: schedule.queue,
            task_identifier: schedule.task,
            payload: Json(schedule.payload),
            priority: schedule.priority,
            max_attempts: schedule.max_attempts,
            key: schedule.key,
            locked_at: schedule.locked_at.map(Datetime),
            locked_by: schedule.locked_by,
            schedule_info: Json(schedule.schedule_info),
            last_scheduled: schedule.last_scheduled.map(Datetime),
            last_scheduled_id: schedule.last_scheduled_id.map(BigInt),
            paused_at: schedule.paused_at.map(Datetime),
            ended_at: schedule.ended_at.map(Datetime),
            last_error: schedule.last_error,
        }
    }
}

/// Which jobs; several conditions must all hold.
#[derive(InputObject)]
pub(crate) struct JobFilter {
    /// By id.
    id: Option<BigIntFilter>,
    /// By task.
    task_identifier: Option<StringFilter>,
}

/// Which schedules; several conditions must all hold.
#[derive(InputObject)]
pub(crate) struct ScheduledJobFilter {
    /// By id.
    id: Option<BigIntFilter>,
    /// By task.
    task_identifier: Option<StringFilter>,
}

/// A job to enqueue. What is left out or null has the queue's default.
#[derive(InputObject)]
pub(crate) struct AddJobInput {
    /// Comes back in the answer.
    client_mutation_id: Option<String>,
    /// The tenant's database.
    db_id: Option<Uuid>,
    /// Which function does it.
    identifier: String,
    /// What the function gets; an empty object by default.
    payload: Option<Json>,
    /// A job that waits under the same key is replaced.
    job_key: Option<String>,
    /// The named queue, whose jobs run one at a time.
    queue_name: Option<String>,
    /// Not before; now by default.
    run_at: Option<Datetime>,
    /// How many attempts; 25 by default.
    max_attempts: Option<i32>,
    /// Smaller runs earlier; 0 by default.
    priority: Option<i32>,
}

/// What was enqueued.
#[derive(SimpleObject)]
pub(crate) struct AddJobPayload {
    /// As given.
    client_mutation_id: Option<String>,
    /// The job.
    result: Option<Job>,
}

/// Jobs that are not finished.
pub(crate) async fn jobs(ctx: &Context<'_>, filter: Option<JobFilter>, limit: i64) -> Result<Connection<Job>> {
    let (id, task) = filter.map_or((None, None), |filter| (filter.id, filter.task_identifier));
    let (id, task) = (BigIntFilter::wanted(id)?, StringFilter::wanted(task)?);
    let (wanted, budget) = (wanted(ctx, id, task.as_deref(), limit), Budget::of(ctx)?);
    let jobs = budget.rows(ctx.data::<AdminDb>()?.jobs(&wanted, budget.bytes()).await, told)?;
    Ok(Connection { nodes: jobs.into_iter().map(Job::from).collect() })
}

/// Schedules.
pub(crate) async fn scheduled_jobs(
    ctx: &Context<'_>,
    filter: Option<ScheduledJobFilter>,
    limit: i64,
) -> Result<Connection<ScheduledJob>> {
    let (id, task) = filter.map_or((None, None), |filter| (filter.id, filter.task_identifier));
    let (id, task) = (BigIntFilter::wanted(id)?, StringFilter::wanted(task)?);
    let (wanted, budget) = (wanted(ctx, id, task.as_deref(), limit), Budget::of(ctx)?);
    let schedules = budget.rows(ctx.data::<AdminDb>()?.schedules(&wanted, budget.bytes()).await, told)?;
    Ok(Connection { nodes: schedules.into_iter().map(ScheduledJob::from).collect() })
}

/// Enqueues a job.
pub(crate) async fn add_job(ctx: &Context<'_>, input: AddJobInput) -> Result<AddJobPayload> {
    let mut job = NewJob::raw(input.identifier, input.payload.map(|payload| payload.0).unwrap_or_default());
    if let Some(tenant) = input.db_id {
        job = job.tenant(tenant);
    }
    if let Some(key) = input.job_key {
        job = job.key(key);
    }
    if let Some(queue) = input.queue_name {
        job = job.queue(queue);
    }
    if let Some(run_at) = input.run_at {
        job = job.run_at(run_at.0);
    }
    if let Some(attempts) = input.max_attempts {
        job = job.max_attempts(attempts);
    }
    if let Some(priority) = input.priority {
        job = job.priority(priority);
    }
    let result = match ctx.data::<AdminDb>()?.add_job(&job).await {
        Ok(added) => Some(added.into()),
        // As PostGraphile shows a row of NULLs.
        Err(AddJobError::KeptOut) => None,
        Err(AddJobError::Refused(reason)) => return Err(bad_input(reason)),
        Err(AddJobError::Db(error)) => return Err(told(&error)),
        // It can grow; what this server does not know is told as it is.
        Err(other) => return Err(Error::new(other.to_string())),
    };
    Ok(AddJobPayload { client_mutation_id: input.client_mutation_id, result })
}

/// What to read: large columns only where the query asks for them.
fn wanted<'a>(ctx: &Context<'_>, id: Option<BigInt>, task: Option<&'a str>, limit: i64) -> ListFilter<'a> {
    let asked = |field| ctx.look_ahead().field("nodes").field(field).exists();
    ListFilter { id: id.map(|id| id.0), task, limit, payload: asked("payload"), schedule_info: asked("scheduleInfo") }
}

/// A database error; one that has a command against it names the command.
fn told(error: &DbError) -> Error {
    let missing = [SqlState::UNDEFINED_TABLE, SqlState::UNDEFINED_FUNCTION, SqlState::INVALID_SCHEMA_NAME];
    if error.sql_state().is_some_and(|state| missing.contains(state)) {
        return coded("NO_JOBS_SCHEMA", "the database has no jobs schema; make it with `job-service migrate`");
    }
    database(error)
}
