//! Fail: end attempts that went wrong, many in one statement, and those that nobody ended.

use std::time::Duration;

use crate::db::{Db, DbError};

const SQL: &str = "SELECT job_id, worker_id FROM @extschema@.fail_claimed_jobs($1, $2, $3)";

/// A row that somebody holds is left for the next time.
const OVERDUE: &str = "WITH overdue AS MATERIALIZED (SELECT j.id FROM @extschema@.jobs j \
                       WHERE j.locked_at IS NOT NULL AND j.locked_at < now() - make_interval(secs => $2) \
                       AND j.locked_by = $1 AND j.id <> ALL ($4) FOR UPDATE SKIP LOCKED) \
                       SELECT (@extschema@.fail_job($1, o.id, $3)).id FROM overdue o";

impl Db {
    /// Fails the attempts that these workers hold, each with its message; returns those it failed.
    pub(crate) async fn fail(
        &self,
        ids: &[i64],
        workers: &[&str],
        messages: &[&str],
    ) -> Result<Vec<(i64, String)>, DbError> {
        let client = self.connection().await?;
        let result = async {
            let statement = client.prepare_cached(&self.sql(SQL)).await?;
            let rows = client.query(&statement, &[&ids, &workers, &messages]).await?;
            rows.iter()
                .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
                .collect::<Result<Vec<_>, tokio_postgres::Error>>()
        };
        result.await.map_err(DbError::query("fail"))
    }

    /// Fails the jobs that a worker has held for longer than `limit`, except those `in_flight`: a function has accepted
    /// them and never called back. Returns their ids.
    pub(crate) async fn fail_overdue(
        &self,
        worker_id: &str,
        limit: Duration,
        message: &str,
        in_flight: &[i64],
    ) -> Result<Vec<i64>, DbError> {
        let client = self.connection().await?;
        let result = async {
            let statement = client.prepare_cached(&self.sql(OVERDUE)).await?;
            let rows = client.query(&statement, &[&worker_id, &limit.as_secs_f64(), &message, &in_flight]).await?;
            rows.iter()
                .map(|row| row.try_get::<_, Option<i64>>(0))
                .filter_map(Result::transpose)
                .collect::<Result<Vec<_>, _>>()
        };
        result.await.map_err(DbError::query("fail overdue jobs"))
    }
}
