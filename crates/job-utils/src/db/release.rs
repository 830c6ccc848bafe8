//! Release: give jobs back as if they had not been claimed.

use crate::db::{Db, DbError};

const SQL: &str = "SELECT @extschema@.release_claimed_jobs($1, $2)";

impl Db {
    /// Gives back the listed jobs of a worker, or with None all it holds; returns how many.
    pub(crate) async fn release(&self, worker_id: &str, ids: Option<&[i64]>) -> Result<usize, DbError> {
        let client = self.connection().await?;
        let rows = client.query(&self.sql(SQL), &[&worker_id, &ids]).await.map_err(DbError::query("release"))?;
        Ok(rows.len())
    }
}
