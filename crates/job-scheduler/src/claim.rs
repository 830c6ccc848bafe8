//! Claim: take schedules that nobody holds, and compare those that are held with the table.

use std::collections::{BTreeSet, HashMap, HashSet};

use job_pg::{DbError, ScheduledJob, SchedulerDb, SchedulerHeartbeat, SchedulerHeartbeatReply};
use job_utils::config::Tasks;
use job_utils::events::{Event, Events};

use crate::agenda::{Agenda, RowChange};

/// How many schedules one statement claims: enough for a start with many of them to be quick, few enough for fires to
/// be made in between and for memory to stay small.
pub(crate) const BATCH: i32 = 2000;

/// How many marks one statement writes: their rows stay locked meanwhile.
const MARKS: usize = 500;

/// How many schedules that nobody takes one statement marks, and how many of them the log names.
const UNTAKEN: i64 = 500;
const LOGGED: usize = 10;

/// What a heartbeat has changed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Schedules that are new or have a new rule.
    pub(crate) taken: usize,
    /// Schedules that were deleted, paused or taken away.
    pub(crate) gone: usize,
}

/// A heartbeat that claims up to `limit` of what is free, or says in digests what is held, when there is nothing and
/// `compare` is set. `alone`: as in [`SchedulerHeartbeat`].
pub(crate) async fn heartbeat(
    db: &SchedulerDb,
    tasks: &Tasks,
    limit: i32,
    alone: bool,
    compare: bool,
) -> Result<SchedulerHeartbeatReply, DbError> {
    db.heartbeat(SchedulerHeartbeat { tasks: tasks.as_filter(), limit, alone, compare }).await
}

/// Updates the agenda by what was claimed, or by what has changed among the rows held.
pub(crate) async fn apply(
    db: &SchedulerDb,
    tasks: &Tasks,
    agenda: &mut Agenda,
    heartbeat: &SchedulerHeartbeatReply,
    events: &Events,
) -> Result<Changes, DbError> {
    let mut changes = Changes::default();
    changes.apply(db, agenda, &heartbeat.claimed, events).await?;
    let differing = heartbeat.held.as_ref().map(|held| agenda.differing(held)).unwrap_or_default();
    if differing.is_empty() {
        return Ok(changes);
    }
    let blocks: Vec<_> = differing.iter().copied().collect();
    let (ours, others): (Vec<_>, Vec<_>) =
        db.held(&blocks).await?.into_iter().partition(|row| tasks.include(&row.task));
    changes.apply(db, agenda, &ours, events).await?;
    let ids: HashSet<i64> = ours.iter().map(|row| row.id).collect();
    changes.gone += agenda.retain(&differing, &ids);
    if !others.is_empty() {
        // Its task was changed to one that is not for this scheduler.
        let others: Vec<i64> = others.iter().map(|row| row.id).collect();
        db.release_schedules(&others).await?;
    }
    Ok(changes)
}

/// Marks schedules whose tasks no live scheduler takes, and logs them.
pub(crate) async fn warn_untaken(db: &SchedulerDb) -> Result<(), DbError> {
    let untaken = db.mark_untaken(UNTAKEN).await?;
    if untaken.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = untaken.iter().map(|(id, _)| *id).take(LOGGED).collect();
    let tasks: BTreeSet<&str> = untaken.iter().map(|(_, task)| task.as_str()).collect();
    let tasks: Vec<&str> = tasks.into_iter().take(LOGGED).collect();
    tracing::warn!(
        schedules = untaken.len(),
        schedule.ids = ?ids,
        job.tasks = ?tasks,
        "no live scheduler takes the tasks of schedules: they do not fire until one does (JOBS_SUPPORTED)"
    );
    Ok(())
}

/// Writes a batch of what is to be marked. A mark that is not written is kept: another transaction holds the row, which
/// is free the next time; or the schedule is no longer the one that the agenda knows, which the next comparison shows.
pub(crate) async fn mark(db: &SchedulerDb, agenda: &mut Agenda, events: &Events) -> Result<(), DbError> {
    let marks = agenda.marks(MARKS);
    let written = db.mark(&marks).await?;
    for mark in marks.iter().filter(|mark| written.contains(&mark.schedule)) {
        let schedule_id = mark.schedule;
        if let Some((last, _)) = mark.missed {
            events.emit(&Event::FiresMissed { schedule_id, last });
        }
        if mark.ended {
            events.emit(&Event::ScheduleEnded { schedule_id });
        }
        agenda.marked(mark);
    }
    Ok(())
}

impl Changes {
    /// Updates the agenda by rows. The texts of those that are new, or other than before, are read first, a few bytes
    /// at a time.
    async fn apply(
        &mut self,
        db: &SchedulerDb,
        agenda: &mut Agenda,
        rows: &[ScheduledJob],
        events: &Events,
    ) -> Result<(), DbError> {
        let (unread, others): (Vec<_>, Vec<_>) = rows.iter().partition(|row| agenda.needs_text_of(row));
        others.into_iter().for_each(|row| self.update(agenda, row, events));
        let mut unread = &unread[..];
        let expected: HashMap<i64, i64> = unread.iter().map(|row| (row.id, row.digest)).collect();
        while !unread.is_empty() {
            let (rows, rest) = db.with_text(unread).await?;
            // What has changed since, its task perhaps, is left for the next comparison.
            for row in rows.iter().filter(|row| expected.get(&row.id) == Some(&row.digest)) {
                self.update(agenda, row, events);
            }
            unread = rest;
        }
        Ok(())
    }

    fn update(&mut self, agenda: &mut Agenda, row: &ScheduledJob, events: &Events) {
        match agenda.update(row) {
            RowChange::None => {}
            RowChange::New => self.taken += 1,
            RowChange::Invalid(error) => {
                events.emit(&Event::ScheduleInvalid { schedule_id: row.id, task: &row.task, error: &error });
            }
        }
    }
}
