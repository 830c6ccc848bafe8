//! For the tests of applications: what has been enqueued, and a clock that can be moved.
//!
//! ```no_run
//! # #[derive(Debug, serde::Serialize, serde::Deserialize)] struct SendReceipt { order: i64 }
//! # impl job_utils::task::Task for SendReceipt { const IDENTIFIER: &'static str = "receipt:send"; }
//! use job_pg::{Db, testing};
//!
//! # async fn example(db: &Db) -> Result<(), Box<dyn std::error::Error>> {
//! // … the code under test …
//! let receipts = testing::enqueued::<SendReceipt>(db).await?;
//! assert_eq!(receipts[0].payload.order, 42);
//! // It waits for an hour; let that pass.
//! testing::advance(db, std::time::Duration::from_secs(3600)).await?;
//! # Ok(())
//! # }
//! ```

use std::time::Duration;

use jiff::Timestamp;
use postgres_types::Type;
use uuid::Uuid;

use crate::connection::Db;
use crate::error::DbError;
use crate::jobs::columns::{Instant, RawJson};
use crate::jobs::enqueue::{EnqueueClient, Row};
use crate::schema::migrate::migrate;
use job_utils::error::chain;
use job_utils::task::Task;

const ENQUEUED: &str = "SELECT id, payload, queue_name, key, priority, run_at, attempts, max_attempts, last_error, database_id, \
                        actor_id FROM @extschema@.jobs WHERE task_identifier = $1 ORDER BY id";

/// What runs, or has failed for good, has no time to come.
const ADVANCE: &str = "UPDATE @extschema@.jobs SET run_at = run_at - make_interval(secs => $1) \
                       WHERE locked_at IS NULL AND attempts < max_attempts RETURNING 1";

/// The first of a job's gates that is closed, and how the job stands: due, waiting for its time, running, failed. Each
/// gate is its own row's, else that of `*`.
const BLOCKED: &str = "SELECT (\
     SELECT concat_ws(' ', b.kind, nullif(b.name, '')) || b.how FROM (\
         SELECT k.*, CASE \
                WHEN g.paused_at IS NOT NULL AND coalesce(g.paused_until > now(), true) THEN ': paused' \
                WHEN g.closed_until > now() THEN ': closed' \
                WHEN l.running >= coalesce(g.max_running, CASE k.kind WHEN 'queue' THEN 1 END) \
                THEN ': ' || l.running || ' running' \
                WHEN t.full_at > now() + g.per * (g.burst - 1) / g.rate THEN ': no token is left' END AS how \
           FROM (VALUES (1, 'all', ''), (2, 'tenant', j.database_id::text), (3, 'task', j.task_identifier), \
                        (4, 'queue', j.queue_name)) AS k (n, kind, name) \
           LEFT JOIN LATERAL (SELECT o.* FROM @extschema@.gates o WHERE o.kind = k.kind AND o.name IN (k.name, '*') \
                ORDER BY o.name = '*' LIMIT 1) g ON true \
           LEFT JOIN @extschema@.gate_tokens t ON t.kind = k.kind AND t.name = k.name \
          CROSS JOIN LATERAL (SELECT count(*) AS running FROM @extschema@.jobs r WHERE r.locked_at IS NOT NULL \
                AND k.name = CASE k.kind WHEN 'tenant' THEN r.database_id::text WHEN 'task' THEN r.task_identifier \
                                         WHEN 'queue' THEN r.queue_name END) l \
          WHERE k.name IS NOT NULL) b WHERE b.how IS NOT NULL ORDER BY b.n LIMIT 1), \
     CASE WHEN j.locked_at IS NOT NULL THEN 'it runs' WHEN j.attempts >= j.max_attempts THEN 'it has failed for good' \
          WHEN j.run_at > now() THEN 'it waits for its time' END \
     FROM @extschema@.jobs j WHERE j.id = $1";

/// A job as it is in the queue: waiting, running, or failed for good.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "named as the options of a job")]
pub struct InQueue<T> {
    pub id: i64,
    pub payload: T,
    pub queue: Option<String>,
    pub key: Option<String>,
    pub priority: i32,
    pub run_at: Timestamp,
    pub attempts: i32,
    pub max_attempts: i32,
    pub last_error: Option<String>,
    pub tenant: Option<Uuid>,
    pub actor: Option<Uuid>,
}

/// The jobs of a type that are in the queue, oldest first; in a transaction also those that it has not committed yet. A
/// job that is done is in it no more.
///
/// # Errors
/// The database does not answer, or a payload is not of the type: the message says so.
pub async fn enqueued<T: Task>(mut client: impl EnqueueClient) -> Result<Vec<InQueue<T>>, TestingError> {
    let sql = client.schema().apply(ENQUEUED);
    let rows = client.rows("read enqueued jobs", &sql, &[(&T::IDENTIFIER, Type::TEXT)]).await?;
    let mut jobs = Vec::with_capacity(rows.len());
    for row in &rows {
        let job = in_queue(row)?;
        let payload = serde_json::from_str(&job.payload);
        jobs.push(job.with(payload.map_err(|source| TestingError::Payload { id: job.id, source })?));
    }
    Ok(jobs)
}

impl InQueue<String> {
    fn with<T>(&self, payload: T) -> InQueue<T> {
        let Self { id, queue, key, priority, run_at, attempts, max_attempts, last_error, tenant, actor, .. } =
            self.clone();
        InQueue { id, payload, queue, key, priority, run_at, attempts, max_attempts, last_error, tenant, actor }
    }
}

/// With the payload as JSON text.
fn in_queue(row: &Row) -> Result<InQueue<String>, DbError> {
    const OPERATION: &str = "read enqueued jobs";
    Ok(InQueue {
        id: row.get(0, OPERATION)?,
        payload: row.get::<RawJson>(1, OPERATION)?.0,
        queue: row.get(2, OPERATION)?,
        key: row.get(3, OPERATION)?,
        priority: row.get(4, OPERATION)?,
        run_at: row.get::<Instant>(5, OPERATION)?.0,
        attempts: row.get(6, OPERATION)?,
        max_attempts: row.get(7, OPERATION)?,
        last_error: row.get(8, OPERATION)?,
        tenant: row.get(9, OPERATION)?,
        actor: row.get(10, OPERATION)?,
    })
}

/// Fails the test unless a job of the type is in the queue that meets the condition; returns the first.
///
/// # Panics
/// There is none. The message shows those that are there.
#[allow(clippy::panic, reason = "it fails a test")]
pub async fn assert_enqueued<T: Task + std::fmt::Debug>(
    client: impl EnqueueClient,
    condition: impl Fn(&InQueue<T>) -> bool,
) -> InQueue<T> {
    let mut jobs = match enqueued::<T>(client).await {
        Ok(jobs) => jobs,
        Err(error) => panic!("cannot read the jobs of {}: {}", T::IDENTIFIER, chain(&error)),
    };
    match jobs.iter().position(condition) {
        Some(found) => jobs.swap_remove(found),
        None => panic!("no such job of {} is enqueued, but these: {jobs:#?}", T::IDENTIFIER),
    }
}

/// Lets time pass for every job that waits, as far as the queue can tell: what was to run within this time is due.
/// Returns how many jobs wait.
///
/// Nothing else gets older: the database's clock and the application's go on as they do, timestamps in payloads and in
/// other tables stay, and schedules fire when they would.
///
/// # Errors
/// The database does not answer.
pub async fn advance(mut client: impl EnqueueClient, time: Duration) -> Result<usize, DbError> {
    let sql = client.schema().apply(ADVANCE);
    Ok(client.rows("advance", &sql, &[(&time.as_secs_f64(), Type::FLOAT8)]).await?.len())
}

/// Waits until a job is blocked: it is due, and a gate keeps it from starting ([`AdminDb`](crate::AdminDb) sets gates).
/// Returns which one, and how: `task mail: paused`, `queue import: 1 running`, `tenant …: no token is left`.
///
/// # Errors
/// [`TestingError::NotBlocked`] when it is not within `limit`, or the database does not answer.
pub async fn blocked(mut client: impl EnqueueClient, id: i64, limit: Duration) -> Result<String, TestingError> {
    let sql = client.schema().apply(BLOCKED);
    let until = tokio::time::Instant::now() + limit;
    loop {
        let rows = client.rows("look for the gates of a job", &sql, &[(&id, Type::INT8)]).await?;
        let found = match rows.first() {
            None => "there is no such job".to_owned(),
            Some(row) => {
                let gate: Option<String> = row.get(0, "look for the gates of a job")?;
                let state: Option<String> = row.get(1, "look for the gates of a job")?;
                match (state, gate) {
                    (None, Some(gate)) => return Ok(gate),
                    (state, _) => state.unwrap_or_else(|| "it is due, and all its gates are open".to_owned()),
                }
            }
        };
        if tokio::time::Instant::now() >= until {
            return Err(TestingError::NotBlocked { id, found });
        }
        tokio::time::sleep(POLL.min(limit)).await;
    }
}

/// How long to wait between two looks.
const POLL: Duration = Duration::from_millis(20);

/// Makes the jobs schema in the database at a URL. With job-testkit this makes a Postgres for a test in one line:
/// `TestDb::from_template("jobs", testing::migrate_url).await`.
///
/// # Errors
/// Why not.
pub async fn migrate_url(url: String) -> Result<(), String> {
    let db = Db::from_url(&url).map_err(|error| chain(&error))?;
    migrate(&db).await.map(drop).map_err(|error| chain(&error))
}

/// What a test could not read.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum TestingError {
    /// A job's payload is not of its type.
    #[error("the payload of job {id} is not of its type")]
    Payload {
        /// The job.
        id: i64,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// A job is not blocked.
    #[error("job {id} is not blocked: {found}")]
    NotBlocked {
        /// The job.
        id: i64,
        /// What it is instead.
        found: String,
    },
    /// The database did not do it.
    #[error(transparent)]
    Db(#[from] DbError),
}

job_utils::debug_as_chain!(TestingError);
