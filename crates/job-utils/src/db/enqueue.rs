//! Enqueue: put jobs into the queue, in the caller's own connection or transaction.

use jiff::Timestamp;
use postgres_types::{ToSql, Type};
use serde_json::Value;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use crate::config::SchemaName;
use crate::db::DbError;

/// The call, with [`NewJob::parameters`]. The form with db_id, which falls back to the transaction's setting.
macro_rules! add_job_call {
    () => {
        "@extschema@.add_job($1::uuid, $2::text, nullif($3::text, '')::json, $4::text, $5::text, $6::timestamptz, \
         $7::int, $8::int)"
    };
}
pub(crate) use add_job_call;

/// The call in the select list: PostgreSQL stores the rows of a function in FROM before it reads them.
const SQL: &str = concat!("SELECT (", add_job_call!(), ").id");

/// The same without a db_id, which the form above would only pass on; with all parameters but the first.
const WITHOUT_DATABASE: &str = "SELECT (@extschema@.add_job($1::text, nullif($2::text, '')::json, $3::text, $4::text, \
                                $5::timestamptz, $6::int, $7::int)).id";

/// A job to enqueue. What is None gets add_job's default.
///
/// ```
/// use job_utils::db::NewJob;
/// let job = NewJob { queue_name: Some("mail".into()), ..NewJob::new("email:send_email", &serde_json::json!({"to": "a@b.c"})) };
/// assert_eq!(job.payload, r#"{"to":"a@b.c"}"#);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewJob {
    /// The tenant's database; None: from the setting `jwt.claims.database_id`, if any. Another than that needs a right,
    /// which `jobs_producer` does not have.
    pub database_id: Option<Uuid>,
    /// Which function does it; 1 to 126 characters.
    pub task_identifier: String,
    /// JSON text; `{}` when empty.
    pub payload: String,
    /// A job that waits under the same key is replaced.
    pub key: Option<String>,
    /// Jobs of one named queue run one at a time, in order.
    pub queue_name: Option<String>,
    /// Not before; None: now.
    pub run_at: Option<Timestamp>,
    /// How many attempts; None: 25.
    pub max_attempts: Option<i32>,
    /// Smaller runs earlier; None: 0.
    pub priority: Option<i32>,
}

impl NewJob {
    /// A job for a task with a payload.
    pub fn new(task_identifier: impl Into<String>, payload: &Value) -> Self {
        Self { task_identifier: task_identifier.into(), payload: payload.to_string(), ..Self::default() }
    }

    /// What the call of add_job takes.
    pub(crate) fn parameters(&self) -> [(&(dyn ToSql + Sync), Type); 8] {
        [
            (&self.database_id, Type::UUID),
            (&self.task_identifier, Type::TEXT),
            (&self.payload, Type::TEXT),
            (&self.key, Type::TEXT),
            (&self.queue_name, Type::TEXT),
            (&self.run_at, Type::TIMESTAMPTZ),
            (&self.max_attempts, Type::INT4),
            (&self.priority, Type::INT4),
        ]
    }
}

/// The call for many. An array of which no element says anything is NULL; a payload's text is checked by its cast.
const MANY: &str = "SELECT * FROM @extschema@.add_jobs($1::text[], $2::text[]::json[], $3::text[], $4::text[], \
                    $5::timestamptz[], $6::int[], $7::int[], $8::uuid[], $9::bigint)";

const MANY_TYPES: [Type; 9] = [
    Type::TEXT_ARRAY,
    Type::TEXT_ARRAY,
    Type::TEXT_ARRAY,
    Type::TEXT_ARRAY,
    Type::TIMESTAMPTZ_ARRAY,
    Type::INT4_ARRAY,
    Type::INT4_ARRAY,
    Type::UUID_ARRAY,
    Type::INT8,
];

/// How many jobs go into one statement. More gain nothing (measured from 500 to 5000: 15 % up to here, 3 % after), and a
/// statement holds its rows in memory on both sides.
const CHUNK_JOBS: usize = 2000;

/// How many bytes of payload go into one statement, unless a single job has more.
const CHUNK_BYTES: usize = 4 << 20;

/// A connection, or a transaction, that can enqueue. Statements are prepared once per connection where the client keeps
/// them (deadpool_postgres), and sent in one round trip, unprepared, where it does not (tokio_postgres).
pub trait EnqueueClient: sealed::Rows + Sync {}

mod sealed {
    use super::{Error, Row, ToSql, Type};

    pub trait Rows {
        fn rows(
            &self,
            sql: &str,
            parameters: &[(&(dyn ToSql + Sync), Type)],
        ) -> impl Future<Output = Result<Vec<Row>, Error>> + Send;
    }
}

macro_rules! unprepared {
    ($($client:ty),*) => {$(
        impl sealed::Rows for $client {
            async fn rows(&self, sql: &str, parameters: &[(&(dyn ToSql + Sync), Type)]) -> Result<Vec<Row>, Error> {
                self.query_typed(sql, parameters).await
            }
        }
        impl EnqueueClient for $client {}
    )*};
}
unprepared!(tokio_postgres::Client, tokio_postgres::Transaction<'_>);

macro_rules! prepared {
    ($($client:ty),*) => {$(
        impl sealed::Rows for $client {
            async fn rows(&self, sql: &str, parameters: &[(&(dyn ToSql + Sync), Type)]) -> Result<Vec<Row>, Error> {
                let types: Vec<Type> = parameters.iter().map(|(_, ty)| ty.clone()).collect();
                let statement = self.prepare_typed_cached(sql, &types).await?;
                let values: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|(value, _)| *value).collect();
                self.query(&statement, &values).await
            }
        }
        impl EnqueueClient for $client {}
    )*};
}
prepared!(deadpool_postgres::Object, deadpool_postgres::ClientWrapper, deadpool_postgres::Transaction<'_>);

/// Enqueues a job and returns its id. `client` is a connection, or a transaction: then the job exists when, and only
/// when, the transaction commits.
///
/// # Errors
/// What add_job refuses: an empty task, a payload that is not JSON, a key in use under another database.
pub async fn enqueue<C: EnqueueClient>(client: &C, schema: &SchemaName, job: &NewJob) -> Result<i64, DbError> {
    let parameters = job.parameters();
    let (sql, parameters) =
        if job.database_id.is_some() { (SQL, &parameters[..]) } else { (WITHOUT_DATABASE, &parameters[1..]) };
    let read = async {
        let rows = client.rows(&schema.apply(sql), parameters).await?;
        // add_job gives one row, or an error: it returns a row and not a set of them.
        rows[0].try_get(0)
    };
    read.await.map_err(DbError::query("enqueue"))
}

/// Enqueues many jobs and returns their ids in the same order; many times faster than one by one.
///
/// Up to 2000 jobs, or 4 MiB of payloads, are one statement, which enqueues all of its jobs or none. On a connection each
/// statement commits by itself, so that an error can leave the jobs of the statements before it; in a transaction it is
/// all of them or none. Two jobs with one key: the last one's values stay, as if enqueued one after the other.
///
/// ```no_run
/// # async fn example(client: &mut tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use job_utils::config::SchemaName;
/// use job_utils::db::{NewJob, enqueue_many};
/// let jobs: Vec<NewJob> =
///     (0..100_000).map(|n| NewJob::new("email:send_email", &serde_json::json!({"user": n}))).collect();
/// let transaction = client.transaction().await?;
/// let ids = enqueue_many(&transaction, &SchemaName::default(), &jobs).await?;
/// transaction.commit().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// What add_job refuses; the message begins with the job's place in `jobs`, counted from 1: `job 17: …`. A payload that
/// is not JSON is refused before that, and the error's context shows it.
pub async fn enqueue_many<C: EnqueueClient>(
    client: &C,
    schema: &SchemaName,
    jobs: &[NewJob],
) -> Result<Vec<i64>, DbError> {
    let sql = schema.apply(MANY);
    let mut ids = Vec::with_capacity(jobs.len());
    let mut rest = jobs;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(chunk_length(rest));
        let first_position = i64::try_from(jobs.len() - rest.len()).unwrap_or(i64::MAX - 1) + 1;
        let columns = Columns::of(chunk);
        let rows =
            client.rows(&sql, &columns.parameters(&first_position)).await.map_err(DbError::query("enqueue many"))?;
        for row in &rows {
            ids.push(row.try_get(0).map_err(DbError::query("enqueue many"))?);
        }
        rest = after;
    }
    Ok(ids)
}

/// How many of the jobs, at least one, make the next statement.
fn chunk_length(jobs: &[NewJob]) -> usize {
    let mut bytes = 0;
    let fitting = jobs.iter().take(CHUNK_JOBS).take_while(|job| {
        bytes += job.payload.len();
        bytes <= CHUNK_BYTES
    });
    fitting.count().max(1)
}

/// The jobs of one statement, a column each; None where no job says anything.
struct Columns<'a> {
    identifiers: Vec<&'a str>,
    payloads: Vec<Option<&'a str>>,
    keys: Option<Vec<Option<&'a str>>>,
    queue_names: Option<Vec<Option<&'a str>>>,
    run_ats: Option<Vec<Option<Timestamp>>>,
    max_attempts: Option<Vec<Option<i32>>>,
    priorities: Option<Vec<Option<i32>>>,
    database_ids: Option<Vec<Option<Uuid>>>,
}

impl<'a> Columns<'a> {
    fn of(jobs: &'a [NewJob]) -> Self {
        fn column<'a, T>(jobs: &'a [NewJob], value: impl Fn(&'a NewJob) -> Option<T>) -> Option<Vec<Option<T>>> {
            jobs.iter().any(|job| value(job).is_some()).then(|| jobs.iter().map(value).collect())
        }
        Self {
            identifiers: jobs.iter().map(|job| job.task_identifier.as_str()).collect(),
            payloads: jobs.iter().map(|job| (!job.payload.is_empty()).then_some(job.payload.as_str())).collect(),
            keys: column(jobs, |job| job.key.as_deref()),
            queue_names: column(jobs, |job| job.queue_name.as_deref()),
            run_ats: column(jobs, |job| job.run_at),
            max_attempts: column(jobs, |job| job.max_attempts),
            priorities: column(jobs, |job| job.priority),
            database_ids: column(jobs, |job| job.database_id),
        }
    }

    fn parameters<'b>(&'b self, first_position: &'b i64) -> Vec<(&'b (dyn ToSql + Sync), Type)> {
        let values: [&(dyn ToSql + Sync); 9] = [
            &self.identifiers,
            &self.payloads,
            &self.keys,
            &self.queue_names,
            &self.run_ats,
            &self.max_attempts,
            &self.priorities,
            &self.database_ids,
            first_position,
        ];
        values.into_iter().zip(MANY_TYPES).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_takes_jobs_up_to_a_number_and_a_size_and_at_least_one() {
        let job = |bytes: usize| NewJob { payload: "x".repeat(bytes), ..NewJob::default() };
        assert_eq!(chunk_length(&vec![job(2); 2001]), 2000);
        assert_eq!(chunk_length(&vec![job(1 << 20); 6]), 4);
        assert_eq!(chunk_length(&[job(5 << 20), job(1)]), 1);
        assert_eq!(chunk_length(&[job(1), job(5 << 20)]), 1);
    }
}
