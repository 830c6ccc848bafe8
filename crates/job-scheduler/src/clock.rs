//! The database's time, without asking for it at each fire.
//!
//! Hosts disagree about the time and correct it in steps; the database is the one that all schedulers share. Between
//! two measurements this host's monotonic clock counts, which no correction moves.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use job_pg::{DbError, SchedulerDb};

/// How long a measurement counts: two clocks part by a few milliseconds in it.
const FRESH: Duration = Duration::from_secs(60);

/// The database's clock was set back when it is behind by more.
const STEP: SignedDuration = SignedDuration::from_secs(5);

/// A clock that follows the database's. Before the first measurement it shows a time when nothing is due.
pub(crate) struct Clock {
    measured: Timestamp,
    at: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self { measured: Timestamp::MIN, at: Instant::now() }
    }
}

impl Clock {
    /// Measures.
    pub(crate) async fn follow(&mut self, db: &SchedulerDb) -> Result<(), DbError> {
        let measured = db.now().await?;
        // Taken after the answer came, so that this clock is never ahead: a fire may be late by a round trip, not
        // early.
        *self = Self { measured, at: Instant::now() };
        Ok(())
    }

    /// Takes over a measurement that came with something else, where it says more than the last one: that is ahead of
    /// this clock (no measurement is ahead of the database's), a good deal behind it, or the last one is old. One at
    /// each occasion would move the clock by what the answers' ways differ in.
    pub(crate) fn learn(&mut self, measured: Timestamp) {
        let now = self.now();
        if measured > now || now.duration_since(measured) > STEP || self.at.elapsed() >= FRESH {
            *self = Self { measured, at: Instant::now() };
        }
    }

    /// The database's time now.
    pub(crate) fn now(&self) -> Timestamp {
        self.measured.checked_add(self.at.elapsed()).unwrap_or(Timestamp::MAX)
    }
}
