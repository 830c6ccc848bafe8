//! The scheduler's handle: claim schedules, mark them, leave. Fires are made by [`materialise`](super::materialise).
//!
//! ```text
//!                       ┌── paused_at set by hand ──▶ paused ── set to NULL ──┐
//!                       │                                                     ▼
//!   add_scheduled_job ─▶ free ── claim ─▶ held by an instance ── leave ─▶ free
//!                        ▲                 │            └── no fire left ──▶ ended ── rule changed ──▶ free
//!                        └─ lease passed ──┘ (another instance claims it)
//! ```

use std::time::Duration;

use jiff::Timestamp;
use postgres_types::Type;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::connection::Db;
use crate::connection::statement::Parameters;
use crate::error::DbError;
use crate::jobs::columns::Instant;
use job_utils::outcome::storable;

/// A schedule_info of more bytes is not read: it cannot be used.
pub const LARGEST_SCHEDULE_INFO: i32 = 65_536;

/// How many bytes of schedule_info one statement reads.
const BATCH_BYTES: i64 = 4 << 20;

/// How many bytes a row's schedule_info has. What is stored in more than any that can be used has is not read for that.
macro_rules! bytes {
    ($row:literal) => {
        concat!(
            "CASE WHEN pg_catalog.pg_column_size(",
            $row,
            ".schedule_info) > 131072 THEN pg_catalog.pg_column_size(",
            $row,
            ".schedule_info) ELSE octet_length(",
            $row,
            ".schedule_info::text) END"
        )
    };
}

/// The columns of a schedule that is held, but for the text of its schedule_info. What is wrong with it may have been
/// written by others, in any length.
macro_rules! held_columns {
    () => {
        concat!(
            "s.id, s.task_identifier, @internal@.schedule_digest(s), ",
            bytes!("s"),
            ", s.fired_until, coalesce(s.owed_since, s.fired_until), left(s.last_error, 4000)"
        )
    };
}

/// One statement a heartbeat: it claims, or, when there was nothing to claim and it is wanted, says in digests what is
/// held; and last, so that it is fresh, the time. Rows of three kinds: a schedule, (block, digest, count), (time,
/// since, expiry). What it writes is lost in a crash of the server without harm, so it waits for no disk.
const HEARTBEAT: &str = concat!(
    "WITH beat AS MATERIALIZED (\
     SELECT b.steady_since, b.expires_in \
     FROM (SELECT set_config('synchronous_commit', 'off', true)) AS unsynced, \
     @internal@.scheduler_heartbeat($1, $2, make_interval(secs => $3), $4) b), \
     claimed AS MATERIALIZED (\
     SELECT c.id, c.task_identifier, @internal@.schedule_digest(c) AS digest, ",
    bytes!("c"),
    " AS bytes, c.fired_until, c.owed_since, left(c.last_error, 4000) AS last_error \
     FROM beat, @internal@.claim_schedules($1, $2, $5, $6, $7) c) \
     SELECT id, task_identifier, digest, bytes, fired_until, owed_since, last_error, \
     NULL::bigint, NULL::timestamptz, NULL::float8 FROM claimed UNION ALL \
     SELECT s.id >> $8, NULL, bit_xor(@internal@.schedule_digest(s)), NULL, NULL, NULL, NULL, count(*), NULL, NULL \
     FROM @extschema@.scheduled_jobs s WHERE $9 AND s.instance = $2 AND NOT EXISTS (SELECT FROM claimed) \
     GROUP BY 1 UNION ALL \
     SELECT NULL, NULL, NULL, NULL, NULL, steady_since, NULL, NULL, clock_timestamp(), \
     extract(epoch FROM expires_in)::float8 FROM beat"
);
const HELD: &str = concat!(
    "SELECT ",
    held_columns!(),
    " FROM @extschema@.scheduled_jobs s WHERE s.instance = $1 AND s.id >> $3 = ANY ($2)"
);
const WITH_TEXT: &str = concat!(
    "SELECT ",
    held_columns!(),
    ", CASE WHEN ",
    bytes!("s"),
    " <= $3 THEN s.schedule_info::text END FROM @extschema@.scheduled_jobs s WHERE s.instance = $1 AND s.id = ANY ($2)"
);

/// Marks, in their rows, schedules that do not fire because no live scheduler takes their tasks: free ones, and those
/// of holders that are gone. A rule that cannot be used is told of instead, as long as it is there.
const UNTAKEN: &str = "WITH live AS MATERIALIZED (\
                       SELECT r.tasks FROM @extschema@.schedulers r WHERE r.heartbeat_at >= clock_timestamp() - r.lease), \
                       idle AS (\
                       SELECT s.id, s.task_identifier, s.last_error FROM @extschema@.scheduled_jobs s \
                       WHERE s.locked_at IS NULL AND s.paused_at IS NULL AND s.ended_at IS NULL UNION ALL \
                       SELECT s.id, s.task_identifier, s.last_error FROM @extschema@.scheduled_jobs s \
                       WHERE s.instance = ANY (ARRAY(SELECT r.instance FROM @extschema@.schedulers r \
                       WHERE r.heartbeat_at < clock_timestamp() - r.lease))), \
                       untaken AS MATERIALIZED (\
                       SELECT i.id FROM idle i WHERE (i.last_error IS NULL OR i.last_error LIKE 'warning:%') \
                       AND NOT EXISTS (SELECT FROM live WHERE live.tasks IS NULL OR i.task_identifier = ANY (live.tasks)) \
                       LIMIT $1), \
                       locked AS MATERIALIZED (\
                       SELECT s.id FROM @extschema@.scheduled_jobs s WHERE s.id = ANY (ARRAY(SELECT u.id FROM untaken u)) \
                       FOR UPDATE SKIP LOCKED) \
                       UPDATE @extschema@.scheduled_jobs s SET last_error = 'no live scheduler takes the task \"' || \
                       s.task_identifier || '\" (JOBS_SUPPORTED of the schedulers): the schedule does not fire until one does' \
                       FROM locked WHERE s.id = locked.id RETURNING s.id, s.task_identifier";
const HEARTBEAT_OPERATION: &str = "claim schedules";
const READ_HELD_OPERATION: &str = "read held schedules";
const READ_TEXTS_OPERATION: &str = "read schedules";
const MARK_UNTAKEN_OPERATION: &str = "mark schedules that nobody takes";
const MARK: &str = "SELECT @internal@.mark_schedules($1, $2, $3, $4, $5, $6, $7, $8)";
const RELEASE: &str = "SELECT @internal@.release_schedules($1, $2)";
const LEAVE: &str = "SELECT @internal@.leave_scheduler($1)";
const UNREGISTERED: &str = "SELECT locked_by, count(*) FROM @extschema@.scheduled_jobs \
                            WHERE locked_at IS NOT NULL AND instance IS NULL GROUP BY 1 ORDER BY 1 LIMIT 10";
const PRUNE: &str = "SELECT @internal@.prune_schedule_fires(make_interval(secs => $1), $2)";
const NOW: &str = "SELECT clock_timestamp()";

/// A schedule that a scheduler holds.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ScheduledJob {
    /// The schedule's id.
    pub id: i64,
    /// Which function its jobs are for.
    pub task: String,
    /// Stands for the id, task and schedule_info: 8 bytes to keep instead of the text.
    pub digest: i64,
    /// How long schedule_info is. Of what is longer than [`LARGEST_SCHEDULE_INFO`], roughly.
    pub bytes: i32,
    /// When to fire, in any of the accepted forms: the JSON as it was written, once it is read
    /// ([`SchedulerDb::with_text`]). Not parsed here, because Postgres takes JSON that a parser refuses (1e999, a lone
    /// surrogate), and one such row must not hide the others.
    pub schedule_info: Option<String>,
    /// Its fires up to this instant are dealt with.
    pub fired_until: Timestamp,
    /// Every fire from this instant on is to be made; what was missed before is as schedule_info says.
    pub owed_since: Timestamp,
    /// What the row says is wrong with schedule_info.
    pub last_error: Option<String>,
}

impl ScheduledJob {
    /// One as it stands in the table, with nothing wrong and its text.
    pub fn held(
        id: i64,
        task: String,
        schedule_info: String,
        digest: i64,
        fired_until: Timestamp,
        owed_since: Timestamp,
    ) -> Self {
        let bytes = i32::try_from(schedule_info.len()).unwrap_or(i32::MAX);
        let schedule_info = Some(schedule_info).filter(|_| bytes <= LARGEST_SCHEDULE_INFO);
        Self { id, task, digest, bytes, schedule_info, fired_until, owed_since, last_error: None }
    }

    /// Without the text.
    fn from_row(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            id: row.try_get(0)?,
            task: row.try_get(1)?,
            digest: row.try_get(2)?,
            bytes: row.try_get(3)?,
            schedule_info: None,
            fired_until: row.try_get::<_, Instant>(4)?.0,
            owed_since: row.try_get::<_, Instant>(5)?.0,
            last_error: row.try_get(6)?,
        })
    }

    fn with_text_from_row(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self { schedule_info: row.try_get(7)?, ..Self::from_row(row)? })
    }
}

/// What a scheduler has found out about a schedule, to be written into its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The schedule's id.
    pub schedule: i64,
    /// As in [`ScheduledJob::digest`]: nothing is written when it is another one by now.
    pub digest: i64,
    /// What is wrong with schedule_info; None clears what was written before.
    pub error: Option<String>,
    /// It has no fire left.
    pub ended: bool,
    /// The last of the fires that were missed, and a text that tells of those before it.
    pub missed: Option<(Timestamp, String)>,
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
    /// The digests of all of them, xor-ed: equal when the same schedules are held with the same contents.
    pub xor: i64,
}

/// A scheduler process, as its heartbeat tells it.
#[derive(Debug, Clone)]
pub struct SchedulerInstance {
    /// Unlike the scheduler's id, never that of another process.
    pub id: Uuid,
    /// Without a heartbeat for so long, others take over what it holds.
    pub lease: Duration,
    /// Whether a session of its holds the instance's lock, so that its end shows at once.
    pub listens: bool,
}

/// What a heartbeat asks for.
#[derive(Debug, Clone, Copy)]
pub struct SchedulerHeartbeat<'a> {
    /// Schedules of these tasks; None: any.
    pub tasks: Option<&'a [String]>,
    /// How many at most.
    pub limit: i32,
    /// No other process has the id: also what an unregistered scheduler with the same id left locked.
    pub alone: bool,
    /// When there is nothing to claim, compare what is held.
    pub compare: bool,
}

/// What a heartbeat found.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SchedulerHeartbeatReply {
    /// The database's clock, which decides when schedules fire: hosts may disagree.
    pub now: Timestamp,
    /// Since when this instance's heartbeats have come without a gap of a lease.
    pub steady_since: Timestamp,
    /// Until the next lease of another scheduler ends, should no heartbeat come.
    pub expires_in: Option<Duration>,
    /// The schedules claimed; there may be more.
    pub claimed: Vec<ScheduledJob>,
    /// When nothing was claimed and it was asked for: what this instance holds.
    pub held: Option<Vec<(Block, Digest)>>,
}

/// What a scheduler may do in the database, under its id.
#[derive(Clone)]
pub struct SchedulerDb {
    pub(crate) db: Db,
    pub(crate) scheduler_id: String,
    pub(crate) instance: SchedulerInstance,
}

impl SchedulerDb {
    /// A handle for a process of the scheduler `scheduler_id`.
    pub fn new(db: Db, scheduler_id: impl Into<String>, instance: SchedulerInstance) -> Self {
        Self { db, scheduler_id: scheduler_id.into(), instance }
    }

    /// Sends a heartbeat, which registers the instance; claims schedules, or says what is held.
    ///
    /// # Errors
    /// Postgres is away or refuses; then schedules may have been claimed all the same.
    pub async fn heartbeat(&self, what: SchedulerHeartbeat<'_>) -> Result<SchedulerHeartbeatReply, DbError> {
        let lease = self.instance.lease.as_secs_f64();
        let parameters: Parameters<'_> = &[
            (&self.scheduler_id, Type::TEXT),
            (&self.instance.id, Type::UUID),
            (&lease, Type::FLOAT8),
            (&self.instance.listens, Type::BOOL),
            (&what.tasks, Type::TEXT_ARRAY),
            (&what.limit, Type::INT4),
            (&what.alone, Type::BOOL),
            (&Block::SHIFT, Type::INT4),
            (&what.compare, Type::BOOL),
        ];
        let rows = self.rows(HEARTBEAT_OPERATION, HEARTBEAT, parameters).await?;
        let read = || -> Result<SchedulerHeartbeatReply, tokio_postgres::Error> {
            let (mut now, mut steady_since, mut expires_in) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH, None);
            let (mut claimed, mut held) = (Vec::new(), Vec::new());
            for row in &rows {
                if let Some(Instant(time)) = row.try_get(8)? {
                    now = time;
                    steady_since = row.try_get::<_, Instant>(5)?.0;
                    expires_in = row.try_get::<_, Option<f64>>(9)?;
                } else if let Some(count) = row.try_get(7)? {
                    held.push((Block(row.try_get(0)?), Digest { count, xor: row.try_get(2)? }));
                } else {
                    claimed.push(ScheduledJob::from_row(row)?);
                }
            }
            let held = (what.compare && claimed.is_empty()).then_some(held);
            let expires_in = expires_in.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO));
            Ok(SchedulerHeartbeatReply { now, steady_since, expires_in, claimed, held })
        };
        read().map_err(DbError::query(HEARTBEAT_OPERATION))
    }

    /// The schedules of these blocks that this instance holds now, as they stand in the table, without their texts.
    ///
    /// # Errors
    /// Postgres is away or refuses.
    pub async fn held(&self, blocks: &[Block]) -> Result<Vec<ScheduledJob>, DbError> {
        let blocks: Vec<i64> = blocks.iter().map(|block| block.0).collect();
        let parameters: Parameters<'_> =
            &[(&self.instance.id, Type::UUID), (&blocks, Type::INT8_ARRAY), (&Block::SHIFT, Type::INT4)];
        let rows = self.rows(READ_HELD_OPERATION, HELD, parameters).await?;
        rows.iter().map(ScheduledJob::from_row).collect::<Result<_, _>>().map_err(DbError::query(READ_HELD_OPERATION))
    }

    /// The first of `schedules`, as many as may be read at once, as they stand in the table now and with their texts;
    /// and the rest of `schedules`. Those that this instance does not hold are left out.
    ///
    /// # Errors
    /// Postgres is away or refuses.
    pub async fn with_text<'a>(
        &self,
        schedules: &'a [&'a ScheduledJob],
    ) -> Result<(Vec<ScheduledJob>, &'a [&'a ScheduledJob]), DbError> {
        let mut bytes = 0;
        let fitting = schedules.iter().take_while(|schedule| {
            bytes += i64::from(schedule.bytes);
            bytes <= BATCH_BYTES
        });
        let (first, rest) = schedules.split_at(fitting.count().max(1).min(schedules.len()));
        let ids: Vec<i64> = first.iter().map(|schedule| schedule.id).collect();
        let parameters: Parameters<'_> =
            &[(&self.instance.id, Type::UUID), (&ids, Type::INT8_ARRAY), (&LARGEST_SCHEDULE_INFO, Type::INT4)];
        let rows = self.rows(READ_TEXTS_OPERATION, WITH_TEXT, parameters).await?;
        let rows = rows.iter().map(ScheduledJob::with_text_from_row).collect::<Result<_, _>>();
        Ok((rows.map_err(DbError::query(READ_TEXTS_OPERATION))?, rest))
    }

    /// Writes into the rows of up to `limit` schedules that no live scheduler takes their tasks. Returns their ids and
    /// tasks.
    ///
    /// # Errors
    /// Postgres is away or refuses.
    pub async fn mark_untaken(&self, limit: i64) -> Result<Vec<(i64, String)>, DbError> {
        let rows = self.rows(MARK_UNTAKEN_OPERATION, UNTAKEN, &[(&limit, Type::INT8)]).await?;
        let read = |row: &Row| Ok((row.try_get(0)?, row.try_get(1)?));
        rows.iter().map(read).collect::<Result<_, _>>().map_err(DbError::query(MARK_UNTAKEN_OPERATION))
    }

    /// Writes marks into the rows of schedules held, but for those that another transaction has locked or that are no
    /// longer those of the marks. Returns the schedules whose marks are written.
    ///
    /// # Errors
    /// Postgres is away or refuses; writing them again does no harm.
    pub async fn mark(&self, marks: &[Mark]) -> Result<Vec<i64>, DbError> {
        let ids: Vec<i64> = marks.iter().map(|mark| mark.schedule).collect();
        let digests: Vec<i64> = marks.iter().map(|mark| mark.digest).collect();
        let errors: Vec<Option<String>> = marks.iter().map(|mark| mark.error.as_deref().map(storable)).collect();
        let ended: Vec<bool> = marks.iter().map(|mark| mark.ended).collect();
        let missed_ats: Vec<Option<Timestamp>> =
            marks.iter().map(|mark| mark.missed.as_ref().map(|(at, _)| *at)).collect();
        let reasons: Vec<Option<String>> =
            marks.iter().map(|mark| mark.missed.as_ref().map(|(_, reason)| storable(reason))).collect();
        let parameters: Parameters<'_> = &[
            (&self.scheduler_id, Type::TEXT),
            (&self.instance.id, Type::UUID),
            (&ids, Type::INT8_ARRAY),
            (&digests, Type::INT8_ARRAY),
            (&errors, Type::TEXT_ARRAY),
            (&ended, Type::BOOL_ARRAY),
            (&missed_ats, Type::TIMESTAMPTZ_ARRAY),
            (&reasons, Type::TEXT_ARRAY),
        ];
        let rows = self.rows("mark schedules", MARK, parameters).await?;
        rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(DbError::query("mark schedules"))
    }

    /// Gives up the listed schedules, but those that another transaction has locked.
    ///
    /// # Errors
    /// Postgres is away or refuses.
    pub async fn release_schedules(&self, ids: &[i64]) -> Result<(), DbError> {
        let parameters: Parameters<'_> = &[(&self.instance.id, Type::UUID), (&ids, Type::INT8_ARRAY)];
        self.seldom("release schedules", RELEASE, parameters).await.map(drop)
    }

    /// Who has locked schedules without having registered, and how many: they have no lease. The first ten.
    ///
    /// # Errors
    /// Postgres is away or refuses.
    pub async fn unregistered(&self) -> Result<Vec<(String, i64)>, DbError> {
        let rows = self.rows("list other holders", UNREGISTERED, &[]).await?;
        let read = |row: &Row| Ok((row.try_get::<_, Option<String>>(0)?.unwrap_or_default(), row.try_get(1)?));
        rows.iter().map(read).collect::<Result<_, _>>().map_err(DbError::query("list other holders"))
    }

    /// Gives up all that this instance holds, and ends its registration. Returns how many it held.
    ///
    /// # Errors
    /// Postgres is away or refuses.
    pub async fn leave(&self) -> Result<i32, DbError> {
        let row = self.seldom("leave", LEAVE, &[(&self.instance.id, Type::UUID)]).await?;
        row.try_get(0).map_err(DbError::query("leave"))
    }

    /// Removes up to `limit` rows of schedule_fires that are older than `age`; returns how many.
    ///
    /// # Errors
    /// Postgres is away or refuses.
    pub async fn prune_fires(&self, age: Duration, limit: i32) -> Result<i32, DbError> {
        let age = age.as_secs_f64();
        let row = self.seldom("prune fires", PRUNE, &[(&age, Type::FLOAT8), (&limit, Type::INT4)]).await?;
        row.try_get(0).map_err(DbError::query("prune fires"))
    }

    /// The database's clock, as in [`SchedulerHeartbeatReply::now`].
    ///
    /// # Errors
    /// Postgres is away or refuses.
    pub async fn now(&self) -> Result<Timestamp, DbError> {
        let row = self.seldom("read the clock", NOW, &[]).await?;
        row.try_get::<_, Instant>(0).map(|now| now.0).map_err(DbError::query("read the clock"))
    }

    async fn rows(&self, operation: &'static str, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, DbError> {
        let client = self.db.operation().await?;
        client.run(operation, self.db.rows(&client, sql, parameters)).await
    }

    /// A statement that is not worth preparing.
    async fn seldom(&self, operation: &'static str, sql: &str, parameters: Parameters<'_>) -> Result<Row, DbError> {
        let client = self.db.operation().await?;
        let sql = self.db.sql(sql);
        client.run(operation, client.query_typed_one(&sql, parameters)).await
    }
}
