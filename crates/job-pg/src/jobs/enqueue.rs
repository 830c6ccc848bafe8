//! Enqueue: put jobs into the queue, in the caller's own connection or transaction.

mod client;
mod columns;
mod error;
mod row;
#[cfg(feature = "sqlx")]
mod sqlx;

use postgres_types::{ToSql, Type};

use crate::config::SchemaName;
use crate::error::DbError;
use crate::jobs::KeyMode;
use crate::jobs::new_job::{IntoJob, NewJob};
use columns::{Columns, chunk_length};
pub(crate) use row::Row;

pub use client::EnqueueClient;
pub(crate) use client::sealed::Rows;
pub(crate) use error::fault;
pub use error::{EnqueueError, Field};

/// When to run: an instant, NULL for now, or a delay from now() on.
macro_rules! run_at {
    (at) => {
        "$5::timestamptz"
    };
    (delay) => {
        "now() + make_interval(secs => $5::float8)"
    };
}
pub(crate) use run_at;

/// add_job for a job without a tenant of its own: one function call, one INSERT. The call in the select list:
/// PostgreSQL stores the rows of a function in FROM before it reads them.
macro_rules! plain {
    ($run_at:ident) => {
        concat!(
            "SELECT (@extschema@.add_job($1::text, nullif($2::text, '')::json, $3::text, $4::text, ",
            run_at!($run_at),
            ", $6::int, $7::int)).id"
        )
    };
}

/// The call of the form with a tenant, which is the last parameter. Without one it falls back to the transaction's
/// setting.
macro_rules! add_job_call {
    ($run_at:ident) => {
        concat!(
            "@extschema@.add_job($8::uuid, $1::text, nullif($2::text, '')::json, $3::text, $4::text, ",
            $crate::jobs::enqueue::run_at!($run_at),
            ", $6::int, $7::int)"
        )
    };
}
pub(crate) use add_job_call;

macro_rules! of_tenant {
    ($run_at:ident) => {
        concat!("SELECT (", add_job_call!($run_at), ").id")
    };
}

/// With everything there is.
macro_rules! with_options {
    ($run_at:ident) => {
        concat!(
            "SELECT e.id, e.kept FROM @extschema@.enqueue($1::text, nullif($2::text, '')::json, $3::text, $9::text, $4::text, ",
            run_at!($run_at),
            ", $6::int, $7::int, $8::uuid, $10::uuid) e"
        )
    };
}

/// Instants and delays, in one array.
macro_rules! run_ats {
    () => {
        "CASE WHEN $6::float8[] IS NULL THEN $5::timestamptz[] ELSE ARRAY(\
         SELECT CASE WHEN w.delay IS NULL THEN w.run_at ELSE now() + make_interval(secs => w.delay) END \
         FROM unnest($5::timestamptz[], $6::float8[]) WITH ORDINALITY AS w (run_at, delay, n) ORDER BY w.n) END"
    };
}

/// The call for many. An array of which no element says anything is NULL; a payload's text is checked by its cast.
const MANY: &str = concat!(
    "SELECT * FROM @extschema@.add_jobs($1::text[], $2::text[]::json[], $3::text[], $4::text[], ",
    run_ats!(),
    ", $7::int[], $8::int[], $9::uuid[], $10::bigint)"
);

/// With everything there is.
const MANY_WITH_OPTIONS: &str = concat!(
    "SELECT e.id, e.kept FROM @extschema@.enqueue_all($1::text[], $2::text[]::json[], $3::text[], $11::text[], $4::text[], ",
    run_ats!(),
    ", $7::int[], $8::int[], $9::uuid[], $12::uuid[], $10::bigint) e"
);

/// The statement for one job.
fn statement(job: &NewJob) -> (&'static str, Vec<(&(dyn ToSql + Sync), Type)>) {
    let sql = match (job.has_options_of_enqueue(), job.tenant.is_some(), job.delay.is_some()) {
        (true, _, false) => with_options!(at),
        (true, _, true) => with_options!(delay),
        (false, true, false) => of_tenant!(at),
        (false, true, true) => of_tenant!(delay),
        (false, false, false) => plain!(at),
        (false, false, true) => plain!(delay),
    };
    let mut parameters = parameters(job);
    if job.has_options_of_enqueue() {
        parameters.push((job.key_mode.parameter(), Type::TEXT));
        parameters.push((&job.actor, Type::UUID));
    } else if job.tenant.is_none() {
        parameters.pop();
    }
    (sql, parameters)
}

/// What [`add_job_call`] takes.
pub(crate) fn parameters(job: &NewJob) -> Vec<(&(dyn ToSql + Sync), Type)> {
    vec![
        (&job.task, Type::TEXT),
        (&job.payload, Type::TEXT),
        (&job.key, Type::TEXT),
        (&job.queue, Type::TEXT),
        if job.delay.is_some() { (&job.delay, Type::FLOAT8) } else { (&job.run_at, Type::TIMESTAMPTZ) },
        (&job.max_attempts, Type::INT4),
        (&job.priority, Type::INT4),
        (&job.tenant, Type::UUID),
    ]
}

impl KeyMode {
    /// As a statement's parameter.
    fn parameter(self) -> &'static (dyn ToSql + Sync) {
        match self {
            Self::Replace => &"replace",
            Self::PreserveRunAt => &"preserve_run_at",
            Self::Ignore => &"ignore",
        }
    }
}

/// What became of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Enqueued {
    /// The job's id.
    pub id: i64,
    /// Nothing was enqueued, because another job has the key and [`KeyMode::Ignore`] leaves it: this is its id.
    pub kept: bool,
}

impl Enqueued {
    /// None: a trigger kept the job out.
    fn from_row(row: &Row, operation: &'static str) -> Result<Option<Self>, DbError> {
        let kept = if row.len() > 1 { row.get(1, operation)? } else { false };
        Ok(row.get::<Option<i64>>(0, operation)?.map(|id| Self { id, kept }))
    }
}

/// Enqueues a job: one of a type as it is, or a [`NewJob`] with options. `client` is a pool, a connection, or a
/// transaction: then the job exists when, and only when, the transaction commits.
///
/// ```no_run
/// # use serde::{Deserialize, Serialize};
/// use std::time::Duration;
/// use job_pg::{IntoJob, Task, enqueue};
///
/// #[derive(Serialize, Deserialize)]
/// struct SendReceipt {
///     order: i64,
/// }
///
/// impl Task for SendReceipt {
///     const IDENTIFIER: &'static str = "receipt:send";
/// }
///
/// # async fn example(client: &mut tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let transaction = client.transaction().await?;
/// // … the application's own writes …
/// enqueue(&transaction, SendReceipt { order: 42 }).await?;
/// enqueue(&transaction, SendReceipt { order: 43 }.into_job().delay(Duration::from_secs(60)).key("receipt-43")).await?;
/// transaction.commit().await?;
/// # Ok(())
/// # }
/// ```
///
/// The schema is that of the [`Db`](crate::Db), else `app_jobs`; [`enqueue_in`] takes another. Where `transaction` is a
/// `&mut Transaction` already, as in a handler's own, it is `&*transaction`: the reference itself would be used up by
/// the call.
///
/// # Errors
/// The rules of the schema refuse a field, which the error names; a trigger on the table kept the job out; there is no
/// jobs schema; or the database did not do it.
pub async fn enqueue<C: EnqueueClient>(client: C, job: impl IntoJob + Send) -> Result<Enqueued, EnqueueError> {
    let schema = client.schema();
    enqueue_in(client, &schema, job).await
}

/// [`enqueue`] into a schema that is not `app_jobs`.
///
/// # Errors
/// As there.
pub async fn enqueue_in<C: EnqueueClient>(
    mut client: C,
    schema: &SchemaName,
    job: impl IntoJob + Send,
) -> Result<Enqueued, EnqueueError> {
    let job = job.into_job();
    job.check()?;
    let (sql, parameters) = statement(&job);
    let rows = client.rows("enqueue", &schema.apply(sql), &parameters).await;
    let rows = rows.map_err(|error| EnqueueError::read(error, schema).about(&job))?;
    // Each of these statements gives one row, or an error.
    let enqueued = Enqueued::from_row(&rows[0], "enqueue")?;
    enqueued.ok_or(EnqueueError::KeptOut { positions: Vec::new() })
}

/// Enqueues many jobs and returns what became of them in the same order; many times faster than one by one.
///
/// Up to 2000 jobs, or 4 MiB of payloads, are one statement, which enqueues all of its jobs or none. On a connection
/// each statement commits by itself, so that an error of the database can leave the jobs of the statements before it;
/// in a transaction it is all of them or none. Two jobs with one key: the last one's values stay, as if enqueued one
/// after the other.
///
/// A statement takes its keys, and then its queues, in one order, so that two of them do not deadlock, whatever the
/// orders of their jobs. Several statements in one transaction can: where others enqueue the same keys, pass the jobs
/// in the order of their keys.
///
/// ```no_run
/// # use job_pg::{NewJob, enqueue_many};
/// # async fn example(client: &mut tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let jobs = (0..100_000).map(|n| NewJob::new("email:send_email", &serde_json::json!({"user": n})));
/// let transaction = client.transaction().await?;
/// let enqueued = enqueue_many(&transaction, jobs).await?;
/// transaction.commit().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As those of [`enqueue`], with the job's place among the given ones; what can be refused without asking the database
/// is refused before anything is enqueued.
pub fn enqueue_many<C: EnqueueClient, J: IntoJob>(
    client: C,
    jobs: impl IntoIterator<Item = J>,
) -> impl Future<Output = Result<Vec<Enqueued>, EnqueueError>> + Send {
    let schema = client.schema();
    enqueue_many_in(client, schema, jobs)
}

/// [`enqueue_many`] into a schema that is not `app_jobs`.
///
/// # Errors
/// As there.
pub fn enqueue_many_in<C: EnqueueClient, J: IntoJob>(
    mut client: C,
    schema: SchemaName,
    jobs: impl IntoIterator<Item = J>,
) -> impl Future<Output = Result<Vec<Enqueued>, EnqueueError>> + Send {
    // Here and not in the future, which would have to be kept from threads if the iterator had.
    let jobs: Vec<NewJob> = jobs.into_iter().map(IntoJob::into_job).collect();
    async move {
        for (index, job) in jobs.iter().enumerate() {
            job.check().map_err(|error| error.at(index))?;
        }
        let mut enqueued = Vec::with_capacity(jobs.len());
        let mut kept_out = Vec::new();
        let mut rest = jobs.as_slice();
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(chunk_length(rest));
            let columns = Columns::of(chunk, jobs.len() - rest.len());
            let sql = schema.apply(if columns.have_options_of_enqueue() { MANY_WITH_OPTIONS } else { MANY });
            let rows = client.rows("enqueue many", &sql, &columns.parameters()).await;
            let rows = rows.map_err(|error| EnqueueError::read(error, &schema).about_one_of(&jobs))?;
            let first = jobs.len() - rest.len();
            for (index, row) in rows.iter().enumerate() {
                match Enqueued::from_row(row, "enqueue many")? {
                    Some(job) => enqueued.push(job),
                    None => kept_out.push(first + index),
                }
            }
            rest = after;
        }
        if kept_out.is_empty() { Ok(enqueued) } else { Err(EnqueueError::KeptOut { positions: kept_out }) }
    }
}
