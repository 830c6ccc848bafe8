//! Agenda: the schedules that a scheduler holds in memory, and which of them fires next. No clock, no I/O.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::RangeInclusive;

use jiff::{SignedDuration, Timestamp};
use job_pg::{Block, Digest, Fire, LARGEST_SCHEDULE_INFO, Mark, ScheduledJob};

use crate::timetable::{Missed, Overlap, TimeZone, Timetable};

/// A fire that could not be made for so long because the database was away is late; after that it is missed.
const LATE_LIMIT: SignedDuration = SignedDuration::from_secs(60);

/// How many of a schedule's missed fires are caught up on with `"missed": "all"`: the latest.
const MOST_CAUGHT_UP: usize = 1000;

const INSTANT: SignedDuration = SignedDuration::from_nanos(1);

/// What fired_until may be; outside, it was written by hand. As in `migrations/functions/triggers.sql`.
const USABLE: RangeInclusive<Timestamp> = Timestamp::UNIX_EPOCH..=Timestamp::constant(253_402_128_000, 0);
const UNUSABLE: &str =
    "fired_until: is not within the years 1970 to 9999, so what has fired is not known; set it to now()";

/// What a schedule's row has changed here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RowChange {
    /// The schedule is new here, or its rule is another one.
    New,
    /// Nothing is new.
    None,
    /// The rule cannot be used. Logged once, until it changes.
    Invalid(String),
}

/// The schedules a scheduler holds.
pub(crate) struct Agenda {
    default_zone: TimeZone,
    schedules: HashMap<i64, Schedule>,
    /// Next fires, soonest first. Schedules without one are not in it.
    queue: BTreeSet<(Timestamp, i64)>,
    /// The digests of what is held, to compare with the table's.
    blocks: HashMap<Block, Digest>,
    /// What is to be written into the rows.
    marks: HashMap<i64, Mark>,
    missed: u64,
    /// Since when heartbeats have come without a gap, and since when at first.
    steady_since: Timestamp,
    steady_at_first: Option<Timestamp>,
}

struct Schedule {
    /// Of its task and schedule_info: the texts themselves are not kept.
    digest: i64,
    /// None for a rule that cannot be used. Boxed: hash tables keep room for many more entries than they hold.
    timetable: Option<Box<Timetable>>,
    next: Option<Timestamp>,
    /// Nothing at or before it fires, whatever the clock does.
    fired_until: Timestamp,
    /// What is wrong with schedule_info. Seldom there, so that it may cost an allocation.
    error: Option<Box<str>>,
}

impl Schedule {
    /// Whether its row says what it did.
    fn is_same_as(&self, row: &ScheduledJob) -> bool {
        self.digest == row.digest && USABLE.contains(&self.fired_until) == USABLE.contains(&row.fired_until)
    }

    fn mark(&self, id: i64) -> Mark {
        let error = self.error.as_deref().map(str::to_owned);
        Mark { schedule: id, digest: self.digest, error, ended: false, missed: None }
    }
}

/// Where a schedule goes on.
struct Resumed {
    fired_until: Timestamp,
    /// The last of the fires that are not caught up on, and the first.
    missed: Option<(Timestamp, Timestamp)>,
}

impl Agenda {
    /// An empty agenda; `default_zone` is for rules that name none.
    pub(crate) fn new(default_zone: TimeZone) -> Self {
        Self {
            default_zone,
            schedules: HashMap::new(),
            queue: BTreeSet::new(),
            blocks: HashMap::new(),
            marks: HashMap::new(),
            missed: 0,
            steady_since: Timestamp::MIN,
            steady_at_first: None,
        }
    }

    /// Whether the text of its schedule_info is needed to take in a row.
    pub(crate) fn needs_text_of(&self, row: &ScheduledJob) -> bool {
        let known = self.schedules.get(&row.id).is_some_and(|known| known.is_same_as(row));
        !known && row.bytes <= LARGEST_SCHEDULE_INFO && USABLE.contains(&row.fired_until)
    }

    /// Takes in a schedule's row as it is now.
    pub(crate) fn update(&mut self, row: &ScheduledJob) -> RowChange {
        let known = self.schedules.get_mut(&row.id);
        if let Some(known) = known.filter(|known| known.is_same_as(row)) {
            let gone_on = known.fired_until < row.fired_until;
            known.fired_until = known.fired_until.max(row.fired_until);
            if gone_on {
                self.advance(row.id);
            }
            return RowChange::None;
        }
        // A gap since it was claimed counts as well.
        let owed_since =
            if self.schedules.contains_key(&row.id) { row.owed_since.max(self.steady_since) } else { row.owed_since };
        let late = usize::from(self.was_running_before(owed_since));
        self.forget(row.id);
        let (timetable, error) = match self.read(row) {
            Ok((timetable, warnings)) => {
                (Some(Box::new(timetable)), (!warnings.is_empty()).then(|| format!("warning: {}", warnings.join("; "))))
            }
            Err(error) => (None, Some(error)),
        };
        let resumed = timetable.as_deref().map(|timetable| resume(timetable, row.fired_until, owed_since, late));
        let mut missed = None;
        let fired_until = resumed.map_or(row.fired_until, |resumed| {
            missed = resumed.missed;
            resumed.fired_until
        });
        let change = match (&timetable, &error) {
            (None, Some(error)) => RowChange::Invalid(error.clone()),
            _ => RowChange::New,
        };
        let mark = error != row.last_error || missed.is_some();
        self.missed += u64::from(missed.is_some());
        let error = error.map(String::into_boxed_str);
        let schedule = Schedule { digest: row.digest, timetable, next: None, fired_until, error };
        if mark {
            self.marks.insert(row.id, Mark { missed: missed.map(missed_message), ..schedule.mark(row.id) });
        }
        self.schedules.insert(row.id, schedule);
        let block = self.blocks.entry(Block::of(row.id)).or_default();
        block.count += 1;
        block.xor ^= row.digest;
        self.advance(row.id);
        change
    }

    /// Reads a row; why it cannot be used.
    fn read(&self, row: &ScheduledJob) -> Result<(Timetable, Vec<String>), String> {
        if !USABLE.contains(&row.fired_until) {
            return Err(UNUSABLE.to_owned());
        }
        let Some(text) = &row.schedule_info else {
            return Err(format!("schedule_info: is longer than {LARGEST_SCHEDULE_INFO} bytes, and is not read"));
        };
        Timetable::from_json_with_warnings(text, &self.default_zone).map_err(|error| error.to_string())
    }

    /// Since when heartbeats have come without a gap. What was due during a gap is missed, except that a schedule's
    /// latest fire is still made when it is not a minute late.
    pub(crate) fn steady_since(&mut self, steady_since: Timestamp) {
        if steady_since <= self.steady_since {
            return;
        }
        self.steady_since = steady_since;
        self.steady_at_first.get_or_insert(steady_since);
        let due: Vec<i64> = self.queue.range(..(steady_since, i64::MIN)).map(|(_, id)| *id).collect();
        for id in due {
            let Some(schedule) = self.schedules.get_mut(&id) else { continue };
            let Some(timetable) = &schedule.timetable else { continue };
            let resumed = resume(timetable, schedule.fired_until, steady_since, 1);
            schedule.fired_until = resumed.fired_until;
            if let Some(missed) = resumed.missed {
                self.missed += 1;
                self.marks.entry(id).or_insert_with(|| schedule.mark(id)).missed = Some(missed_message(missed));
            }
            self.advance(id);
        }
    }

    /// Whether this process was there before a gap that ended then: what it would have made, it makes late.
    fn was_running_before(&self, gap_until: Timestamp) -> bool {
        self.steady_at_first.is_some_and(|first| first < gap_until)
    }

    /// Whether the schedule is held.
    #[cfg(test)]
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
        self.marks.remove(&id);
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

    /// When the next fire is due, of the schedules that are not in `without`.
    pub(crate) fn next(&self, without: &HashSet<i64>) -> Option<Timestamp> {
        self.queue.iter().find(|(_, id)| !without.contains(id)).map(|(at, _)| *at)
    }

    /// Whether a schedule has a fire due at `now`.
    pub(crate) fn is_due(&self, id: i64, now: Timestamp) -> bool {
        self.schedules.get(&id).and_then(|schedule| schedule.next).is_some_and(|next| next <= now)
    }

    /// Up to `limit` fires due at `now`, soonest first, but none of the schedules in `without`. Each stays due until it
    /// is settled.
    pub(crate) fn due(&self, now: Timestamp, limit: usize, without: &HashSet<i64>) -> Vec<Fire> {
        let due = self.queue.range(..=(now, i64::MAX)).filter(|(_, id)| !without.contains(id));
        let mut due: BTreeSet<(Timestamp, i64)> = due.take(limit).copied().collect();
        let mut fires = Vec::new();
        while fires.len() < limit
            && let Some((at, id)) = due.pop_first()
        {
            let Some((schedule, timetable)) =
                self.schedules.get(&id).and_then(|schedule| Some((schedule, schedule.timetable.as_deref()?)))
            else {
                continue;
            };
            let overlap = timetable.overlap() == Overlap::Allow;
            fires.push(Fire { schedule: id, digest: schedule.digest, at, overlap });
            if let Some(next) = timetable.next_after(at).filter(|next| *next <= now) {
                due.insert((next, id));
            }
        }
        fires
    }

    /// Notes that a fire is dealt with, and moves on to the one after it.
    pub(crate) fn settle(&mut self, fire: Fire) {
        if let Some(schedule) = self.schedules.get_mut(&fire.schedule).filter(|known| known.digest == fire.digest) {
            schedule.fired_until = schedule.fired_until.max(fire.at);
            self.advance(fire.schedule);
        }
    }

    /// How many schedules missed fires since the last call.
    pub(crate) fn take_missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }

    /// Up to `limit` marks that are to be written.
    pub(crate) fn marks(&self, limit: usize) -> Vec<Mark> {
        self.marks.values().take(limit).cloned().collect()
    }

    /// Whether there are marks to be written.
    pub(crate) fn has_marks(&self) -> bool {
        !self.marks.is_empty()
    }

    /// Notes that a mark is written. A schedule that has ended is held no longer.
    pub(crate) fn marked(&mut self, mark: &Mark) {
        if self.marks.get(&mark.schedule) == Some(mark) {
            self.marks.remove(&mark.schedule);
            if mark.ended {
                self.forget(mark.schedule);
            }
        }
    }

    /// How many schedules are held.
    pub(crate) fn len(&self) -> usize {
        self.schedules.len()
    }

    /// Sets the schedule's next fire; one that has none left is to be marked so.
    fn advance(&mut self, id: i64) {
        let Some(schedule) = self.schedules.get_mut(&id) else { return };
        if let Some(before) = schedule.next.take() {
            self.queue.remove(&(before, id));
        }
        let Some(timetable) = &schedule.timetable else { return };
        schedule.next = timetable.next_after(schedule.fired_until);
        match schedule.next {
            Some(next) => drop(self.queue.insert((next, id))),
            None => self.marks.entry(id).or_insert_with(|| schedule.mark(id)).ended = true,
        }
    }
}

/// From where a schedule goes on. Its fires up to `fired_until` are dealt with, and its fires from `owed_since` on are
/// to be made, whatever it says. Of those in between, which were missed, its own setting decides. But the `late` latest
/// that are not a minute late are made in any case.
fn resume(timetable: &Timetable, fired_until: Timestamp, owed_since: Timestamp, late: usize) -> Resumed {
    let first = timetable.next_after(fired_until).filter(|first| *first < owed_since);
    let Some(first) = first else { return Resumed { fired_until, missed: None } };
    let caught_up = match timetable.missed() {
        Missed::Skip => late,
        Missed::Once => 1,
        Missed::All => MOST_CAUGHT_UP,
    };
    let mut latest = latest(timetable, fired_until, owed_since, caught_up + 1);
    let mut kept =
        if latest.len() > caught_up { latest.split_off(latest.len() - caught_up) } else { std::mem::take(&mut latest) };
    if timetable.missed() == Missed::Skip {
        let earliest = owed_since.checked_sub(LATE_LIMIT).unwrap_or(Timestamp::MIN);
        let too_late = kept.iter().take_while(|at| **at < earliest).count();
        latest.extend(kept.drain(..too_late));
    }
    Resumed {
        fired_until: kept
            .front()
            .map_or(owed_since, |kept| *kept)
            .checked_sub(INSTANT)
            .unwrap_or(Timestamp::MIN)
            .max(fired_until),
        missed: latest.back().map(|last| (*last, first)),
    }
}

/// The `count` latest fires after `after` and before `before`, in order.
fn latest(timetable: &Timetable, after: Timestamp, before: Timestamp, count: usize) -> VecDeque<Timestamp> {
    // There is no way back in a timetable: it is asked for what comes after ever earlier instants.
    let mut back = SignedDuration::from_secs(1);
    loop {
        let from = before.checked_sub(back).unwrap_or(Timestamp::MIN).max(after);
        let mut fires = VecDeque::new();
        let mut next = timetable.next_after(from);
        while let Some(at) = next.filter(|at| *at < before) {
            if fires.len() == count {
                fires.pop_front();
            }
            fires.push_back(at);
            next = timetable.next_after(at);
        }
        if fires.len() == count || from == after {
            return fires;
        }
        back *= 2;
    }
}

fn missed_message((last, first): (Timestamp, Timestamp)) -> (Timestamp, String) {
    let others = if first == last { String::new() } else { format!(", like those before it since {first}") };
    (last, format!("no scheduler watched, or there was no database: not made up for{others}"))
}

#[cfg(test)]
mod tests;
