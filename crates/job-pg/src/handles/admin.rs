//! The administration's handle: list jobs and schedules, enqueue; and gates, by [`super::gates`]. Nothing else.

use jiff::Timestamp;
use postgres_types::Type;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use crate::connection::Db;
use crate::connection::ReadBudget;
use crate::connection::statement::Parameters;
use crate::error::Answer;
use crate::error::DbError;
use crate::jobs::NewJob;
use crate::jobs::columns::Instant;
use crate::jobs::enqueue::{add_job_call, fault, parameters};

/// The columns that [`job`] reads, with an expression for the payload.
macro_rules! job_columns {
    ($payload:expr) => {
        concat!(
            "id, database_id, actor_id, queue_name, task_identifier, ",
            $payload,
            ", priority, run_at, attempts, max_attempts, key, last_error, locked_at, locked_by, created_at, updated_at"
        )
    };
}

/// A column of JSON when a parameter asks for it. A value that alone has more than $4 bytes is not read at all: NULL.
macro_rules! asked {
    ($column:literal, $asks:literal) => {
        concat!(
            "CASE WHEN NOT ",
            $asks,
            " THEN '' WHEN octet_length(",
            $column,
            "::text) <= $4 THEN ",
            $column,
            "::text END"
        )
    };
}

/// Rows by id, filtered where a parameter is not null.
macro_rules! filtered {
    () => {
        " WHERE ($1::bigint IS NULL OR id = $1) AND ($2::text IS NULL OR task_identifier = $2) ORDER BY id LIMIT $3"
    };
}

const JOBS: &str = concat!("SELECT ", job_columns!(asked!("payload", "$5")), " FROM @extschema@.jobs", filtered!());

const SCHEDULES: &str = concat!(
    "SELECT id, database_id, actor_id, queue_name, task_identifier, ",
    asked!("payload", "$5"),
    ", priority, max_attempts, key, locked_at, locked_by, ",
    asked!("schedule_info", "$6"),
    ", last_scheduled, last_scheduled_id, paused_at, ended_at, last_error FROM @extschema@.scheduled_jobs",
    filtered!()
);

const ADD: &str = concat!("SELECT ", job_columns!("payload::text"), " FROM ", add_job_call!(at));

/// Which rows of a list, and how much of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct ListFilter<'a> {
    /// The one with this id.
    pub id: Option<i64>,
    /// Those of this task.
    pub task: Option<&'a str>,
    /// So many at most.
    pub limit: i64,
    /// With their payload, which can be large; without, it is an empty text.
    pub payload: bool,
    /// Schedules with their schedule_info, likewise.
    pub schedule_info: bool,
}

/// A job as it stands in its table.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "named as the columns, which migrations/V1__tables.sql describes")]
pub struct AdminJob {
    pub id: i64,
    pub tenant: Option<Uuid>,
    pub actor: Option<Uuid>,
    pub queue: Option<String>,
    pub task: String,
    /// JSON exactly as it was written; empty when the filter leaves it out.
    pub payload: String,
    pub priority: i32,
    pub run_at: Timestamp,
    pub attempts: i32,
    pub max_attempts: i32,
    pub key: Option<String>,
    pub last_error: Option<String>,
    pub locked_at: Option<Timestamp>,
    pub locked_by: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// A schedule as it stands in its table.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "named as the columns, which migrations/V1__tables.sql describes")]
pub struct AdminSchedule {
    pub id: i64,
    pub tenant: Option<Uuid>,
    pub actor: Option<Uuid>,
    pub queue: Option<String>,
    pub task: String,
    /// JSON exactly as it was written; empty when the filter leaves it out.
    pub payload: String,
    pub priority: i32,
    pub max_attempts: i32,
    pub key: Option<String>,
    pub locked_at: Option<Timestamp>,
    pub locked_by: Option<String>,
    /// JSON exactly as it was written; empty when the filter leaves it out.
    pub schedule_info: String,
    pub last_scheduled: Option<Timestamp>,
    pub last_scheduled_id: Option<i64>,
    pub paused_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// What is wrong with schedule_info.
    pub last_error: Option<String>,
}

/// A job that was not enqueued.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum AddJobError {
    /// The schema's rules refuse it: why, for the caller.
    #[error("{0}")]
    Refused(String),
    /// A trigger on the table returned NULL, which keeps the row out: there is no job here.
    #[error("a trigger on the table jobs returned NULL, which kept the job out: it was not enqueued")]
    KeptOut,
    /// The database did not do it.
    #[error(transparent)]
    Db(#[from] DbError),
}

job_utils::debug_as_chain!(AddJobError);

/// What the administration may do in the database.
#[derive(Clone)]
pub struct AdminDb {
    pub(super) db: Db,
}

impl AdminDb {
    /// A handle.
    pub fn new(db: Db) -> Self {
        Self { db }
    }

    /// Jobs by id; None when they have more bytes than the budget.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn jobs(&self, filter: &ListFilter<'_>, budget: &ReadBudget) -> Result<Option<Vec<AdminJob>>, DbError> {
        let read = |row: &Row| {
            let payload: Option<String> = row.try_get(PAYLOAD)?;
            payload.map(|payload| job(row, payload)).transpose()
        };
        self.list("list jobs", JOBS, filter, &[(&filter.payload, Type::BOOL)], budget, read).await
    }

    /// Schedules by id; None when they have more bytes than the budget.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn schedules(
        &self,
        filter: &ListFilter<'_>,
        budget: &ReadBudget,
    ) -> Result<Option<Vec<AdminSchedule>>, DbError> {
        let read = |row: &Row| {
            let json = row.try_get::<_, Option<String>>(PAYLOAD)?.zip(row.try_get(SCHEDULE_INFO)?);
            json.map(|(payload, info)| schedule(row, payload, info)).transpose()
        };
        let asks: Parameters<'_> = &[(&filter.payload, Type::BOOL), (&filter.schedule_info, Type::BOOL)];
        self.list("list schedules", SCHEDULES, filter, asks, budget, read).await
    }

    /// Enqueues a job and returns its row.
    ///
    /// # Errors
    /// [`AddJobError::Refused`] when a rule of the schema is broken: an empty or too long name, a key of another
    /// tenant.
    pub async fn add_job(&self, new: &NewJob) -> Result<AdminJob, AddJobError> {
        if new.delay.is_some() || new.has_options_of_enqueue() {
            return Err(AddJobError::Refused(
                "the administration knows neither delays, key modes nor actors".to_owned(),
            ));
        }
        let client = self.db.operation().await?;
        let result = async {
            let row = client.query_typed_one(&self.db.sql(ADD), &parameters(new)).await?;
            let payload: Option<String> = row.try_get(PAYLOAD)?;
            payload.map(|payload| job(&row, payload)).transpose()
        };
        let added = client.run("add a job", result).await.map_err(|error| match &error {
            DbError::Query { source, .. } => match refusal(source) {
                Some(reason) => AddJobError::Refused(reason),
                None => AddJobError::Db(error),
            },
            _ => AddJobError::Db(error),
        })?;
        added.ok_or(AddJobError::KeptOut)
    }

    async fn list<T>(
        &self,
        operation: &'static str,
        sql: &str,
        filter: &ListFilter<'_>,
        asks: Parameters<'_>,
        budget: &ReadBudget,
        read: fn(&Row) -> Result<Option<T>, Error>,
    ) -> Result<Option<Vec<T>>, DbError> {
        let most = i64::try_from(budget.left()).unwrap_or(i64::MAX);
        let filter: Parameters<'_> =
            &[(&filter.id, Type::INT8), (&filter.task, Type::TEXT), (&filter.limit, Type::INT8), (&most, Type::INT8)];
        let parameters = [filter, asks].concat();
        // Each query gets a plan for its own filter, and one by id uses the index.
        let rows = self.db.rows_within(operation, &self.db.sql(sql), &parameters, budget, read).await?;
        Ok(rows.and_then(|rows| rows.into_iter().collect()))
    }
}

/// Why the schema's rules refuse a job, when that is what the error says.
fn refusal(error: &Error) -> Option<String> {
    let error = error.as_db_error()?;
    if *error.code() == SqlState::CHARACTER_NOT_IN_REPERTOIRE {
        return Some("a text holds a NUL character".to_owned());
    }
    fault(&Answer::of(error), error.message()).map(|(_, message)| message)
}

/// Where the payload stands, of a job and of a schedule.
const PAYLOAD: usize = 5;
/// Where schedule_info stands.
const SCHEDULE_INFO: usize = 11;

fn job(row: &Row, payload: String) -> Result<AdminJob, Error> {
    Ok(AdminJob {
        id: row.try_get(0)?,
        tenant: row.try_get(1)?,
        actor: row.try_get(2)?,
        queue: row.try_get(3)?,
        task: row.try_get(4)?,
        payload,
        priority: row.try_get(6)?,
        run_at: row.try_get::<_, Instant>(7)?.0,
        attempts: row.try_get(8)?,
        max_attempts: row.try_get(9)?,
        key: row.try_get(10)?,
        last_error: row.try_get(11)?,
        locked_at: row.try_get::<_, Option<Instant>>(12)?.map(|instant| instant.0),
        locked_by: row.try_get(13)?,
        created_at: row.try_get::<_, Instant>(14)?.0,
        updated_at: row.try_get::<_, Instant>(15)?.0,
    })
}

fn schedule(row: &Row, payload: String, schedule_info: String) -> Result<AdminSchedule, Error> {
    Ok(AdminSchedule {
        id: row.try_get(0)?,
        tenant: row.try_get(1)?,
        actor: row.try_get(2)?,
        queue: row.try_get(3)?,
        task: row.try_get(4)?,
        payload,
        priority: row.try_get(6)?,
        max_attempts: row.try_get(7)?,
        key: row.try_get(8)?,
        locked_at: row.try_get::<_, Option<Instant>>(9)?.map(|instant| instant.0),
        locked_by: row.try_get(10)?,
        schedule_info,
        last_scheduled: row.try_get::<_, Option<Instant>>(12)?.map(|instant| instant.0),
        last_scheduled_id: row.try_get(13)?,
        paused_at: row.try_get::<_, Option<Instant>>(14)?.map(|instant| instant.0),
        ended_at: row.try_get::<_, Option<Instant>>(15)?.map(|instant| instant.0),
        last_error: row.try_get(16)?,
    })
}
