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

    /// Measures again.
    pub(crate) async fn follow(&mut self, db: &SchedulerDb) -> Result<(), DbError> {
        *self = Self::start(db).await?;
        Ok(())
    }

    /// Takes over a measurement that came with something else, unless the last one is fresh. A measurement at each
    /// occasion would move the clock by what the answers' ways differ in.
    pub(crate) fn learn(&mut self, measured: Timestamp) {
        if self.at.elapsed() >= FRESH / 2 {
            *self = Self { measured, at: Instant::now() };
        }
    }

    /// Whether the last measurement is too long ago to fire by.
    pub(crate) fn is_old(&self) -> bool {
        self.at.elapsed() >= FRESH
    }

    /// The database's time now.
    pub(crate) fn now(&self) -> Timestamp {
        self.measured.checked_add(self.at.elapsed()).unwrap_or(Timestamp::MAX)
    }
}
