//! Materialise: make the jobs of schedules that fire, and write down what became of each fire.

use std::time::Duration;

use jiff::Timestamp;
use postgres_types::Type;
use tokio_postgres::Row;

use crate::connection::statement::Parameters;
use crate::error::DbError;
use crate::schedules::SchedulerDb;

const SQL: &str = "SELECT outcome, job_id, sql_state, message FROM @internal@.fire_schedules($1, $2, $3, $4, $5, $6)";
const OPERATION: &str = "materialise";

/// More than a lock is waited for, twice.
const SHORTEST_TIMEOUT: Duration = Duration::from_secs(1);

/// A fire of a schedule that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fire {
    /// The schedule's id.
    pub schedule: i64,
    /// As in [`ScheduledJob::digest`](crate::ScheduledJob::digest).
    pub digest: i64,
    /// When the rule says.
    pub at: Timestamp,
    /// Whether a job is made while the previous one waits or runs.
    pub overlap: bool,
}

/// What became of a fire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Materialised {
    /// It made a job with this id.
    Job(i64),
    /// It made none: the previous job still waits or runs.
    AlreadyScheduled,
    /// It made none: a trigger of the application's kept the job out, as this says.
    KeptOut(String),
    /// It had been dealt with before.
    Known,
    /// Nothing: this instance does not hold the schedule, or not as it knows it.
    Lost,
    /// Nothing: by the database's clock it is not due yet.
    Early,
    /// Nothing: another transaction holds a row that is needed, or the server is short of something. It may succeed
    /// later.
    Blocked(String),
    /// It made none: Postgres refuses for good.
    Refused(String),
}

impl Materialised {
    fn from_row(row: &Row) -> Result<Self, tokio_postgres::Error> {
        let text = |index| row.try_get::<_, Option<String>>(index).map(Option::unwrap_or_default);
        let outcome: &str = row.try_get(0)?;
        Ok(match (outcome, row.try_get(1)?) {
            ("made", Some(job)) => Self::Job(job),
            ("skipped", _) if row.try_get::<_, Option<&str>>(2)?.is_some() => Self::KeptOut(text(3)?),
            ("skipped", _) => Self::AlreadyScheduled,
            ("known", _) => Self::Known,
            ("early", _) => Self::Early,
            ("blocked", _) => Self::Blocked(text(3)?),
            ("failed", _) => Self::Refused(format!("{} ({})", text(3)?, text(2)?)),
            _ => Self::Lost,
        })
    }
}

impl SchedulerDb {
    /// Makes a job for each fire, in one transaction that takes no longer than a part of the lease. What one makes does
    /// not depend on the others, but the first that waited for a lock in vain is the last that is tried: the answer
    /// has, in the order given, those that were. Fires of one schedule have to come in the order of their times.
    ///
    /// # Errors
    /// Postgres is away or refuses, or it took too long. Fires may have been made all the same: tried again, they are
    /// known.
    pub async fn materialise(&self, fires: &[Fire]) -> Result<Vec<Materialised>, DbError> {
        let schedules: Vec<i64> = fires.iter().map(|fire| fire.schedule).collect();
        let digests: Vec<i64> = fires.iter().map(|fire| fire.digest).collect();
        let ats: Vec<Timestamp> = fires.iter().map(|fire| fire.at).collect();
        let overlaps: Vec<bool> = fires.iter().map(|fire| fire.overlap).collect();
        let client = self.db.operation_within(OPERATION, SHORTEST_TIMEOUT.max(self.instance.lease / 3)).await?;
        let result = async {
            let parameters: Parameters<'_> = &[
                (&self.scheduler_id, Type::TEXT),
                (&self.instance.id, Type::UUID),
                (&schedules, Type::INT8_ARRAY),
                (&digests, Type::INT8_ARRAY),
                (&ats, Type::TIMESTAMPTZ_ARRAY),
                (&overlaps, Type::BOOL_ARRAY),
            ];
            let rows = self.db.rows(&client, SQL, parameters).await?;
            rows.iter().map(Materialised::from_row).collect::<Result<Vec<_>, _>>()
        };
        client.run(OPERATION, result).await
    }
}
