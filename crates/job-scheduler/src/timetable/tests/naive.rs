//! An evaluator that looks at every single instant: what the search has to agree with. And rules to ask both for.

use jiff::civil::DateTime;
use jiff::{SignedDuration, ToSpan};
use proptest::prelude::*;

use super::*;

/// An entry of a field's list.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    One(u8),
    Range(u8, u8),
    Stepped(u8, u8, u8),
    From(u8, u8),
    Every(u8),
    /// `L`: the last day of the month.
    LastDate,
    /// `5L`: the last such weekday of the month.
    LastWeekday(u8),
    /// `5#2`: the second such weekday of the month.
    NthWeekday(u8, u8),
}

impl Entry {
    fn text(&self) -> String {
        match self {
            Self::One(value) => value.to_string(),
            Self::Range(first, last) => format!("{first}-{last}"),
            Self::Stepped(first, last, step) => format!("{first}-{last}/{step}"),
            Self::From(first, step) => format!("{first}/{step}"),
            Self::Every(step) => format!("*/{step}"),
            Self::LastDate => "L".to_owned(),
            Self::LastWeekday(day) => format!("{day}L"),
            Self::NthWeekday(day, nth) => format!("{day}#{nth}"),
        }
    }

    /// Whether a value of a field that begins with `min` is among the entry's; the special ones have none.
    fn has(&self, value: u8, min: u8) -> bool {
        match *self {
            Self::One(only) => value == only,
            Self::Range(first, last) => (first..=last).contains(&value),
            Self::Stepped(first, last, step) => (first..=last).contains(&value) && (value - first).is_multiple_of(step),
            Self::From(first, step) => value >= first && (value - first).is_multiple_of(step),
            Self::Every(step) => (value - min).is_multiple_of(step),
            Self::LastDate | Self::LastWeekday(_) | Self::NthWeekday(..) => false,
        }
    }
}

/// A field: None for `*`.
pub(super) type Field = Option<Vec<Entry>>;

fn text(field: &Field) -> String {
    field.as_ref().map_or("*".to_owned(), |entries| entries.iter().map(Entry::text).collect::<Vec<_>>().join(","))
}

fn has(field: &Field, value: i8, min: u8) -> bool {
    field.as_ref().is_none_or(|entries| entries.iter().any(|entry| entry.has(value as u8, min)))
}

/// A rule that is evaluated by looking.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    /// Second, minute, hour, day of month, month, day of week.
    pub(super) fields: [Field; 6],
    /// Whether a date and a weekday must both match, as in a recurrence object; in cron, either.
    pub(super) both: bool,
}

impl Rule {
    pub(super) fn cron(fields: [Field; 6]) -> Self {
        Self { fields, both: false }
    }

    pub(super) fn text(&self) -> String {
        self.fields.each_ref().map(text).join(" ")
    }

    pub(super) fn fires_on(&self, wall: DateTime) -> bool {
        let [.., dates, months, weekdays] = &self.fields;
        let weekday = wall.weekday().to_sunday_zero_offset();
        let special = |entry: &Entry| match *entry {
            Entry::LastDate => wall.checked_add(1.day()).unwrap().day() == 1,
            Entry::LastWeekday(day) => {
                day % 7 == weekday as u8 && wall.checked_add(7.days()).unwrap().month() != wall.month()
            }
            Entry::NthWeekday(day, nth) => day % 7 == weekday as u8 && (wall.day() as u8).div_ceil(7) == nth,
            _ => false,
        };
        let any_special = |field: &Field| field.as_ref().is_some_and(|entries| entries.iter().any(special));
        let date = has(dates, wall.day(), 1) || any_special(dates);
        let sunday = weekday == 0 && has(weekdays, 7, 0);
        let weekday = has(weekdays, weekday, 0) || sunday || any_special(weekdays);
        let either = dates.is_some() && weekdays.is_some() && !self.both;
        let day = if either { date || weekday } else { date && weekday };
        day && has(months, wall.month(), 1)
    }

    fn fires_at(&self, wall: DateTime) -> bool {
        let [seconds, minutes, hours, ..] = &self.fields;
        has(seconds, wall.second(), 0)
            && has(minutes, wall.minute(), 0)
            && has(hours, wall.hour(), 0)
            && self.fires_on(wall)
    }

    fn names_hours(&self) -> bool {
        (0..24).any(|hour| !has(&self.fields[2], hour, 0))
    }

    /// The first fire after `after`, up to `horizon`, found by looking at each instant `step` apart.
    pub(super) fn next(
        &self,
        zone: &TimeZone,
        after: Timestamp,
        horizon: Timestamp,
        step: SignedDuration,
    ) -> Option<Timestamp> {
        // Some hours earlier, so that the walk knows which wall-clock times there have been. No clock goes back by
        // more.
        let mut at = after.checked_sub(3.hours()).unwrap();
        let mut highest = zone.to_datetime(at);
        while at < horizon {
            at = at.checked_add(step).unwrap();
            let wall = zone.to_datetime(at);
            let fires = if self.names_hours() {
                let mut skipped = highest.checked_add(step).unwrap();
                let mut any_skipped = false;
                while skipped < wall {
                    any_skipped |= self.fires_at(skipped);
                    skipped = skipped.checked_add(step).unwrap();
                }
                any_skipped || wall > highest && self.fires_at(wall)
            } else {
                self.fires_at(wall)
            };
            highest = highest.max(wall);
            if fires && at > after {
                return Some(at);
            }
        }
        None
    }
}

fn entry(min: u8, max: u8) -> impl Strategy<Value = Entry> {
    let value = min..=max;
    prop_oneof![
        4 => value.clone().prop_map(Entry::One),
        2 => (value.clone(), value.clone()).prop_map(|(a, b)| Entry::Range(a.min(b), a.max(b))),
        1 => (value.clone(), value.clone(), 1..20_u8).prop_map(|(a, b, step)| Entry::Stepped(a.min(b), a.max(b), step)),
        1 => (value, 1..20_u8).prop_map(|(first, step)| Entry::From(first, step)),
        1 => (1..20_u8).prop_map(Entry::Every),
    ]
}

/// A field that is `*` in `any` of ten rules.
pub(super) fn field(min: u8, max: u8, any: u32) -> impl Strategy<Value = Field> {
    or_any(any, entry(min, max))
}

fn or_any(any: u32, entry: impl Strategy<Value = Entry>) -> impl Strategy<Value = Field> {
    prop_oneof![
        any => Just(None),
        10 - any => proptest::collection::vec(entry, 1..3).prop_map(Some),
    ]
}

/// Day of month, `L` among its entries.
pub(super) fn dates(any: u32) -> impl Strategy<Value = Field> {
    or_any(any, prop_oneof![5 => entry(1, 31), 1 => Just(Entry::LastDate)])
}

/// Day of week, the last and the nth of a month among its entries.
pub(super) fn weekdays(any: u32) -> impl Strategy<Value = Field> {
    let last = (0..=7_u8).prop_map(Entry::LastWeekday);
    let nth = (0..=7_u8, 1..=5_u8).prop_map(|(day, nth)| Entry::NthWeekday(day, nth));
    or_any(any, prop_oneof![5 => entry(0, 7), 1 => last, 1 => nth])
}

/// A cron rule for times of the day, on most or all days.
pub(super) fn time_rule(seconds: impl Strategy<Value = Field>) -> impl Strategy<Value = Rule> {
    (seconds, field(0, 59, 2), field(0, 23, 5), dates(7), field(1, 12, 9), weekdays(7))
        .prop_map(|(s, m, h, date, month, weekday)| Rule::cron([s, m, h, date, month, weekday]))
}

/// Zones, and an instant at which they change their clocks.
pub(super) fn zone_and_change() -> impl Strategy<Value = (&'static str, Timestamp)> {
    let changes = [
        ("UTC", "2026-03-01T00:00:00Z"),
        ("Asia/Kolkata", "2026-03-01T00:00:00Z"),
        ("Europe/Berlin", "2026-03-29T01:00:00Z"),
        ("Europe/Berlin", "2026-10-25T01:00:00Z"),
        ("Europe/Dublin", "2026-03-29T01:00:00Z"),
        ("Europe/Dublin", "2026-10-25T01:00:00Z"),
        ("America/New_York", "2026-03-08T07:00:00Z"),
        ("America/New_York", "2026-11-01T06:00:00Z"),
        ("America/Havana", "2025-03-09T05:00:00Z"),
        ("America/Havana", "2025-11-02T05:00:00Z"),
        ("America/St_Johns", "2008-03-09T03:31:00Z"),
        ("America/St_Johns", "2008-11-02T02:31:00Z"),
        ("America/Asuncion", "2023-10-01T04:00:00Z"),
        ("America/Asuncion", "2024-03-24T03:00:00Z"),
        ("America/Sao_Paulo", "2018-11-04T03:00:00Z"),
        ("Asia/Beirut", "2026-03-28T22:00:00Z"),
        ("Africa/Cairo", "2025-04-24T22:00:00Z"),
        ("Africa/Casablanca", "2026-02-15T02:00:00Z"),
        ("Africa/Casablanca", "2026-03-22T02:00:00Z"),
        ("Australia/Sydney", "2026-04-04T16:00:00Z"),
        ("Australia/Sydney", "2026-10-03T16:00:00Z"),
        ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
        ("Australia/Lord_Howe", "2026-10-03T15:30:00Z"),
        ("Pacific/Chatham", "2026-04-04T14:00:00Z"),
        ("Pacific/Chatham", "2026-09-26T14:00:00Z"),
        ("Antarctica/Troll", "2026-03-29T01:00:00Z"),
        ("Antarctica/Troll", "2026-10-25T01:00:00Z"),
        ("Pacific/Apia", "2011-12-30T10:00:00Z"),
    ];
    proptest::sample::select(changes.map(|(zone, change)| (zone, change.parse().unwrap())).to_vec())
}
