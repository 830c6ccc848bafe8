//! Materialise: make the jobs of the schedules that fire now.

use job_utils::db::{DbError, Materialised, SchedulerDb};
use job_utils::error::chain;

use crate::agenda::{Agenda, Fire};
use crate::clock::Clock;

/// What one round of fires made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fired {
    /// Jobs made.
    pub(crate) jobs: usize,
    /// Fires skipped because the previous job still waits or runs.
    pub(crate) skipped: usize,
}

/// Makes a job for each fire that is due. With an error, which is always one of reaching Postgres, the fires that are
/// certain to have made nothing stay due.
pub(crate) async fn run_once(db: &SchedulerDb, agenda: &mut Agenda, clock: &Clock) -> Result<Fired, DbError> {
    let mut fired = Fired::default();
    let mut blocked = None;
    for fire in agenda.due(clock.now()) {
        let result = db.materialise(fire.schedule).await;
        match result {
            // A producer's transaction holds this schedule's queue: its fire stays due, the others go on.
            Err(error) if error.is_blocked() => blocked = Some(error),
            Err(error) if error.is_transient() => {
                if !is_certain(&error) {
                    // The job may have been made: never risk a second one.
                    agenda.miss();
                    agenda.settle(fire, clock.now());
                }
                return Err(error);
            }
            result => {
                fired.count(&result, fire);
                agenda.settle(fire, clock.now());
                if matches!(result, Ok(Materialised::Gone)) {
                    agenda.forget(fire.schedule);
                }
            }
        }
    }
    match blocked {
        Some(error) => Err(error),
        None => Ok(fired),
    }
}

/// Whether the statement certainly did nothing: it was never sent, or Postgres itself says that it failed.
fn is_certain(error: &DbError) -> bool {
    matches!(error, DbError::Connect(_)) || error.sql_state().is_some()
}

impl Fired {
    fn count(&mut self, result: &Result<Materialised, DbError>, fire: Fire) {
        let (schedule, at) = (fire.schedule, fire.at);
        match result {
            Ok(Materialised::Job(job)) => {
                self.jobs += 1;
                tracing::debug!(schedule.id = schedule, job.id = job, %at, "a schedule fired");
            }
            Ok(Materialised::AlreadyScheduled) => {
                self.skipped += 1;
                tracing::debug!(schedule.id = schedule, %at, "a fire is skipped: the previous job still waits or runs");
            }
            Ok(Materialised::Gone) => tracing::debug!(schedule.id = schedule, "a schedule is gone"),
            Err(error) => {
                tracing::error!(schedule.id = schedule, %at, "a fire made no job: {}", chain(error));
            }
        }
    }
}
