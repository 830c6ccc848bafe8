//! What a scheduler keeps in memory: the schedules it holds, and which of them fires next. No clock, no I/O.

use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};
use job_utils::db::{Block, Digest};

use crate::timetable::{RuleError, TimeZone, Timetable};

/// A fire that could not be made for so long is missed. Long enough for a restart of Postgres to delay a fire rather
/// than to lose it, short enough for a late fire not to surprise.
const LATEST: SignedDuration = SignedDuration::from_secs(60);

/// A schedule's fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fire {
    pub(crate) schedule: i64,
    pub(crate) at: Timestamp,
}

/// What looking at a schedule's row brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    /// The schedule is new here, or its rule is another one.
    Taken,
    /// Nothing is new.
    Known,
    /// The rule cannot be used. Told once, until it changes.
    Invalid(RuleError),
}

/// The schedules a scheduler holds.
pub(crate) struct Agenda {
    default_zone: TimeZone,
    schedules: HashMap<i64, Schedule>,
    /// Next fires, soonest first. Schedules without one are not in it.
    queue: BTreeSet<(Timestamp, i64)>,
    /// The digests of what is held, to compare with the table's.
    blocks: HashMap<Block, Digest>,
    missed: u64,
}

struct Schedule {
    /// Of its schedule_info: the text itself is not kept.
    digest: i64,
    /// None for a rule that cannot be used. Boxed: hash tables keep room for many more entries than they hold.
    timetable: Option<Box<Timetable>>,
    next: Option<Timestamp>,
    /// The latest fire that was settled: nothing at or before it fires again, whatever the clock does.
    settled: Option<Timestamp>,
}

impl Agenda {
    /// An empty agenda; `default_zone` is for rules that name none.
    pub(crate) fn new(default_zone: TimeZone) -> Self {
        Self { default_zone, schedules: HashMap::new(), queue: BTreeSet::new(), blocks: HashMap::new(), missed: 0 }
    }

    /// Takes in a schedule's schedule_info, and the digest that stands for it, as they are now. Its fires at or before `now`
    /// are over.
    pub(crate) fn look_at(&mut self, id: i64, info: &str, digest: i64, now: Timestamp) -> Looked {
        let known = self.schedules.get(&id);
        if known.is_some_and(|known| known.digest == digest) {
            return Looked::Known;
        }
        let settled = known.and_then(|known| known.settled);
        self.forget(id);
        let (timetable, looked) = match Timetable::from_json(info, &self.default_zone) {
            Ok(timetable) => (Some(Box::new(timetable)), Looked::Taken),
            Err(error) => (None, Looked::Invalid(error)),
        };
        self.schedules.insert(id, Schedule { digest, timetable, next: None, settled });
        let block = self.blocks.entry(Block::of(id)).or_default();
        block.count += 1;
        block.xor ^= digest;
        self.advance(id, now);
        looked
    }

    /// Whether the schedule is held.
    pub(crate) fn holds(&self, id: i64) -> bool {
        self.schedules.contains_key(&id)
    }

    /// The blocks in which `held`, what the table says, differs from what is known here.
    pub(crate) fn differing(&self, held: &[(Block, Digest)]) -> HashSet<Block> {
        let held: HashMap<Block, Digest> = held.iter().copied().collect();
        let blocks = held.keys().chain(self.blocks.keys()).copied();
        blocks.filter(|block| held.get(block) != self.blocks.get(block)).collect()
    }

    /// Forgets every schedule of these blocks that is not among `ids`; returns how many.
    pub(crate) fn retain(&mut self, blocks: &HashSet<Block>, ids: &HashSet<i64>) -> usize {
        let ours = self.schedules.keys().filter(|id| blocks.contains(&Block::of(**id)));
        let gone: Vec<i64> = ours.filter(|id| !ids.contains(id)).copied().collect();
        gone.iter().for_each(|id| self.forget(*id));
        gone.len()
    }

    /// Forgets a schedule.
    pub(crate) fn forget(&mut self, id: i64) {
        let Some(schedule) = self.schedules.remove(&id) else { return };
        if let Some(next) = schedule.next {
            self.queue.remove(&(next, id));
        }
        let of = Block::of(id);
        if let Some(block) = self.blocks.get_mut(&of) {
            block.count -= 1;
            block.xor ^= schedule.digest;
            if block.count == 0 {
                self.blocks.remove(&of);
            }
        }
    }

    /// When the next fire is due.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// The fires due at `now`, at most one a schedule: of several the latest, the others are missed, and so is one that
    /// is too late. Each stays due until it is settled.
    pub(crate) fn due(&mut self, now: Timestamp) -> Vec<Fire> {
        let due: Vec<(Timestamp, i64)> = self.queue.range(..=(now, i64::MAX)).copied().collect();
        due.into_iter()
            .filter_map(|(at, schedule)| match self.latest(schedule, at, now) {
                Some(latest) => {
                    self.set_next(schedule, Some(latest));
                    Some(Fire { schedule, at: latest })
                }
                None => {
                    self.advance(schedule, now);
                    None
                }
            })
            .collect()
    }

    /// The latest fire of a schedule from `at` to `now` that is not too late; those before it are missed.
    fn latest(&mut self, schedule: i64, at: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let timetable = self.schedules.get(&schedule)?.timetable.as_ref()?;
        let earliest = now.checked_sub(LATEST).unwrap_or(Timestamp::MIN);
        let mut latest = (at >= earliest).then_some(at);
        while let Some(next) = timetable.next_after(latest.unwrap_or(earliest)).filter(|next| *next <= now) {
            latest = Some(next);
        }
        self.missed += u64::from(latest != Some(at));
        latest
    }

    /// Notes that a fire had its one chance, and moves on to the first one after it and after `now`.
    pub(crate) fn settle(&mut self, fire: Fire, now: Timestamp) {
        if let Some(schedule) = self.schedules.get_mut(&fire.schedule) {
            schedule.settled = schedule.settled.max(Some(fire.at));
            self.advance(fire.schedule, now);
        }
    }

    /// How often a schedule missed a fire, or several in a row, since the last call.
    pub(crate) fn take_missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }

    /// Notes that a schedule missed a fire.
    pub(crate) fn miss(&mut self) {
        self.missed += 1;
    }

    /// The ids of all schedules held.
    pub(crate) fn ids(&self) -> Vec<i64> {
        self.schedules.keys().copied().collect()
    }

    fn advance(&mut self, id: i64, now: Timestamp) {
        let next = self.schedules.get(&id).and_then(|schedule| {
            let after = schedule.settled.map_or(now, |settled| settled.max(now));
            schedule.timetable.as_ref()?.next_after(after)
        });
        self.set_next(id, next);
    }

    fn set_next(&mut self, id: i64, next: Option<Timestamp>) {
        let Some(schedule) = self.schedules.get_mut(&id) else { return };
        if let Some(before) = schedule.next {
            self.queue.remove(&(before, id));
        }
        schedule.next = next;
        if let Some(next) = next {
            self.queue.insert((next, id));
        }
    }
}

#[cfg(test)]
mod tests;
