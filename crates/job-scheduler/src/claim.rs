//! Claim: take schedules that nobody watches, and see what became of those already taken.

use std::collections::{BTreeSet, HashMap, HashSet};

use job_pg::{DbError, Look, LookFor, ScheduledJob, SchedulerDb};
use job_utils::config::Tasks;

use crate::agenda::{Agenda, Looked};

/// How many schedules one statement claims: enough for a start with many of them to be quick, few enough for fires to be
/// made in between and for memory to stay small.
pub(crate) const BATCH: i32 = 2000;

/// How many marks one statement writes: their rows stay locked meanwhile.
const MARKS: usize = 500;

/// How many schedules that nobody takes one statement tells of, and how many of them the log names.
const UNTAKEN: i64 = 500;
const NAMED: usize = 10;

/// What a look brought.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claimed {
    /// Schedules that are new or have a new rule.
    pub(crate) taken: usize,
    /// Schedules that were deleted, paused or taken away.
    pub(crate) gone: usize,
}

/// A heartbeat that claims up to `limit` of what is free, or says in digests what is held, when there is nothing and `compare` is
/// set. `alone`: as in [`LookFor`].
pub(crate) async fn look(
    db: &SchedulerDb,
    tasks: &Tasks,
    limit: i32,
    alone: bool,
    compare: bool,
) -> Result<Look, DbError> {
    db.look(LookFor { tasks: tasks.as_filter(), limit, alone, compare }).await
}

/// Takes in what was claimed, or what has changed among the rows held.
pub(crate) async fn take(
    db: &SchedulerDb,
    tasks: &Tasks,
    agenda: &mut Agenda,
    look: &Look,
) -> Result<Claimed, DbError> {
    let mut claimed = Claimed::default();
    claimed.take_in(db, agenda, &look.claimed).await?;
    let differing = look.held.as_ref().map(|held| agenda.differing(held)).unwrap_or_default();
    if differing.is_empty() {
        return Ok(claimed);
    }
    let blocks: Vec<_> = differing.iter().copied().collect();
    let (ours, others): (Vec<_>, Vec<_>) =
        db.held(&blocks).await?.into_iter().partition(|row| tasks.include(&row.task));
    claimed.take_in(db, agenda, &ours).await?;
    let ids: HashSet<i64> = ours.iter().map(|row| row.id).collect();
    claimed.gone += agenda.retain(&differing, &ids);
    if !others.is_empty() {
        // Its task was changed to one that is not for this scheduler.
        let others: Vec<i64> = others.iter().map(|row| row.id).collect();
        db.release_schedules(&others).await?;
    }
    Ok(claimed)
}

/// Tells of schedules whose tasks no live scheduler takes.
pub(crate) async fn tell_untaken(db: &SchedulerDb) -> Result<(), DbError> {
    let untaken = db.tell_untaken(UNTAKEN).await?;
    if untaken.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = untaken.iter().map(|(id, _)| *id).take(NAMED).collect();
    let tasks: BTreeSet<&str> = untaken.iter().map(|(_, task)| task.as_str()).collect();
    let tasks: Vec<&str> = tasks.into_iter().take(NAMED).collect();
    tracing::warn!(
        schedules = untaken.len(),
        schedule.ids = ?ids,
        job.tasks = ?tasks,
        "no live scheduler takes the tasks of schedules: they do not fire until one does (JOBS_SUPPORTED)"
    );
    Ok(())
}

/// Writes a batch of what is to be marked. Marks of rows that another transaction holds are kept for the next time.
pub(crate) async fn mark(db: &SchedulerDb, agenda: &mut Agenda) -> Result<(), DbError> {
    let marks = agenda.marks(MARKS);
    let locked = db.mark(&marks).await?;
    marks.iter().filter(|mark| !locked.contains(&mark.schedule)).for_each(|mark| agenda.marked(mark));
    Ok(())
}

impl Claimed {
    /// Takes in rows. The texts of those that are new, or other than before, are read first, a few bytes at a time.
    async fn take_in(&mut self, db: &SchedulerDb, agenda: &mut Agenda, rows: &[ScheduledJob]) -> Result<(), DbError> {
        let (unread, others): (Vec<_>, Vec<_>) = rows.iter().partition(|row| agenda.needs_text_of(row));
        others.into_iter().for_each(|row| self.look_at(agenda, row));
        let mut unread = &unread[..];
        let expected: HashMap<i64, i64> = unread.iter().map(|row| (row.id, row.digest)).collect();
        while !unread.is_empty() {
            let (rows, rest) = db.with_text(unread).await?;
            // What has changed since, its task perhaps, is left for the next comparison.
            for row in rows.iter().filter(|row| expected.get(&row.id) == Some(&row.digest)) {
                self.look_at(agenda, row);
            }
            unread = rest;
        }
        Ok(())
    }

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
