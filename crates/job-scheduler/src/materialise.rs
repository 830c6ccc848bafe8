//! Materialise: make the jobs of the schedules that fire now.

use std::collections::HashSet;

use job_utils::db::{DbError, Fire, Materialised, SchedulerDb};

use crate::agenda::Agenda;
use crate::clock::Clock;

/// Fires in one transaction: enough to share a round trip and a commit, few enough for the rows it locks to be free again
/// soon.
const BATCH: usize = 200;

/// Batches until heartbeats and new schedules get their turn.
const ROUNDS: usize = 20;

/// What one round of fires made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fired {
    /// Jobs made.
    pub(crate) jobs: usize,
    /// A schedule whose fire stays due, because another transaction holds a row that it needs or Postgres is short of
    /// something.
    pub(crate) waiting: Option<i64>,
    /// Schedules are held no longer, or are not what they were: look.
    pub(crate) lost: bool,
}

/// Makes a job for each fire that is due, for a while: with very many, others get a turn. With an error, which is always one of
/// reaching Postgres, fires stay due; those that were made all the same are known next time.
pub(crate) async fn run_once(db: &SchedulerDb, agenda: &mut Agenda, clock: &mut Clock) -> Result<Fired, DbError> {
    let mut fired = Fired::default();
    let mut blocked = HashSet::new();
    for _ in 0..ROUNDS {
        let fires = agenda.due(clock.now(), BATCH, &blocked);
        if fires.is_empty() {
            break;
        }
        let made = db.materialise(&fires).await?;
        if made.is_empty() {
            break;
        }
        let mut early = false;
        for (fire, made) in fires.into_iter().zip(made) {
            early |= made == Materialised::Early;
            fired.take(fire, made, agenda, &mut blocked);
        }
        if early {
            clock.follow(db).await?;
            break;
        }
    }
    Ok(fired)
}

impl Fired {
    fn take(&mut self, fire: Fire, made: Materialised, agenda: &mut Agenda, blocked: &mut HashSet<i64>) {
        let Fire { schedule, at, .. } = fire;
        match made {
            Materialised::Early => return,
            Materialised::Blocked(reason) => {
                tracing::debug!(schedule.id = schedule, %at, "a fire waits: {reason}");
                blocked.insert(schedule);
                self.waiting = Some(schedule);
                return;
            }
            Materialised::Lost => {
                tracing::debug!(schedule.id = schedule, "a schedule is held no longer, or has changed");
                agenda.forget(schedule);
                self.lost = true;
                return;
            }
            Materialised::Job(job) => {
                self.jobs += 1;
                tracing::debug!(schedule.id = schedule, job.id = job, %at, "a schedule fired");
            }
            Materialised::AlreadyScheduled => {
                tracing::debug!(schedule.id = schedule, %at, "a fire is skipped: the previous job still waits or runs");
            }
            Materialised::Known => tracing::debug!(schedule.id = schedule, %at, "a fire had been dealt with"),
            Materialised::Refused(message) => {
                tracing::error!(schedule.id = schedule, %at, "a fire made no job: {message}");
            }
        }
        agenda.settle(fire);
    }
}
