//! Complete: remove finished jobs, many in one statement.

use crate::db::{Db, DbError};

const SQL: &str = "SELECT job_id, worker_id FROM @extschema@.complete_claimed_jobs($1, $2)";

impl Db {
    /// Removes the jobs that these workers hold; returns those it removed. The others are gone or held by somebody else.
    pub(crate) async fn complete(&self, ids: &[i64], workers: &[&str]) -> Result<Vec<(i64, String)>, DbError> {
        let client = self.connection().await?;
        let result = async {
            let statement = client.prepare_cached(&self.sql(SQL)).await?;
            let rows = client.query(&statement, &[&ids, &workers]).await?;
            rows.iter()
                .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
                .collect::<Result<Vec<_>, tokio_postgres::Error>>()
        };
        result.await.map_err(DbError::query("complete"))
    }
}
