//! Materialise: make the job of a schedule that fires.

use crate::db::{DbError, SchedulerDb};

const SQL: &str = "SELECT id FROM @extschema@.materialise_scheduled_job($1)";

/// SQLSTATE of run_scheduled_job's ALREADY_SCHEDULED.
const ALREADY_SCHEDULED: &str = "JB002";

/// What a fire made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Materialised {
    /// A job with this id.
    Job(i64),
    /// Nothing: the previous job still waits or runs.
    AlreadyScheduled,
    /// Nothing: the schedule no longer exists.
    Gone,
}

impl SchedulerDb {
    /// Makes one job from a schedule.
    pub async fn materialise(&self, schedule_id: i64) -> Result<Materialised, DbError> {
        let client = self.db.connection().await?;
        let result = async {
            let statement = client.prepare_cached(&self.db.sql(SQL)).await?;
            client.query_one(&statement, &[&schedule_id]).await?.try_get::<_, Option<i64>>(0)
        };
        match result.await.map_err(DbError::query("materialise")) {
            Ok(Some(job)) => Ok(Materialised::Job(job)),
            Ok(None) => Ok(Materialised::Gone),
            Err(error) if error.sql_state().is_some_and(|state| state.code() == ALREADY_SCHEDULED) => {
                Ok(Materialised::AlreadyScheduled)
            }
            Err(error) => Err(error),
        }
    }
}
