//! Release: give jobs back as if they had not been claimed.

use crate::db::{Db, DbError};

const SQL: &str = "SELECT @extschema@.release_claimed_jobs($1, $2)";

impl Db {
    /// Gives back the listed jobs of a worker, or with None all it holds; returns how many. Dropped, it
    /// cancels the release.
    pub(crate) async fn release(&self, worker_id: &str, ids: Option<&[i64]>) -> Result<usize, DbError> {
        let client = self.abandonable().await?;
        let result = client.query(&self.sql(SQL), &[&worker_id, &ids]).await;
        client.done();
        Ok(result.map_err(DbError::query("release"))?.len())
    }
}
