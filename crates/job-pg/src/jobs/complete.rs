//! Complete: remove finished jobs, many in one statement.

use postgres_types::Type;

use crate::connection::Db;
use crate::connection::statement::Parameters;
use crate::error::DbError;

const SQL: &str = "SELECT @internal@.complete_held_jobs($1, $2, $3)";

/// The same, when the database is told what some of the attempts took.
const MEASURED: &str = "SELECT @internal@.complete_held_jobs($1, $2, $3) \
                        FROM (SELECT pg_catalog.set_config('jobs.run_times', $4, true)) AS measured";

const HELD_ELSEWHERE: &str = "SELECT @internal@.jobs_held_elsewhere($1, $2)";

impl Db {
    /// Removes the jobs that these workers hold, by the claims with these epochs; returns the positions, from 1, of
    /// those it did not: they are gone or claimed anew. `run_times`: what attempts took, in seconds by the
    /// id of the job, as a JSON object.
    pub(crate) async fn complete(
        &self,
        ids: &[i64],
        workers: &[&str],
        epochs: &[Option<i64>],
        run_times: Option<&str>,
    ) -> Result<Vec<i32>, DbError> {
        let client = self.operation().await?;
        let result = async {
            let parameters: Parameters<'_> = &[
                (&ids, Type::INT8_ARRAY),
                (&workers, Type::TEXT_ARRAY),
                (&epochs, Type::INT8_ARRAY),
                (&run_times, Type::TEXT),
            ];
            let (sql, parameters) = if run_times.is_some() { (MEASURED, parameters) } else { (SQL, &parameters[..3]) };
            self.row(&client, sql, parameters).await?.try_get(0)
        };
        client.run("complete", result).await
    }

    /// The positions, from 1, of the claims whose jobs another transaction holds at this moment. It waits for none.
    pub(crate) async fn held_elsewhere(&self, ids: &[i64], epochs: &[Option<i64>]) -> Result<Vec<i32>, DbError> {
        let client = self.operation().await?;
        let result = async {
            let parameters: Parameters<'_> = &[(&ids, Type::INT8_ARRAY), (&epochs, Type::INT8_ARRAY)];
            self.row(&client, HELD_ELSEWHERE, parameters).await?.try_get(0)
        };
        client.run("look for rows that others hold", result).await
    }
}
