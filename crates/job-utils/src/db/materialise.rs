//! Materialise: make the jobs of schedules that fire.

use postgres_types::Type;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use crate::db::error::is_transient_state;
use crate::db::{DbError, SchedulerDb};

const SQL: &str = "SELECT job_id, sql_state, message FROM @extschema@.materialise_scheduled_jobs($1)";
const OPERATION: &str = "materialise";

/// SQLSTATE of run_scheduled_job's ALREADY_SCHEDULED.
const ALREADY_SCHEDULED: &str = "JB002";

/// What a fire made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Materialised {
    /// A job with this id.
    Job(i64),
    /// Nothing: the previous job still waits or runs.
    AlreadyScheduled,
    /// Nothing: the schedule no longer exists.
    Gone,
    /// Nothing: another transaction holds a row that is needed.
    Blocked,
    /// Nothing: Postgres refuses.
    Refused {
        /// Whether the same call may succeed a little later.
        transient: bool,
        /// SQLSTATE.
        state: String,
        /// Why.
        message: String,
    },
}

impl Materialised {
    fn from_row(row: &Row) -> Result<Self, tokio_postgres::Error> {
        let (job, state): (Option<i64>, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
        Ok(match (job, state) {
            (Some(job), _) => Self::Job(job),
            (None, None) => Self::Gone,
            (None, Some(state)) if state == ALREADY_SCHEDULED => Self::AlreadyScheduled,
            (None, Some(state)) if state == SqlState::LOCK_NOT_AVAILABLE.code() => Self::Blocked,
            (None, Some(state)) => {
                let transient = is_transient_state(&SqlState::from_code(&state));
                Self::Refused { transient, state, message: row.try_get::<_, Option<String>>(2)?.unwrap_or_default() }
            }
        })
    }
}

impl SchedulerDb {
    /// Makes a job from each schedule, in one transaction. What one makes does not depend on the others, but the first
    /// that is blocked is the last that is tried: the answer has, in the order given, those that were.
    ///
    /// # Errors
    /// With Postgres's own answer, or without a connection, no job was made; when the connection broke, perhaps all.
    pub async fn materialise(&self, schedules: &[i64]) -> Result<Vec<Materialised>, DbError> {
        let client = self.db.operation().await?;
        let result = async {
            let rows = self.db.rows(&client, SQL, &[(&schedules, Type::INT8_ARRAY)]).await?;
            rows.iter().map(Materialised::from_row).collect::<Result<Vec<_>, _>>()
        };
        client.run(OPERATION, result).await
    }
}
