//! Claim: take schedules that nobody watches, and see what became of those already taken.

use std::collections::HashSet;
use std::time::Duration;

use job_utils::config::Tasks;
use job_utils::db::{Block, DbError, Digest, LookFor, ScheduledJob, SchedulerDb};

use crate::agenda::{Agenda, Looked};
use crate::clock::Clock;

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
    /// There may be more to claim.
    pub(crate) more: bool,
    /// Until the next lease of another scheduler ends.
    pub(crate) expires_in: Option<Duration>,
}

/// A heartbeat that claims a batch of what is free. When there is nothing and `compare` is set, takes in what has changed among
/// the rows held. `alone`: as in [`LookFor`].
pub(crate) async fn run_once(
    db: &SchedulerDb,
    tasks: &Tasks,
    agenda: &mut Agenda,
    clock: &mut Clock,
    alone: bool,
    compare: bool,
) -> Result<Claimed, DbError> {
    let look = db.look(LookFor { tasks: tasks.as_filter(), limit: BATCH, alone, compare }).await?;
    clock.learn(look.now);
    agenda.steady_since(look.steady_since);
    let mut claimed = Claimed { more: !look.claimed.is_empty(), expires_in: look.expires_in, ..Claimed::default() };
    for row in &look.claimed {
        claimed.look_at(agenda, row);
    }
    if let Some(held) = &look.held {
        take_changes(db, tasks, agenda, held, &mut claimed).await?;
    }
    Ok(claimed)
}

/// Takes in what differs from what is known.
async fn take_changes(
    db: &SchedulerDb,
    tasks: &Tasks,
    agenda: &mut Agenda,
    held: &[(Block, Digest)],
    claimed: &mut Claimed,
) -> Result<(), DbError> {
    let differing = agenda.differing(held);
    if differing.is_empty() {
        return Ok(());
    }
    let blocks: Vec<_> = differing.iter().copied().collect();
    let (ours, others): (Vec<_>, Vec<_>) =
        db.held(&blocks).await?.into_iter().partition(|row| tasks.include(&row.task_identifier));
    let ids: HashSet<i64> = ours.iter().map(|row| row.id).collect();
    for row in &ours {
        claimed.look_at(agenda, row);
    }
    claimed.gone += agenda.retain(&differing, &ids);
    if !others.is_empty() {
        // Its task was changed to one that is not for this scheduler.
        let others: Vec<i64> = others.iter().map(|row| row.id).collect();
        db.release_scheduled(&others).await?;
    }
    Ok(())
}

/// Writes a batch of what is to be marked. Returns whether there is more.
pub(crate) async fn mark(db: &SchedulerDb, agenda: &mut Agenda) -> Result<bool, DbError> {
    let marks = agenda.marks(MARKS);
    if !marks.is_empty() {
        db.mark(&marks).await?;
        marks.iter().for_each(|mark| agenda.marked(mark));
    }
    Ok(agenda.has_marks())
}

impl Claimed {
    fn look_at(&mut self, agenda: &mut Agenda, row: &ScheduledJob) {
        match agenda.look_at(row) {
            Looked::Known => {}
            Looked::Taken => self.taken += 1,
            Looked::Invalid(error) => {
                tracing::warn!(
                    schedule.id = row.id,
                    job.task = row.task_identifier,
                    "a schedule cannot be used until it is changed: {error}"
                );
            }
        }
    }
}
