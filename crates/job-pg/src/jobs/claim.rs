//! Claim: take due jobs for a worker.

use std::time::Duration;

use jiff::Timestamp;
use postgres_types::{ToSql, Type};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::connection::Db;
use crate::error::DbError;
use crate::jobs::columns::{Instant, RawJson};
use crate::jobs::cursor::Cursor;
use crate::jobs::heartbeat::{Heartbeat, Instance, Running, taken};
use crate::jobs::hosts::HostNews;

/// The columns of a claimed job `j`, without a payload that has more bytes than that parameter says.
///
/// What a payload takes is known without reading it, unless it is compressed: then it is read as long as that is cheap,
/// and counts as large if not.
macro_rules! columns {
    ($share:literal) => {
        concat!(
            "j.id, j.database_id, j.actor_id, j.queue_name, j.task_identifier, \
             CASE WHEN pg_catalog.pg_column_size(j.payload) <= ",
            $share,
            " AND (pg_catalog.pg_column_compression(j.payload) IS NULL OR 4 * pg_catalog.pg_column_size(j.payload) <= ",
            $share,
            " AND octet_length(j.payload::text) <= ",
            $share,
            ") THEN j.payload END AS payload, j.priority, j.run_at, \
             j.attempts, j.max_attempts, j.epoch, j.entity_id, j.organization_id, j.gate_key"
        )
    };
}
pub(crate) use columns;

/// Where the attempts are among them.
pub(crate) const ATTEMPTS: usize = 8;

/// The columns of a claimed job, and those of the last row: when the next job is due, and whether writes notify on
/// demand.
macro_rules! claimed {
    ($first:literal) => {
        concat!(
            "claimed AS MATERIALIZED (SELECT ",
            columns!("$14"),
            " FROM ",
            $first,
            ", @internal@.claim_instance_jobs($12, $1, $13, $2, $3 + first.none, make_interval(secs => $4), $5, $6, $7, $8, \
             $9, $10, $15) j) \
             SELECT *, NULL::float8, NULL::boolean, (SELECT nullif(current_setting('jobs.last_gate', true), '')), \
             (SELECT nullif(current_setting('jobs.hosts', true), '')), \
             (SELECT current_setting('jobs.placed', true) = 'on')"
        )
    };
}

/// The row that comes last: it has no id.
macro_rules! nothing {
    () => {
        " UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
         CASE WHEN $6 AND NOT EXISTS (SELECT FROM claimed) THEN \
         extract(epoch FROM @internal@.next_run_at($2, $5, make_interval(secs => $11)) - now())::float8 END, \
         EXISTS (SELECT FROM @extschema@.settings), nullif(current_setting('jobs.last_gate', true), ''), \
         nullif(current_setting('jobs.hosts', true), ''), current_setting('jobs.placed', true) = 'on'"
    };
}

/// One statement for the claim and, when it finds nothing, the question when the next job is due: both by one now(), so
/// that a job that comes due in between is in one of the two. A claim need not be durable before it is used: lost in a
/// crash of the database, it is claimed again.
const SQL: &str = concat!(
    "WITH ",
    claimed!("(SELECT 0 AS none, set_config('synchronous_commit', 'off', true)) AS first"),
    " FROM claimed",
    nothing!(),
    " WHERE NOT EXISTS (SELECT FROM claimed)"
);

/// The same for a worker whose last claim was refused: `changeable_jobs` tries the jobs.
const CAREFUL: &str = concat!(
    "WITH ",
    claimed!(
        "(SELECT 0 AS none, set_config('synchronous_commit', 'off', true), set_config('jobs.careful', 'on', true)) AS first"
    ),
    " FROM claimed",
    nothing!(),
    " WHERE NOT EXISTS (SELECT FROM claimed)"
);

/// Those that are left out now.
const REFUSED: &str = "SELECT r.job_id, r.message FROM @extschema@.refused_jobs r \
                       WHERE r.refused_until > now() ORDER BY r.job_id LIMIT 1000";

/// The same with a heartbeat before it, whose findings are in the last row: an idle worker sends one statement at a
/// time. What is rescued can be claimed at once.
const WITH_HEARTBEAT: &str = concat!(
    "WITH beat AS MATERIALIZED (\
     SELECT b.rescued, b.silent, b.overdue, b.expired, ",
    taken!("$19", "$20"),
    " AS taken, @internal@.exhausted_jobs(pg_catalog.array_cat(b.rescued, b.overdue)) AS exhausted \
     FROM (SELECT set_config('synchronous_commit', 'off', true)) AS unsynced, \
     @internal@.heartbeat($1, $12, make_interval(secs => $16), $17, $18, make_interval(secs => $4)) b), ",
    claimed!("(SELECT 0 * count(*)::int AS none FROM beat) AS first"),
    ", NULL::bigint[], NULL::text[], NULL::bigint[], NULL::boolean, NULL::bigint[], NULL::json FROM claimed",
    nothing!(),
    ", beat.rescued, beat.silent, beat.overdue, beat.expired, beat.taken, beat.exhausted FROM beat"
);

/// Which jobs a claim takes, and how many.
#[derive(Clone, Copy)]
pub struct ClaimRequest<'a> {
    /// Only these tasks; None: any.
    pub tasks: Option<&'a [String]>,
    /// Not these.
    pub excluded: &'a [String],
    /// At most so many jobs.
    pub limit: usize,
    /// Claim from the start of what is due, expired locks too; else only from `cursor` on.
    pub from_start: bool,
    /// Where the last claim ended.
    pub cursor: &'a Cursor,
    /// Gates of which this worker has just settled a job that ran.
    pub freed: &'a [String],
    /// How far ahead to search for the next job that waits for its time.
    pub horizon: Duration,
    /// Send a heartbeat along, and ask whether the claims of these running attempts still stand.
    pub heartbeat: Option<&'a Running>,
    /// The last claim was refused: find out which jobs cannot be claimed, and leave those out. It takes longer, and no
    /// heartbeat along.
    pub careful: bool,
    /// How many bytes the payloads may have together. Each may have an equal share of them; a larger one is left where
    /// it is, for [`WorkerDb::load_payload`](crate::WorkerDb::load_payload).
    pub payload_bytes: usize,
}

/// What a claim found.
#[derive(Debug)]
pub struct ClaimReply {
    /// The jobs, or that there are none.
    pub claimed: Claimed,
    /// What the heartbeat found that was sent along.
    pub heartbeat: Option<Heartbeat>,
    /// The last gate that it looked at, when there are more.
    pub last_gate: Option<String>,
    /// Whether it has put jobs in their place, and there may be more of those.
    pub placed: bool,
    /// What there is to know of hosts. Of those that are only suspected, a claim from the start alone tells.
    pub hosts: Vec<HostNews>,
}

/// What there was to claim.
#[derive(Debug, Clone)]
pub enum Claimed {
    /// Jobs, in order.
    Jobs(Vec<Job>),
    /// Nothing is due.
    Nothing {
        /// The next waiting job is due in this time; None when none is within the horizon, or when the claim was not
        /// from the start.
        due: Option<Duration>,
        /// Whether writes notify on demand: only while somebody is registered as a waiter.
        on_demand: bool,
    },
}

/// How many epochs are sent along at most.
const LARGEST: usize = 1000;

/// The payload that comes with its claim however small the share is: to fetch it would cost more than it takes.
const LEAST_SHARE: usize = 4 << 10;

/// The largest payload that comes with its claim: for what is larger, a statement of its own costs little.
const LARGEST_SHARE: usize = 64 << 10;

/// What names a claim: the job's id, and the epoch.
pub type ClaimId = (i64, i64);

/// A claimed job. Its `Debug` shows neither the payload nor the epoch, with which whoever reads a log could end the
/// attempt.
#[derive(Clone)]
#[non_exhaustive]
pub struct Job {
    /// The job's id.
    pub id: i64,
    /// The tenant's database.
    pub tenant: Option<Uuid>,
    /// Who caused the job.
    pub actor: Option<Uuid>,
    /// The entity that the job is for: the setting `jwt.claims.entity_id` of whoever enqueued it.
    pub entity: Option<Uuid>,
    /// The organization that the job is for: the setting `jwt.claims.organization_id`.
    pub organization: Option<Uuid>,
    /// The named queue, whose jobs run one at a time.
    pub queue: Option<String>,
    /// The gates it has passed, such as its queue; None for none. Jobs with the same text have the same gates.
    pub gate: Option<String>,
    /// Which function does it.
    pub task: String,
    /// The payload, JSON exactly as it was written. Empty as long as it is deferred.
    pub payload: String,
    /// Smaller runs earlier.
    pub priority: i32,
    /// Since when it has been due.
    pub run_at: Timestamp,
    /// Which attempt this is, from 1.
    pub attempts: i32,
    /// How many attempts there are.
    pub max_attempts: i32,
    /// Names this claim among all claims of the job.
    pub epoch: i64,
    /// The payload was too large to come with the claim.
    pub(crate) deferred: bool,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id)
            .field("tenant", &self.tenant)
            .field("actor", &self.actor)
            .field("entity", &self.entity)
            .field("organization", &self.organization)
            .field("queue", &self.queue)
            .field("task", &self.task)
            .field("priority", &self.priority)
            .field("run_at", &self.run_at)
            .field("attempts", &self.attempts)
            .field("max_attempts", &self.max_attempts)
            .finish_non_exhaustive()
    }
}

impl Job {
    /// What names this claim of the job.
    #[must_use]
    pub fn claim_id(&self) -> ClaimId {
        (self.id, self.epoch)
    }

    /// Whether it has passed the gate of its tenant: one with a limit, or all are served fairly.
    pub fn has_tenant_gate(&self) -> bool {
        self.gate.as_ref().is_some_and(|gate| gate.starts_with("tenant'"))
    }

    /// Whether it has passed the gate of its task, or of the host that it is sent to.
    pub fn has_task_gate(&self) -> bool {
        let gate = self.gate.as_ref();
        gate.is_some_and(|gate| gate.starts_with("task") || gate.starts_with("tenant") && gate.contains("' task"))
    }

    /// The same job with an empty payload.
    #[must_use]
    pub fn clone_without_payload(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            gate: self.gate.clone(),
            task: self.task.clone(),
            payload: String::new(),
            ..*self
        }
    }

    /// Whether the payload is still in the database, because it was too large to come with the claim. Whoever runs the
    /// job fetches it first: handlers and functions never meet this.
    pub fn is_deferred(&self) -> bool {
        self.deferred
    }

    /// From the columns of a claimed job.
    pub(crate) fn from_row(row: &Row) -> Result<Self, tokio_postgres::Error> {
        let payload = row.try_get::<_, Option<RawJson>>(5)?;
        Ok(Self {
            deferred: payload.is_none(),
            id: row.try_get(0)?,
            tenant: row.try_get(1)?,
            actor: row.try_get(2)?,
            queue: row.try_get(3)?,
            task: row.try_get(4)?,
            payload: payload.map(|payload| payload.0).unwrap_or_default(),
            priority: row.try_get(6)?,
            run_at: row.try_get::<_, Instant>(7)?.0,
            attempts: row.try_get(ATTEMPTS)?,
            max_attempts: row.try_get(9)?,
            epoch: row.try_get(10)?,
            entity: row.try_get(11)?,
            organization: row.try_get(12)?,
            gate: row.try_get(13)?,
        })
    }
}

impl Db {
    /// Claims due jobs. Dropped, it cancels the claim.
    pub(crate) async fn claim(
        &self,
        worker_id: &str,
        instance: &Instance,
        claim: ClaimRequest<'_>,
    ) -> Result<ClaimReply, DbError> {
        let client = self.operation().await?;
        let limit = i32::try_from(claim.limit).unwrap_or(i32::MAX);
        let excluded = Some(claim.excluded).filter(|excluded| !excluded.is_empty());
        let (priorities, run_ats, ids) = claim.cursor.positions();
        let gate = claim.cursor.gate();
        let (expiry, horizon) = (instance.job_expiry.as_secs_f64(), claim.horizon.as_secs_f64());
        let lease = instance.lease.as_secs_f64();
        let epochs = epochs(claim.limit);
        let share = payload_share(claim.payload_bytes, claim.limit);
        let none = Running::default();
        let (running_ids, running_epochs) = claim.heartbeat.unwrap_or(&none).arrays();
        let parameters: [(&(dyn ToSql + Sync), Type); 20] = [
            (&worker_id, Type::TEXT),
            (&claim.tasks, Type::TEXT_ARRAY),
            (&limit, Type::INT4),
            (&expiry, Type::FLOAT8),
            (&excluded, Type::TEXT_ARRAY),
            (&claim.from_start, Type::BOOL),
            (&priorities, Type::INT4_ARRAY),
            (&run_ats, Type::TIMESTAMPTZ_ARRAY),
            (&ids, Type::INT8_ARRAY),
            (&claim.freed, Type::TEXT_ARRAY),
            (&horizon, Type::FLOAT8),
            (&instance.id, Type::UUID),
            (&epochs, Type::INT8_ARRAY),
            (&share, Type::INT4),
            (&gate, Type::TEXT),
            (&lease, Type::FLOAT8),
            (&instance.listens, Type::BOOL),
            (&instance.overdue_message, Type::TEXT),
            (running_ids, Type::INT8_ARRAY),
            (running_epochs, Type::INT8_ARRAY),
        ];
        let (sql, parameters) = match claim.heartbeat {
            Some(_) => (WITH_HEARTBEAT, &parameters[..]),
            None => (if claim.careful { CAREFUL } else { SQL }, &parameters[..15]),
        };
        let result = async { read(&self.rows(&client, sql, parameters).await?, claim.heartbeat.unwrap_or(&none)) };
        client.run("claim", result).await
    }
}

/// A job that cannot be claimed, because a trigger, a constraint or a domain of the application's refuses the change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedJob {
    /// Which job.
    pub id: i64,
    /// What Postgres says.
    pub error: String,
}

impl Db {
    /// The first thousand of the jobs that claims leave out at this moment.
    pub(crate) async fn refused_jobs(&self) -> Result<Vec<RefusedJob>, DbError> {
        let client = self.operation().await?;
        let sql = self.sql(REFUSED);
        let result = async {
            let rows = client.query_typed(&sql, &[]).await?;
            rows.iter().map(|row| Ok(RefusedJob { id: row.try_get(0)?, error: row.try_get(1)? })).collect()
        };
        client.run("list refused jobs", result).await
    }
}

/// How many bytes each of so many payloads may have.
pub(crate) fn payload_share(bytes: usize, jobs: usize) -> i32 {
    i32::try_from((bytes / jobs.max(1)).clamp(LEAST_SHARE, LARGEST_SHARE)).unwrap_or(0)
}

/// A random number for each job that may be claimed, so that no claim's epoch can be told from another's. The database
/// draws what is missing: beyond the largest batch, or when the system has no randomness to give.
pub(crate) fn epochs(limit: usize) -> Vec<i64> {
    let mut bytes = vec![0; limit.min(LARGEST) * size_of::<i64>()];
    match getrandom::fill(&mut bytes) {
        Ok(()) => bytes.as_chunks().0.iter().map(|chunk| i64::from_ne_bytes(*chunk)).collect(),
        Err(_) => Vec::new(),
    }
}

fn read(rows: &[Row], running: &Running) -> Result<ClaimReply, tokio_postgres::Error> {
    let (mut jobs, mut nothing, mut heartbeat) = (Vec::with_capacity(rows.len()), None, None);
    let last_gate = rows.first().map(|row| row.try_get(16)).transpose()?.flatten();
    let hosts = rows.first().map(|row| row.try_get::<_, Option<&str>>(17)).transpose()?.flatten();
    let placed = rows.first().map(|row| row.try_get::<_, Option<bool>>(18)).transpose()?.flatten().unwrap_or_default();
    for row in rows {
        if row.try_get::<_, Option<i64>>(0)?.is_some() {
            jobs.push(Job::from_row(row)?);
            continue;
        }
        let seconds: Option<f64> = row.try_get(14)?;
        // A run_at far away, or infinity, is no duration: a later claim will find it.
        let due = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok());
        nothing = Some(Claimed::Nothing { due, on_demand: row.try_get(15)? });
        if row.len() > 19 {
            heartbeat = Some(Heartbeat::from_row(row, 19, running)?);
        }
    }
    let claimed = match nothing {
        Some(nothing) if jobs.is_empty() => nothing,
        _ => {
            // UPDATE … RETURNING promises no order.
            jobs.sort_unstable_by_key(|job| (job.priority, job.run_at, job.id));
            Claimed::Jobs(jobs)
        }
    };
    Ok(ClaimReply { claimed, heartbeat, last_gate, placed, hosts: HostNews::read(hosts) })
}
