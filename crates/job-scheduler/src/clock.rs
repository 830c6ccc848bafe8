//! The database's time, without asking for it at each fire.
//!
//! Hosts disagree about the time and correct it in steps; the database is the one that all schedulers share. Between two
//! measurements this host's monotonic clock counts, which no correction moves.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use job_utils::db::{DbError, SchedulerDb};

/// How long a measurement counts: two clocks part by a few milliseconds in it.
const FRESH: Duration = Duration::from_secs(60);

/// A clock that follows the database's.
pub(crate) struct Clock {
    measured: Timestamp,
    at: Instant,
}

impl Clock {
    /// Measures for the first time.
    pub(crate) async fn start(db: &SchedulerDb) -> Result<Self, DbError> {
        let measured = db.now().await?;
        // Taken after the answer came, so that this clock is never ahead: a fire may be late by a round trip, not early.
        Ok(Self { measured, at: Instant::now() })
    }

    /// Measures again, when the last time is long ago or `doubted`.
    pub(crate) async fn follow(&mut self, db: &SchedulerDb, doubted: bool) -> Result<(), DbError> {
        if doubted || self.at.elapsed() >= FRESH {
            *self = Self::start(db).await?;
        }
        Ok(())
    }

    /// The database's time now.
    pub(crate) fn now(&self) -> Timestamp {
        self.measured.checked_add(self.at.elapsed()).unwrap_or(Timestamp::MAX)
    }
}
