//! Release: give jobs back as if they had not been claimed.

use postgres_types::Type;
use uuid::Uuid;

use crate::connection::Db;
use crate::connection::statement::Parameters;
use crate::error::DbError;

const SQL: &str = "SELECT @internal@.release_held_jobs($1, $2, $3)";

/// Everything but what functions have, and then the registration.
const LEAVE: &str = "WITH released AS MATERIALIZED (SELECT pg_catalog.cardinality(@internal@.interrupt_jobs($1, NULL)) AS jobs) \
                     SELECT r.jobs, @internal@.forget_worker($1) FROM released r";

impl Db {
    /// Gives back the listed claims of an instance, as job id and epoch; returns how many. Dropped, it cancels the
    /// release.
    pub(crate) async fn release(&self, instance: Uuid, claims: &[(i64, i64)]) -> Result<usize, DbError> {
        let client = self.operation().await?;
        let (ids, epochs): (Vec<i64>, Vec<i64>) = claims.iter().copied().unzip();
        let sql = self.sql(SQL);
        let parameters: Parameters<'_> =
            &[(&instance, Type::UUID), (&ids, Type::INT8_ARRAY), (&epochs, Type::INT8_ARRAY)];
        Ok(client.run("release", client.query_typed(&sql, parameters)).await?.len())
    }

    /// Ends an instance: gives back all it holds but what functions have, and removes its registration; a row that
    /// somebody holds at this moment is left, and the registration with it. Returns how many jobs it gave back, and
    /// whether the registration is gone. Dropped, it cancels the release.
    pub(crate) async fn leave(&self, instance: Uuid) -> Result<(usize, bool), DbError> {
        let client = self.operation().await?;
        let sql = self.sql(LEAVE);
        let result = async {
            let row = client.query_typed_one(&sql, &[(&instance, Type::UUID)]).await?;
            Ok((row.try_get::<_, i32>(0)?, row.try_get(1)?))
        };
        let (released, gone) = client.run("release", result).await?;
        Ok((usize::try_from(released).unwrap_or_default(), gone))
    }
}
