//! Accept: a function has taken a job and will call back; and extend: it needs more time for that.

use std::time::Duration;

use postgres_types::Type;
use uuid::Uuid;

use crate::connection::Db;
use crate::connection::statement::Parameters;
use crate::error::DbError;

const SQL: &str = "SELECT @internal@.accept_held_jobs($1, $2, make_interval(secs => $3))";

const EXTEND: &str = "SELECT @internal@.extend_job($1, $2, $3, make_interval(secs => $4))";

const ACCEPTED: &str = "SELECT count(*) FROM @extschema@.jobs \
                        WHERE locked_at IS NOT NULL AND instance = $1 AND deadline IS NOT NULL";

impl Db {
    /// Sets until when callbacks may come for these claims, as job id and epoch. Returns the ids of claims that stand
    /// and could not be changed at this moment.
    pub(crate) async fn accept(&self, claims: &[(i64, i64)], callback_timeout: Duration) -> Result<Vec<i64>, DbError> {
        let client = self.operation().await?;
        let (ids, epochs): (Vec<i64>, Vec<i64>) = claims.iter().copied().unzip();
        let result = async {
            let timeout = callback_timeout.as_secs_f64();
            let parameters: Parameters<'_> =
                &[(&ids, Type::INT8_ARRAY), (&epochs, Type::INT8_ARRAY), (&timeout, Type::FLOAT8)];
            let rows = self.rows(&client, SQL, parameters).await?;
            rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<_>, _>>()
        };
        client.run("accept", result).await
    }

    /// Lets the callback of a claim come until `extension` from now at least; false, and nothing changed, when that
    /// claim does not stand. Without an epoch: whatever claim of the job the worker holds. Dropped, it cancels the
    /// statement.
    pub(crate) async fn extend(
        &self,
        worker_id: &str,
        job_id: i64,
        epoch: Option<i64>,
        extension: Duration,
    ) -> Result<bool, DbError> {
        let client = self.operation().await?;
        let (sql, extension) = (self.sql(EXTEND), extension.as_secs_f64());
        let parameters: Parameters<'_> =
            &[(&worker_id, Type::TEXT), (&job_id, Type::INT8), (&epoch, Type::INT8), (&extension, Type::FLOAT8)];
        let result = async { client.query_typed_one(&sql, parameters).await?.try_get(0) };
        client.run("extend", result).await
    }

    /// How many jobs of an instance functions have, by what is stored.
    pub(crate) async fn accepted(&self, instance: Uuid) -> Result<i64, DbError> {
        let client = self.operation().await?;
        let sql = self.sql(ACCEPTED);
        let result = async { client.query_typed_one(&sql, &[(&instance, Type::UUID)]).await?.try_get(0) };
        client.run("count accepted jobs", result).await
    }
}
