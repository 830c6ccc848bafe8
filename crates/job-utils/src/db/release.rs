//! Release: give jobs back as if they had not been claimed.

use uuid::Uuid;

use crate::db::{Db, DbError};

const SQL: &str = "SELECT @extschema@.release_held_jobs($1, $2, $3)";

/// Everything but what functions have accepted, and then the registration.
const LEAVE: &str = "WITH released AS MATERIALIZED (SELECT @extschema@.release_held_jobs($1, NULL, NULL)), \
                     counted AS MATERIALIZED (SELECT count(*) AS jobs FROM released) \
                     SELECT c.jobs, @extschema@.forget_worker($1) FROM counted c";

impl Db {
    /// Gives back the listed claims of an instance, as job id and epoch; returns how many. Dropped, it cancels the release.
    pub(crate) async fn release(&self, instance: Uuid, claims: &[(i64, i64)]) -> Result<usize, DbError> {
        let client = self.abandonable().await?;
        let (ids, epochs): (Vec<i64>, Vec<i64>) = claims.iter().copied().unzip();
        let result = client.query(&self.sql(SQL), &[&instance, &ids, &epochs]).await;
        client.done();
        Ok(result.map_err(DbError::query("release"))?.len())
    }

    /// Ends an instance: gives back all it holds but what functions have accepted, and removes its registration. Returns how
    /// many jobs it gave back. Dropped, it cancels the release.
    pub(crate) async fn leave(&self, instance: Uuid) -> Result<usize, DbError> {
        let client = self.abandonable().await?;
        let result = client.query_one(&self.sql(LEAVE), &[&instance]).await.and_then(|row| row.try_get::<_, i64>(0));
        client.done();
        Ok(usize::try_from(result.map_err(DbError::query("release"))?).unwrap_or_default())
    }
}
