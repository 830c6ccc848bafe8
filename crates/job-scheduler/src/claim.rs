//! Claim: take schedules that nobody watches, and see what became of those already taken.

use std::collections::HashSet;

use job_utils::config::Tasks;
use job_utils::db::{DbError, Look, LookFor, ScheduledJob, SchedulerDb};

use crate::agenda::{Agenda, Looked};

/// How many schedules one statement claims: enough for a start with many of them to be quick, few enough for fires to be
/// made in between and for memory to stay small.
const BATCH: i32 = 2000;

/// How many marks one statement writes: their rows stay locked meanwhile.
const MARKS: usize = 500;

/// What a look brought.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claimed {
    /// Schedules that are new or have a new rule.
    pub(crate) taken: usize,
    /// Schedules that were deleted, paused or taken away.
    pub(crate) gone: usize,
}

/// A heartbeat that claims a batch of what is free, or says in digests what is held, when there is nothing and `compare` is
/// set. `alone`: as in [`LookFor`].
pub(crate) async fn look(db: &SchedulerDb, tasks: &Tasks, alone: bool, compare: bool) -> Result<Look, DbError> {
    db.look(LookFor { tasks: tasks.as_filter(), limit: BATCH, alone, compare }).await
}

/// Takes in what was claimed, or what has changed among the rows held.
pub(crate) async fn take(
    db: &SchedulerDb,
    tasks: &Tasks,
    agenda: &mut Agenda,
    look: &Look,
) -> Result<Claimed, DbError> {
    let mut claimed = Claimed::default();
    for row in &look.claimed {
        claimed.look_at(agenda, row);
    }
    let differing = look.held.as_ref().map(|held| agenda.differing(held)).unwrap_or_default();
    if differing.is_empty() {
        return Ok(claimed);
    }
    let blocks: Vec<_> = differing.iter().copied().collect();
    let (ours, others): (Vec<_>, Vec<_>) =
        db.held(&blocks).await?.into_iter().partition(|row| tasks.include(&row.task));
    let ids: HashSet<i64> = ours.iter().map(|row| row.id).collect();
    for row in &ours {
        claimed.look_at(agenda, row);
    }
    claimed.gone += agenda.retain(&differing, &ids);
    if !others.is_empty() {
        // Its task was changed to one that is not for this scheduler.
        let others: Vec<i64> = others.iter().map(|row| row.id).collect();
        db.release_schedules(&others).await?;
    }
    Ok(claimed)
}

/// Writes a batch of what is to be marked. Marks of rows that another transaction holds are kept for the next time.
pub(crate) async fn mark(db: &SchedulerDb, agenda: &mut Agenda) -> Result<(), DbError> {
    let marks = agenda.marks(MARKS);
    let locked = db.mark(&marks).await?;
    marks.iter().filter(|mark| !locked.contains(&mark.schedule)).for_each(|mark| agenda.marked(mark));
    Ok(())
}

impl Claimed {
    fn look_at(&mut self, agenda: &mut Agenda, row: &ScheduledJob) {
        match agenda.look_at(row) {
            Looked::Known => {}
            Looked::Taken => self.taken += 1,
            Looked::Invalid(error) => {
                tracing::warn!(
                    schedule.id = row.id,
                    job.task = row.task,
                    "a schedule cannot be used until it is changed: {error}"
                );
            }
        }
    }
}
