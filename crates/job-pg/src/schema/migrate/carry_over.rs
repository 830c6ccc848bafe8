//! Schemas of before the first release: the last one is carried over, and others are recognised.

use tokio_postgres::Transaction;

use super::{MigrateError, unapplied};
use crate::config::SchemaName;

/// The second migration of the history before the first release, by which a schema of that is known.
const UNRELEASED: (i32, &str) = (2, "enqueue");

/// Its last migration, after which a schema has what V1 makes.
const LAST_UNRELEASED: i32 = 25;

/// Since which version of the functions the internal ones have a schema of their own.
pub(crate) const INTERNAL_SINCE: i32 = 8;

/// Makes the list of functions of a schema of [`LAST_UNRELEASED`].
const CARRY_OVER: &str = include_str!("../../../migrations/carry_over.sql");

/// The migrations in the history, in order.
const APPLIED: &str = "SELECT version, name FROM @extschema@.schema_history ORDER BY version";

/// Who has given a sign of life within its lease. One from the future is of before the clock was set back.
pub(crate) const ALIVE: &str = "SELECT string_agg(DISTINCT p.id, ', ' ORDER BY p.id) FROM (\
    SELECT w.worker_id AS id, w.heartbeat_at, w.lease FROM @extschema@.workers w UNION ALL \
    SELECT s.scheduler_id, s.heartbeat_at, s.lease FROM @extschema@.schedulers s) p \
    WHERE p.heartbeat_at BETWEEN clock_timestamp() - p.lease AND clock_timestamp() + p.lease";

/// Takes a schema of the history before the first release for one that V1 has made, which it equals but for its
/// functions. Whether it is one.
pub(super) async fn begin_carry_over(transaction: &Transaction<'_>, schema: &SchemaName) -> Result<bool, MigrateError> {
    let rows = transaction.query(&schema.apply(APPLIED), &[]).await?;
    let history: Vec<(i32, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let is_unreleased = |(version, name): &(i32, String)| (*version, name.as_str()) == UNRELEASED;
    let Some((version, name)) = history.last().filter(|_| history.iter().any(is_unreleased)).cloned() else {
        return Ok(false);
    };
    if version != LAST_UNRELEASED {
        return Err(MigrateError::Unreleased { schema: schema.to_string(), version, name });
    }
    refuse_beside_old_programs(transaction, schema).await?;
    transaction.batch_execute(&schema.apply("DELETE FROM @extschema@.schema_history")).await?;
    for first in unapplied(schema)?.iter().take(1) {
        let history = "INSERT INTO @extschema@.schema_history (version, name, applied_on, checksum) \
            SELECT $1, $2, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), $3";
        let checksum = first.checksum().to_string();
        transaction.execute(&schema.apply(history), &[&first.version(), &first.name(), &checksum]).await?;
    }
    Ok(true)
}

/// Lists the functions of such a schema, once there is the table for that.
pub(super) async fn end_carry_over(
    transaction: &Transaction<'_>,
    schema: &SchemaName,
) -> Result<(), tokio_postgres::Error> {
    transaction.batch_execute(&schema.apply(CARRY_OVER)).await
}

/// Programs of before [`INTERNAL_SINCE`] call functions that are about to be dropped. They would neither end nor take
/// a job any more, and look alive: so none may be left. A lease ends, and with it what was killed.
pub(super) async fn refuse_beside_old_programs(
    transaction: &Transaction<'_>,
    schema: &SchemaName,
) -> Result<(), MigrateError> {
    let alive: Option<String> = transaction.query_one(&schema.apply(ALIVE), &[]).await?.get(0);
    match alive {
        Some(programs) => Err(MigrateError::OldPrograms { schema: schema.to_string(), programs }),
        None => Ok(()),
    }
}
