//! Enqueue: put a job into the queue, in the caller's own connection or transaction.

use jiff::Timestamp;
use postgres_types::ToSql;
use serde_json::Value;
use tokio_postgres::GenericClient;
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

const SQL: &str = concat!("SELECT id FROM ", add_job_call!());

/// A job to enqueue. What is None gets add_job's default.
///
/// ```
/// use job_utils::db::NewJob;
/// let job = NewJob { queue_name: Some("mail".into()), ..NewJob::new("email:send_email", &serde_json::json!({"to": "a@b.c"})) };
/// assert_eq!(job.payload, r#"{"to":"a@b.c"}"#);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewJob {
    /// The tenant's database; None: from the setting `jwt.claims.database_id`, if any.
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

    pub(crate) fn parameters(&self) -> [&(dyn ToSql + Sync); 8] {
        [
            &self.database_id,
            &self.task_identifier,
            &self.payload,
            &self.key,
            &self.queue_name,
            &self.run_at,
            &self.max_attempts,
            &self.priority,
        ]
    }
}

/// Enqueues a job and returns its id. `client` is a connection, or a transaction: then the job exists when, and only
/// when, the transaction commits.
///
/// # Errors
/// What add_job refuses: an empty task, a payload that is not JSON, a key in use under another database.
pub async fn enqueue<C: GenericClient>(client: &C, schema: &SchemaName, job: &NewJob) -> Result<i64, DbError> {
    let sql = schema.apply(SQL);
    let row = client.query_one(&sql, &job.parameters()).await.map_err(DbError::query("enqueue"))?;
    Ok(row.get(0))
}
