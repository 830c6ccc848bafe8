//! The scheduler's handle: look for schedules, release. Jobs are made by [`materialise`](super::materialise).

use jiff::Timestamp;
use postgres_types::Type;
use tokio_postgres::Row;

use crate::db::statement::Parameters;
use crate::db::{Db, DbError};

/// One statement a look: it claims, or, when there was nothing to claim, says in digests what is held; and last, so that
/// it is fresh, the time. Rows of three kinds: (id, task, info, digest), (block, digest, count), (time).
const LOOK: &str = "WITH claimed AS MATERIALIZED (\
                    SELECT id, task_identifier, schedule_info::text AS info, \
                    hashtextextended(schedule_info::text, id) AS digest \
                    FROM @extschema@.claim_scheduled_jobs($1, $2, $3)) \
                    SELECT id, task_identifier, info, digest, NULL::bigint, NULL::timestamptz FROM claimed UNION ALL \
                    SELECT id >> $4, NULL, NULL, bit_xor(hashtextextended(schedule_info::text, id)), count(*), NULL \
                    FROM @extschema@.scheduled_jobs WHERE locked_by = $1 AND NOT EXISTS (SELECT FROM claimed) \
                    GROUP BY 1 UNION ALL \
                    SELECT NULL, NULL, NULL, NULL, NULL, clock_timestamp()";
const HELD: &str = "SELECT id, task_identifier, schedule_info::text, hashtextextended(schedule_info::text, id) \
                    FROM @extschema@.scheduled_jobs WHERE locked_by = $1 AND id >> $3 = ANY ($2)";
const LOOKING: &str = "look for schedules";
const LOOKING_AT_HELD: &str = "look at held schedules";
const RELEASE: &str = "SELECT @extschema@.release_scheduled_jobs($1, $2)";
const NOW: &str = "SELECT clock_timestamp()";

/// A schedule that a scheduler watches.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ScheduledJob {
    /// The schedule's id.
    pub id: i64,
    /// Which function its jobs are for.
    pub task_identifier: String,
    /// When to fire, in any of the accepted forms: the JSON as it was written. Not parsed here, because Postgres takes
    /// JSON that a parser refuses (1e999, a lone surrogate), and one such row must not hide the others.
    pub schedule_info: String,
    /// Stands for the id and schedule_info: 8 bytes to keep instead of the text.
    pub digest: i64,
}

impl ScheduledJob {
    fn from_row(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            id: row.try_get(0)?,
            task_identifier: row.try_get(1)?,
            schedule_info: row.try_get(2)?,
            digest: row.try_get(3)?,
        })
    }
}

/// Neighbouring ids, 1024 to a block: what is compared with one number, and read again when that differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Block(i64);

impl Block {
    /// Ids in a block, as a power of two.
    const SHIFT: i32 = 10;

    /// The block of a schedule.
    pub fn of(id: i64) -> Self {
        Self(id >> Self::SHIFT)
    }
}

/// How many schedules of a block there are, and their digests xor-ed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest {
    /// How many.
    pub count: i64,
    /// Which.
    pub xor: i64,
}

/// What a look at the schedules found.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// The database's clock, which decides when schedules fire: hosts may disagree.
    pub now: Timestamp,
    /// The schedules claimed; there may be more.
    pub claimed: Vec<ScheduledJob>,
    /// When nothing was claimed: what this scheduler holds.
    pub held: Vec<(Block, Digest)>,
}

/// What a scheduler may do in the database, under its id.
#[derive(Clone)]
pub struct SchedulerDb {
    pub(crate) db: Db,
    scheduler_id: String,
}

impl SchedulerDb {
    /// A handle for the scheduler `scheduler_id`.
    pub fn new(db: Db, scheduler_id: impl Into<String>) -> Self {
        Self { db, scheduler_id: scheduler_id.into() }
    }

    /// The scheduler's id.
    pub fn scheduler_id(&self) -> &str {
        &self.scheduler_id
    }

    /// Claims up to `limit` schedules of `tasks` (None: any) that nobody watches, or says what is held.
    ///
    /// # Errors
    /// Postgres is away or refuses; then schedules may have been claimed all the same.
    pub async fn look(&self, tasks: Option<&[String]>, limit: i32) -> Result<Look, DbError> {
        let parameters: Parameters<'_> = &[
            (&self.scheduler_id, Type::TEXT),
            (&tasks, Type::TEXT_ARRAY),
            (&limit, Type::INT4),
            (&Block::SHIFT, Type::INT4),
        ];
        let rows = self.rows(LOOKING, LOOK, parameters).await?;
        let read = || -> Result<Look, tokio_postgres::Error> {
            let mut look = Look { now: Timestamp::UNIX_EPOCH, claimed: Vec::new(), held: Vec::new() };
            for row in &rows {
                if let Some(now) = row.try_get(5)? {
                    look.now = now;
                } else if let Some(count) = row.try_get(4)? {
                    look.held.push((Block(row.try_get(0)?), Digest { count, xor: row.try_get(3)? }));
                } else {
                    look.claimed.push(ScheduledJob::from_row(row)?);
                }
            }
            Ok(look)
        };
        read().map_err(DbError::query(LOOKING))
    }

    /// The schedules of these blocks that this scheduler holds now, as they stand in the table.
    ///
    /// # Errors
    /// Postgres is away or refuses.
    pub async fn held(&self, blocks: &[Block]) -> Result<Vec<ScheduledJob>, DbError> {
        let blocks: Vec<i64> = blocks.iter().map(|block| block.0).collect();
        let parameters: Parameters<'_> =
            &[(&self.scheduler_id, Type::TEXT), (&blocks, Type::INT8_ARRAY), (&Block::SHIFT, Type::INT4)];
        let rows = self.rows(LOOKING_AT_HELD, HELD, parameters).await?;
        rows.iter().map(ScheduledJob::from_row).collect::<Result<_, _>>().map_err(DbError::query(LOOKING_AT_HELD))
    }

    async fn rows(&self, operation: &'static str, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, DbError> {
        let client = self.db.operation().await?;
        client.run(operation, self.db.rows(&client, sql, parameters)).await
    }

    /// Gives up the listed schedules, or with None all this scheduler holds.
    pub async fn release_scheduled(&self, ids: Option<&[i64]>) -> Result<(), DbError> {
        let client = self.db.operation().await?;
        let sql = self.db.sql(RELEASE);
        let parameters: Parameters<'_> = &[(&self.scheduler_id, Type::TEXT), (&ids, Type::INT8_ARRAY)];
        client.run("release schedules", client.query_typed(&sql, parameters)).await?;
        Ok(())
    }

    /// The database's clock, as in [`Look::now`].
    pub async fn now(&self) -> Result<Timestamp, DbError> {
        let client = self.db.operation().await?;
        let row = client.run("read the clock", client.query_typed_one(NOW, &[])).await?;
        Ok(row.get(0))
    }
}
