//! Claim: take schedules that nobody watches, and see what became of those already taken.

use std::collections::HashSet;

use job_utils::db::{DbError, ScheduledJob, SchedulerDb};

use crate::agenda::{Agenda, Looked};
use crate::clock::Clock;

/// How many schedules one statement claims: enough for a start with many of them to be quick, few enough for fires to be
/// made in between and for memory to stay small.
const BATCH: i32 = 2000;

/// What a look brought.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claimed {
    /// Schedules that are new or have a new rule.
    pub(crate) taken: usize,
    /// Schedules that were deleted or taken away.
    pub(crate) gone: usize,
    /// Schedules that are held under this id, and not by this process.
    pub(crate) strange: usize,
}

/// Claims a batch of what is free. When there is nothing left, takes in what has changed among the rows held, and returns
/// what the whole look brought, which is added up in `so_far`.
///
/// `adopt` takes in also rows held under this id that are not known here: those of a claim whose answer was lost.
/// Otherwise they are another process's with the same id, and its own business.
pub(crate) async fn run_once(
    db: &SchedulerDb,
    tasks: Option<&[String]>,
    agenda: &mut Agenda,
    clock: &mut Clock,
    adopt: bool,
    so_far: &mut Claimed,
) -> Result<Option<Claimed>, DbError> {
    let look = db.look(tasks, BATCH).await?;
    clock.learn(look.now);
    if !look.claimed.is_empty() {
        for row in look.claimed {
            so_far.look_at(agenda, row, clock);
        }
        return Ok(None);
    }
    let differing = agenda.differing(&look.held);
    if !differing.is_empty() {
        let blocks: Vec<_> = differing.iter().copied().collect();
        let rows = db.held(&blocks).await?;
        let held: HashSet<i64> = rows.iter().map(|row| row.id).collect();
        for row in rows {
            if adopt || agenda.holds(row.id) {
                so_far.look_at(agenda, row, clock);
            } else {
                so_far.strange += 1;
            }
        }
        so_far.gone += agenda.retain(&differing, &held);
    }
    Ok(Some(std::mem::take(so_far)))
}

impl Claimed {
    fn look_at(&mut self, agenda: &mut Agenda, row: ScheduledJob, clock: &Clock) {
        let (id, task) = (row.id, row.task_identifier);
        match agenda.look_at(id, &row.schedule_info, row.digest, clock.now()) {
            Looked::Known => {}
            Looked::Taken => self.taken += 1,
            Looked::Invalid(error) => {
                tracing::warn!(
                    schedule.id = id,
                    job.task = task,
                    "a schedule cannot be used until it is changed: {error}"
                );
            }
        }
    }
}
