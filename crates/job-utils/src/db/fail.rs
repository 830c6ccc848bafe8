//! Fail: end attempts that went wrong, many in one statement, and those that nobody ended.

use std::time::Duration;

use crate::db::{Db, DbError};

const SQL: &str = "SELECT @extschema@.fail_held_jobs($1, $2, $3)";

/// A row that somebody holds is left for the next time.
const OVERDUE: &str = "WITH overdue AS MATERIALIZED (SELECT j.id FROM @extschema@.jobs j \
                       WHERE j.locked_at IS NOT NULL AND j.locked_at < now() - make_interval(secs => $2) \
                       AND j.locked_by = $1 AND j.id <> ALL ($4) FOR UPDATE SKIP LOCKED) \
                       , failed AS MATERIALIZED (SELECT (@extschema@.fail_job($1, o.id, $3)).id FROM overdue o) \
                       SELECT array(SELECT f.id FROM failed f WHERE f.id IS NOT NULL), \
                       (SELECT count(*) FROM @extschema@.jobs j \
                       WHERE j.locked_at IS NOT NULL AND j.locked_by = $1 AND j.id <> ALL ($4))";

impl Db {
    /// Fails the attempts that these workers hold, each with its message; returns the positions, from 1, of those it did not:
    /// they are gone or held by somebody else.
    pub(crate) async fn fail(&self, ids: &[i64], workers: &[&str], messages: &[&str]) -> Result<Vec<i32>, DbError> {
        let client = self.connection().await?;
        let result = async {
            let statement = client.prepare_cached(&self.sql(SQL)).await?;
            client.query_one(&statement, &[&ids, &workers, &messages]).await?.try_get(0)
        };
        result.await.map_err(DbError::query("fail"))
    }

    /// Fails the jobs that a worker has held for longer than `limit`, except those `in_flight`: a function has accepted
    /// them and never called back. Returns their ids, and how many jobs the worker still holds besides those in flight.
    pub(crate) async fn fail_overdue(
        &self,
        worker_id: &str,
        limit: Duration,
        message: &str,
        in_flight: &[i64],
    ) -> Result<(Vec<i64>, usize), DbError> {
        let client = self.connection().await?;
        let result = async {
            let statement = client.prepare_cached(&self.sql(OVERDUE)).await?;
            let row = client.query_one(&statement, &[&worker_id, &limit.as_secs_f64(), &message, &in_flight]).await?;
            let failed: Vec<i64> = row.try_get(0)?;
            // Counted in the statement's snapshot, in which those failed just now are still held.
            let held: i64 = row.try_get(1)?;
            let held = usize::try_from(held).unwrap_or_default().saturating_sub(failed.len());
            Ok((failed, held))
        };
        result.await.map_err(DbError::query("fail overdue jobs"))
    }
}
