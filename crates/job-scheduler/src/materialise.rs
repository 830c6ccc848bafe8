//! Materialise: make the jobs of the schedules that fire now.

use std::collections::VecDeque;

use job_utils::db::{DbError, Materialised, SchedulerDb};
use job_utils::error::chain;

use crate::agenda::{Agenda, Fire};
use crate::clock::Clock;

/// Fires in one transaction: enough to share a round trip and a commit, few enough for the rows it locks to be free again
/// soon, and for Postgres to keep its list of subtransactions (64) in memory.
const BATCH: usize = 50;

/// What one round of fires made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fired {
    /// Jobs made.
    pub(crate) jobs: usize,
    /// Fires skipped because the previous job still waits or runs.
    pub(crate) skipped: usize,
    /// A schedule whose fire stays due, because another transaction holds a row that it needs or Postgres is short of
    /// something.
    pub(crate) waiting: Option<i64>,
}

/// Makes a job for each fire that is due. With an error, which is always one of reaching Postgres, the fires that are
/// certain to have made nothing stay due.
pub(crate) async fn run_once(db: &SchedulerDb, agenda: &mut Agenda, clock: &Clock) -> Result<Fired, DbError> {
    let mut fired = Fired::default();
    let mut due = VecDeque::from(agenda.due(clock.now()));
    while !due.is_empty() {
        let batch = due.len().min(BATCH);
        let schedules: Vec<i64> = due.iter().take(batch).map(|fire| fire.schedule).collect();
        match db.materialise(&schedules).await {
            // Those at the end may not have been tried; the first always was.
            Ok(made) => {
                let tried = made.len().clamp(1, batch);
                due.drain(..tried).zip(made).for_each(|(fire, made)| fired.take(fire, made, agenda, clock));
            }
            Err(error) if error.is_transient() => {
                if !is_certain(&error) {
                    // The jobs may have been made: never risk a second one.
                    for fire in due.drain(..batch) {
                        agenda.miss();
                        agenda.settle(fire, clock.now());
                    }
                }
                return Err(error);
            }
            Err(error) => {
                for fire in due.drain(..batch) {
                    refused(fire, &chain(&error));
                    agenda.settle(fire, clock.now());
                }
            }
        }
    }
    Ok(fired)
}

/// Whether the statement certainly did nothing: it was never sent, or Postgres itself says that it failed.
fn is_certain(error: &DbError) -> bool {
    matches!(error, DbError::Connect(_)) || error.sql_state().is_some()
}

fn refused(Fire { schedule, at }: Fire, message: &str) {
    tracing::error!(schedule.id = schedule, %at, "a fire made no job: {message}");
}

impl Fired {
    fn take(&mut self, fire: Fire, made: Materialised, agenda: &mut Agenda, clock: &Clock) {
        let Fire { schedule, at } = fire;
        match made {
            Materialised::Blocked | Materialised::Refused { transient: true, .. } => {
                self.waiting = Some(schedule);
                return;
            }
            Materialised::Job(job) => {
                self.jobs += 1;
                tracing::debug!(schedule.id = schedule, job.id = job, %at, "a schedule fired");
            }
            Materialised::AlreadyScheduled => {
                self.skipped += 1;
                tracing::debug!(schedule.id = schedule, %at, "a fire is skipped: the previous job still waits or runs");
            }
            Materialised::Gone => {
                tracing::debug!(schedule.id = schedule, "a schedule is gone");
                agenda.forget(schedule);
            }
            Materialised::Refused { state, message, .. } => refused(fire, &format!("{message} ({state})")),
        }
        agenda.settle(fire, clock.now());
    }
}
