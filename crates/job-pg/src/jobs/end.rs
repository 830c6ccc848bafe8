//! End: attempts after which the job stays (Retry, Discard, Snooze, Release), many in one statement.

use postgres_types::Type;

use crate::connection::Db;
use crate::connection::statement::Parameters;
use crate::error::DbError;
use job_utils::outcome::storable;

const SQL: &str = "SELECT @internal@.end_held_jobs($1, $2, $3, $4, $5, $6, $7)";

/// The same, when the database is told what some of the attempts took.
const MEASURED: &str = "SELECT @internal@.end_held_jobs($1, $2, $3, $4, $5, $6, $7) \
                        FROM (SELECT pg_catalog.set_config('jobs.run_times', $8, true)) AS measured";

/// How attempts ended after which the job stays: one element of each for every attempt.
#[derive(Debug, Default)]
pub(crate) struct Endings<'a> {
    /// For `last_error`; None leaves it.
    pub(crate) messages: Vec<Option<&'a str>>,
    /// Seconds until the next attempt; None: the usual ones.
    pub(crate) delays: Vec<Option<f64>>,
    /// Whether the attempt counts as one.
    pub(crate) counted: Vec<bool>,
    /// Whether no attempt follows.
    pub(crate) discarded: Vec<bool>,
}

impl Db {
    /// Ends the attempts that these workers hold, by the claims with these epochs; returns the positions, from 1, of
    /// those it did not: they are gone or claimed anew.
    pub(crate) async fn end(
        &self,
        ids: &[i64],
        workers: &[&str],
        epochs: &[Option<i64>],
        endings: &Endings<'_>,
        run_times: Option<&str>,
    ) -> Result<Vec<i32>, DbError> {
        let client = self.operation().await?;
        let Endings { messages, delays, counted, discarded } = endings;
        // Whoever made them: one text that Postgres refuses would keep the others from being stored.
        let messages: Vec<Option<String>> = messages.iter().map(|message| message.map(storable)).collect();
        let result = async {
            let parameters: Parameters<'_> = &[
                (&ids, Type::INT8_ARRAY),
                (&workers, Type::TEXT_ARRAY),
                (&epochs, Type::INT8_ARRAY),
                (&messages, Type::TEXT_ARRAY),
                (delays, Type::FLOAT8_ARRAY),
                (counted, Type::BOOL_ARRAY),
                (discarded, Type::BOOL_ARRAY),
                (&run_times, Type::TEXT),
            ];
            let (sql, parameters) = if run_times.is_some() { (MEASURED, parameters) } else { (SQL, &parameters[..7]) };
            self.row(&client, sql, parameters).await?.try_get(0)
        };
        client.run("end", result).await
    }
}
