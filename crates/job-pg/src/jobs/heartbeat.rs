//! Heartbeat: show that a worker process lives, and look after the jobs of those that do not.
//!
//! ```text
//!   register ─▶ heartbeat … heartbeat ─▶ leave
//!                  │                └─▶ silence ─▶ rescued by another instance, after the lease
//!                  └─▶ its session ends ─▶ taken back by the next process with its id, at once
//! ```

use std::time::Duration;

use postgres_types::{Json, ToSql, Type};
use serde::Deserialize;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use crate::connection::Db;
use crate::connection::statement::Parameters;
use crate::error::DbError;

/// Which of these claims, by their jobs' ids and their epochs, no longer hold their job: by the same condition that an
/// outcome is stored by. A look-up by id for each of them, whatever the statistics say.
macro_rules! taken {
    ($ids:literal, $epochs:literal) => {
        concat!(
            "ARRAY(SELECT a.epoch FROM unnest(",
            $ids,
            "::bigint[], ",
            $epochs,
            "::bigint[]) AS a (id, epoch) WHERE \
             (SELECT j.locked_by = $1 AND j.epoch = a.epoch FROM @extschema@.jobs j WHERE j.id = a.id) IS NOT TRUE)"
        )
    };
}
pub(crate) use taken;

/// A heartbeat: what is before its SELECT, what it is joined with, and whose it is.
macro_rules! beat {
    ($with:literal, $joined:literal, $instance:literal) => {
        concat!(
            $with,
            "SELECT b.rescued, b.silent, b.overdue, b.expired, ",
            taken!("$7", "$8"),
            ", @internal@.exhausted_jobs(pg_catalog.array_cat(b.rescued, b.overdue))",
            " FROM (SELECT set_config('synchronous_commit', 'off', true)) AS unsynced, ",
            $joined,
            "@internal@.heartbeat($1, ",
            $instance,
            ", make_interval(secs => $3), $4, $5, make_interval(secs => $6)) b"
        )
    };
}

/// Registers the instance where it is not.
const SQL: &str = beat!("", "", "$2");

/// Does nothing where it is not: one that is carried out after the end of the registration must not begin another. The
/// row is locked against its end meanwhile.
const REGISTERED: &str = beat!(
    "WITH here AS (SELECT w.instance FROM @extschema@.workers w WHERE w.instance = $2 FOR KEY SHARE) ",
    "here, ",
    "here.instance"
);

const ENDED: &str = "SELECT @internal@.ended_instances($1, $2)";

const TAKE_BACK: &str =
    "SELECT t.ids, @internal@.exhausted_jobs(t.ids) FROM @internal@.take_back_jobs($1, $2, $3) AS t (ids)";

const INTERRUPT: &str =
    "SELECT i.ids, @internal@.exhausted_jobs(i.ids) FROM @internal@.interrupt_jobs($1, $2, $3) AS i (ids)";

/// A connection may have to be made first.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(250);

/// A worker process, as its heartbeat tells it.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Unlike the worker's id, never that of another process.
    pub id: Uuid,
    /// Without a heartbeat for so long, others take over what it runs.
    pub lease: Duration,
    /// Whether a session of its holds the instance's lock, so that its end shows at once.
    pub listens: bool,
    /// What to store when a callback has not come in time.
    pub overdue_message: String,
    /// When a lock no longer counts, whoever holds it.
    pub job_expiry: Duration,
}

impl Instance {
    /// Of a heartbeat. Durations are given in seconds.
    fn parameters<'a>(
        &'a self,
        worker_id: &'a &str,
        lease: &'a f64,
        expiry: &'a f64,
        running: &'a Running,
    ) -> [(&'a (dyn ToSql + Sync), Type); 8] {
        [
            (worker_id, Type::TEXT),
            (&self.id, Type::UUID),
            (lease, Type::FLOAT8),
            (&self.listens, Type::BOOL),
            (&self.overdue_message, Type::TEXT),
            (expiry, Type::FLOAT8),
            (&running.ids, Type::INT8_ARRAY),
            (&running.epochs, Type::INT8_ARRAY),
        ]
    }

    /// How long a heartbeat may take on one connection: with the other that is tried then, about as long as it is to
    /// the next, which has the lease to get through.
    pub(crate) fn heartbeat_timeout(&self) -> Duration {
        SHORTEST_TIMEOUT.max(self.lease / 12)
    }
}

/// Claims whose attempts run. A heartbeat asks whether they still stand.
#[derive(Clone, Default)]
pub struct Running {
    ids: Vec<i64>,
    epochs: Vec<i64>,
}

/// From job ids and epochs.
impl FromIterator<(i64, i64)> for Running {
    fn from_iter<T: IntoIterator<Item = (i64, i64)>>(claims: T) -> Self {
        let (ids, epochs) = claims.into_iter().unzip();
        Self { ids, epochs }
    }
}

impl Running {
    /// The arrays that a heartbeat takes.
    pub(crate) fn arrays(&self) -> (&Vec<i64>, &Vec<i64>) {
        (&self.ids, &self.epochs)
    }

    /// The claims with these epochs.
    fn with(&self, epochs: &[i64]) -> Vec<(i64, i64)> {
        let claims = self.ids.iter().copied().zip(self.epochs.iter().copied());
        claims.filter(|(_, epoch)| epochs.contains(epoch)).collect()
    }
}

/// A job that has failed for good when its attempt was ended by somebody who did not run it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ExhaustedJob {
    /// Which job.
    pub id: i64,
    /// Its task.
    pub task: String,
    /// Its named queue.
    pub queue: Option<String>,
    /// How many attempts it has had.
    pub attempts: i32,
    /// How many it may have.
    pub max_attempts: i32,
    /// Why the last one failed.
    pub error: Option<String>,
}

/// Jobs that were interrupted: their attempts are over, as far as the database is concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interrupted {
    /// All of them.
    pub jobs: Vec<i64>,
    /// Those of them that have no attempt left.
    pub exhausted: Vec<ExhaustedJob>,
}

impl Interrupted {
    /// From two columns.
    fn from_row(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self { jobs: row.try_get(0)?, exhausted: exhausted(row, 1)? })
    }
}

/// Reads what `exhausted_jobs` returns.
fn exhausted(row: &Row, index: usize) -> Result<Vec<ExhaustedJob>, tokio_postgres::Error> {
    let jobs: Option<Json<Vec<ExhaustedJob>>> = row.try_get(index)?;
    Ok(jobs.map(|jobs| jobs.0).unwrap_or_default())
}

/// What a heartbeat has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// Jobs whose worker went silent: they start again.
    pub rescued: Vec<i64>,
    /// The ids of those workers.
    pub silent: Vec<String>,
    /// Accepted jobs whose callback did not come in time: they have failed.
    pub overdue: Vec<i64>,
    /// Locks have expired: a claim from the start finds their jobs.
    pub expired: bool,
    /// Those of the claims that were asked about, as job id and epoch, that no longer hold their job: it is gone, or it
    /// was unlocked, or another claim has it.
    pub taken: Vec<(i64, i64)>,
    /// Those of the rescued and overdue jobs that have no attempt left.
    pub exhausted: Vec<ExhaustedJob>,
}

impl Heartbeat {
    /// From six columns, the first at `index`. `running` is what was asked about.
    pub(crate) fn from_row(row: &Row, index: usize, running: &Running) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            rescued: row.try_get(index)?,
            silent: row.try_get(index + 1)?,
            overdue: row.try_get(index + 2)?,
            expired: row.try_get(index + 3)?,
            taken: running.with(&row.try_get::<_, Vec<i64>>(index + 4)?),
            exhausted: exhausted(row, index + 5)?,
        })
    }
}

impl Db {
    /// A heartbeat, which takes no longer than `limit`; the first one registers the instance.
    pub(crate) async fn heartbeat(
        &self,
        worker_id: &str,
        instance: &Instance,
        running: &Running,
        limit: Duration,
    ) -> Result<Heartbeat, DbError> {
        let client = self.operation_within("heartbeat", limit).await?;
        let result = async {
            let (lease, expiry) = (instance.lease.as_secs_f64(), instance.job_expiry.as_secs_f64());
            let row = self.row(&client, SQL, &instance.parameters(&worker_id, &lease, &expiry, running)).await?;
            Heartbeat::from_row(&row, 0, running)
        };
        client.run("heartbeat", result).await
    }

    /// [`Db::heartbeat`] on a connection that is not the pool's. The instance is registered already.
    pub(crate) async fn heartbeat_by(
        &self,
        client: &Client,
        worker_id: &str,
        instance: &Instance,
        running: &Running,
    ) -> Result<Heartbeat, tokio_postgres::Error> {
        let (lease, expiry) = (instance.lease.as_secs_f64(), instance.job_expiry.as_secs_f64());
        let parameters = instance.parameters(&worker_id, &lease, &expiry, running);
        Heartbeat::from_row(&client.query_typed_one(&self.sql(SQL), &parameters).await?, 0, running)
    }

    /// [`Db::heartbeat_by`] on a connection that is made for it and closed after it, with nothing of what other
    /// runtimes drive. None where the instance is not registered. Who drops this does not keep a statement under way
    /// from being carried out.
    pub(crate) async fn heartbeat_apart(
        &self,
        worker_id: &str,
        instance: &Instance,
    ) -> Result<Option<Heartbeat>, DbError> {
        let beat = async {
            // Its messages are of no interest, but it ends with their receiver.
            let (client, _messages) = self.dedicated().await?;
            let (lease, expiry) = (instance.lease.as_secs_f64(), instance.job_expiry.as_secs_f64());
            let nothing = Running::default();
            let parameters = instance.parameters(&worker_id, &lease, &expiry, &nothing);
            let rows = client.query_typed(&self.sql(REGISTERED), &parameters).await?;
            rows.first().map(|row| Heartbeat::from_row(row, 0, &nothing)).transpose()
        };
        let limit = instance.lease / 3;
        match tokio::time::timeout(limit, beat).await {
            Ok(result) => result.map_err(DbError::query("heartbeat")),
            Err(_) => Err(DbError::Timeout { operation: "heartbeat", limit }),
        }
    }

    /// The other instances of this worker id whose session has ended, or is just connecting anew.
    pub(crate) async fn ended(&self, worker_id: &str, instance: Uuid) -> Result<Vec<Uuid>, DbError> {
        let client = self.operation().await?;
        let sql = self.sql(ENDED);
        let result = async {
            client.query_typed_one(&sql, &[(&worker_id, Type::TEXT), (&instance, Type::UUID)]).await?.try_get(0)
        };
        client.run("look for ended instances", result).await
    }

    /// Interrupts the jobs of those of the `ended` instances whose session still has not come back.
    pub(crate) async fn take_back(
        &self,
        worker_id: &str,
        instance: Uuid,
        ended: &[Uuid],
    ) -> Result<Interrupted, DbError> {
        let client = self.operation().await?;
        let sql = self.sql(TAKE_BACK);
        let parameters: Parameters<'_> =
            &[(&worker_id, Type::TEXT), (&instance, Type::UUID), (&ended, Type::UUID_ARRAY)];
        let result = async { Interrupted::from_row(&client.query_typed_one(&sql, parameters).await?) };
        client.run("take back", result).await
    }

    /// Interrupts what an instance holds in the database and, but for the claims with the epochs `kept`, does not know
    /// of.
    pub(crate) async fn interrupt(&self, instance: Uuid, reason: &str, kept: &[i64]) -> Result<Interrupted, DbError> {
        let client = self.operation().await?;
        let sql = self.sql(INTERRUPT);
        let parameters: Parameters<'_> = &[(&instance, Type::UUID), (&reason, Type::TEXT), (&kept, Type::INT8_ARRAY)];
        let result = async { Interrupted::from_row(&client.query_typed_one(&sql, parameters).await?) };
        client.run("interrupt", result).await
    }
}
