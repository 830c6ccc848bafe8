//! Gates: pause, resume, set_limit, set_fair and set_weight, and what is set.

use std::time::Duration;

use jiff::Timestamp;
use postgres_types::Type;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Error, Row};

use crate::connection::statement::Parameters;
use crate::error::DbError;
use crate::handles::admin::AdminDb;
use crate::jobs::columns::Instant;

const PAUSE: &str = "SELECT @extschema@.pause($1, $2, pg_catalog.to_timestamp($3), $4)";
const RESUME: &str = "SELECT @extschema@.resume($1, $2)";
const SET_LIMIT: &str =
    "SELECT @extschema@.set_limit($1, $2, $3, $4, pg_catalog.make_interval(secs => $5::pg_catalog.float8), $6)";
const SET_FAIR: &str = "SELECT @extschema@.set_fair('tenant', $1)";
const SET_WEIGHT: &str = "SELECT @extschema@.set_weight('tenant', $1, $2::pg_catalog.float8::pg_catalog.numeric)";
const GATES: &str = "SELECT kind, name, max_running, rate, extract(epoch FROM per)::float8, burst, paused_at, \
                     paused_until, reason, closed_until, closed_reason, coalesce(fair, false), \
                     weight::pg_catalog.float8 FROM @extschema@.gates ORDER BY kind, name";

/// What can hold jobs back. The name `*` is each one of the kind that has no row of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Gate<'a> {
    /// Jobs with this identifier.
    Task(&'a str),
    /// The jobs of a named queue.
    Queue(&'a str),
    /// The jobs with this `database_id`, a uuid.
    Tenant(&'a str),
    /// The jobs that are sent to this host: scheme, host and port, as in `http://functions:8080`.
    Host(&'a str),
    /// All jobs. They can be paused, and have no limit.
    All,
}

impl<'a> Gate<'a> {
    fn kind(self) -> &'static str {
        match self {
            Self::Task(_) => "task",
            Self::Queue(_) => "queue",
            Self::Tenant(_) => "tenant",
            Self::Host(_) => "host",
            Self::All => "all",
        }
    }

    fn name(self) -> Option<&'a str> {
        match self {
            Self::Task(name) | Self::Queue(name) | Self::Tenant(name) | Self::Host(name) => Some(name),
            Self::All => None,
        }
    }
}

/// How many jobs of a gate may run, and how many may start in a time. The default has no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limit {
    /// How many may run at once.
    pub max_running: Option<u32>,
    /// How many may start in a time.
    pub rate: Option<Rate>,
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// So many jobs may start in `per`.
    pub starts: u32,
    /// 1 ms to 366 days.
    pub per: Duration,
    /// How many may start at once after a time without starts.
    pub burst: u32,
}

/// What is set for a gate.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct GateSettings {
    /// `task`, `queue`, `tenant`, `host` or `all`.
    pub kind: String,
    /// Its name; `*` for each one of the kind that has no row of its own, empty for the kind `all`.
    pub name: String,
    /// How many jobs may run and start.
    pub limit: Limit,
    /// Since when no more jobs start. A pause can be over: see `paused_until`.
    pub paused_at: Option<Timestamp>,
    /// When the pause ends by itself.
    pub paused_until: Option<Timestamp>,
    /// Why it was paused.
    pub reason: Option<String>,
    /// Until when a host's gate is closed, which has closed by itself. When that is past and there is still a reason,
    /// one job finds out whether the host is up.
    pub closed_until: Option<Timestamp>,
    /// Why it has closed.
    pub closed_reason: Option<String>,
    /// Whether tenants are served fairly. The gate of the kind `tenant` with the name `*` says it.
    pub fair: bool,
    /// A tenant's weight among those; None: the usual one, which is 1.
    pub weight: Option<f64>,
}

/// A pause or limit that was not set.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// An argument cannot be used: what is wrong, and what to do.
    #[error("{0}")]
    Refused(String),
    /// A transaction that has claimed jobs is open: the same call succeeds when it has ended.
    #[error("{0}")]
    Busy(String),
    /// The database's role may not set gates.
    #[error("the role may not set pauses and limits ({0}): make it a member of administrator, or let one set them")]
    NotAllowed(String),
    /// The database did not do it.
    #[error(transparent)]
    Db(#[from] DbError),
}

job_utils::debug_as_chain!(GateError);

impl AdminDb {
    /// Starts no more jobs of a gate until [`AdminDb::resume`], or until the given time. What runs goes on, and new
    /// jobs are accepted.
    ///
    /// # Errors
    /// [`GateError::Refused`] for a name that none can have, and a time that is past.
    pub async fn pause(&self, gate: Gate<'_>, until: Option<Timestamp>, reason: Option<&str>) -> Result<(), GateError> {
        let until = until.map(seconds);
        let parameters: Parameters<'_> =
            &[(&gate.kind(), Type::TEXT), (&gate.name(), Type::TEXT), (&until, Type::FLOAT8), (&reason, Type::TEXT)];
        self.set("pause", PAUSE, parameters).await
    }

    /// Ends a pause, and opens a host that has closed by itself. Nothing happens when there is neither.
    ///
    /// # Errors
    /// [`GateError::Refused`] for a name that none can have.
    pub async fn resume(&self, gate: Gate<'_>) -> Result<(), GateError> {
        self.set("resume", RESUME, &[(&gate.kind(), Type::TEXT), (&gate.name(), Type::TEXT)]).await
    }

    /// Limits the jobs of a gate, in place of what was set for it. It waits for the claims under way, so that from then
    /// on the limit is kept exactly.
    ///
    /// # Errors
    /// [`GateError::Refused`] for what is no limit, and for [`Gate::All`]; [`GateError::Busy`] when a transaction that
    /// has claimed jobs stays open.
    pub async fn set_limit(&self, gate: Gate<'_>, limit: Limit) -> Result<(), GateError> {
        let int = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
        let max_running = limit.max_running.map(int);
        let rate = limit.rate.map(|rate| int(rate.starts));
        let per = limit.rate.map(|rate| rate.per.as_secs_f64());
        let burst = limit.rate.map(|rate| int(rate.burst));
        let parameters: Parameters<'_> = &[
            (&gate.kind(), Type::TEXT),
            (&gate.name(), Type::TEXT),
            (&max_running, Type::INT4),
            (&rate, Type::INT4),
            (&per, Type::FLOAT8),
            (&burst, Type::INT4),
        ];
        self.set("set a limit", SET_LIMIT, parameters).await
    }

    /// Whether tenants are served fairly: of those whose jobs wait, the one whose jobs have run for the least time, by
    /// its weight, has the next turn. Jobs without a tenant count as one more.
    ///
    /// # Errors
    /// The database did not do it, or the role may not.
    pub async fn set_fair(&self, fair: bool) -> Result<(), GateError> {
        self.set("set fairness", SET_FAIR, &[(&fair, Type::BOOL)]).await
    }

    /// The share of a tenant while tenants are served fairly: with weight 3 it gets three times the run time of one
    /// with 1, the usual weight, which None gives back. The name `*` is for each tenant that has none of its own.
    ///
    /// # Errors
    /// [`GateError::Refused`] for a tenant that is no uuid, and a weight that is not between 0.001 and 1,000,000.
    pub async fn set_weight(&self, tenant: &str, weight: Option<f64>) -> Result<(), GateError> {
        self.set("set a weight", SET_WEIGHT, &[(&tenant, Type::TEXT), (&weight, Type::FLOAT8)]).await
    }

    /// What is set for gates, by kind and name.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn gates(&self) -> Result<Vec<GateSettings>, DbError> {
        let client = self.db.operation().await?;
        let sql = self.db.sql(GATES);
        let result = async { client.query_typed(&sql, &[]).await?.iter().map(settings).collect() };
        client.run("list gates", result).await
    }

    async fn set(&self, operation: &'static str, sql: &str, parameters: Parameters<'_>) -> Result<(), GateError> {
        let client = self.db.operation().await?;
        let sql = self.db.sql(sql);
        let result = async { client.query_typed(&sql, parameters).await.map(drop) };
        client.run(operation, result).await.map_err(refusal)
    }
}

/// Seconds since 1970, which hold microseconds for the years there are.
#[allow(clippy::cast_precision_loss, reason = "microseconds of the years up to 2255 are exact")]
fn seconds(at: Timestamp) -> f64 {
    at.as_microsecond() as f64 / 1e6
}

fn refusal(error: DbError) -> GateError {
    let DbError::Query { source, .. } = &error else { return GateError::Db(error) };
    let Some(told) = source.as_db_error() else { return GateError::Db(error) };
    let help = told.hint().map(|hint| format!(". {hint}")).unwrap_or_default();
    match *told.code() {
        SqlState::INVALID_PARAMETER_VALUE | SqlState::FEATURE_NOT_SUPPORTED => {
            GateError::Refused(format!("{}{help}", told.message()))
        }
        SqlState::LOCK_NOT_AVAILABLE => GateError::Busy(format!("{}{help}", told.message())),
        SqlState::INSUFFICIENT_PRIVILEGE => GateError::NotAllowed(told.message().to_owned()),
        _ => GateError::Db(error),
    }
}

fn settings(row: &Row) -> Result<GateSettings, Error> {
    let number = |index: usize| Ok(row.try_get::<_, Option<i32>>(index)?.and_then(|n| u32::try_from(n).ok()));
    let instant = |index: usize| Ok(row.try_get::<_, Option<Instant>>(index)?.map(|instant| instant.0));
    let per = row.try_get::<_, Option<f64>>(4)?.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let rate = match (number(3)?, per, number(5)?) {
        (Some(starts), Some(per), Some(burst)) => Some(Rate { starts, per, burst }),
        _ => None,
    };
    Ok(GateSettings {
        kind: row.try_get(0)?,
        name: row.try_get(1)?,
        limit: Limit { max_running: number(2)?, rate },
        paused_at: instant(6)?,
        paused_until: instant(7)?,
        reason: row.try_get(8)?,
        closed_until: instant(9)?,
        closed_reason: row.try_get(10)?,
        fair: row.try_get(11)?,
        weight: row.try_get(12)?,
    })
}
