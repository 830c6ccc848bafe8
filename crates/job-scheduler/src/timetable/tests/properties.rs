//! The search against a walk that looks at every single minute, second or day.

use jiff::civil::DateTime;
use jiff::{SignedDuration, Span, ToSpan};
use proptest::prelude::*;

use super::*;

/// An entry of a field's list.
#[derive(Debug, Clone)]
enum Entry {
    One(u8),
    Range(u8, u8),
    Stepped(u8, u8, u8),
    From(u8, u8),
    Every(u8),
}

impl Entry {
    fn text(&self) -> String {
        match self {
            Self::One(value) => value.to_string(),
            Self::Range(first, last) => format!("{first}-{last}"),
            Self::Stepped(first, last, step) => format!("{first}-{last}/{step}"),
            Self::From(first, step) => format!("{first}/{step}"),
            Self::Every(step) => format!("*/{step}"),
        }
    }

    fn matches(&self, value: u8, min: u8) -> bool {
        match *self {
            Self::One(only) => value == only,
            Self::Range(first, last) => (first..=last).contains(&value),
            Self::Stepped(first, last, step) => (first..=last).contains(&value) && (value - first).is_multiple_of(step),
            Self::From(first, step) => value >= first && (value - first).is_multiple_of(step),
            Self::Every(step) => (value - min).is_multiple_of(step),
        }
    }
}

/// A field: None for `*`.
type Field = Option<Vec<Entry>>;

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
fn field(min: u8, max: u8, any: u32) -> impl Strategy<Value = Field> {
    prop_oneof![
        any => Just(None),
        10 - any => proptest::collection::vec(entry(min, max), 1..3).prop_map(Some),
    ]
}

fn text(field: &Field) -> String {
    field.as_ref().map_or("*".to_owned(), |entries| entries.iter().map(Entry::text).collect::<Vec<_>>().join(","))
}

fn matches(field: &Field, value: i8, min: u8) -> bool {
    field.as_ref().is_none_or(|entries| entries.iter().any(|entry| entry.matches(value as u8, min)))
}

#[derive(Debug, Clone)]
struct Rule {
    /// Second, minute, hour, day of month, month, day of week.
    fields: [Field; 6],
}

impl Rule {
    fn text(&self) -> String {
        self.fields.each_ref().map(text).join(" ")
    }

    fn matches_date(&self, wall: DateTime) -> bool {
        let [.., dates, months, weekdays] = &self.fields;
        let date = matches(dates, wall.day(), 1);
        let weekday = wall.weekday().to_sunday_zero_offset();
        let weekday = matches(weekdays, weekday, 0) || weekday == 0 && matches(weekdays, 7, 0);
        let day = if dates.is_some() && weekdays.is_some() { date || weekday } else { date && weekday };
        day && matches(months, wall.month(), 1)
    }

    fn matches(&self, wall: DateTime) -> bool {
        let [seconds, minutes, hours, ..] = &self.fields;
        matches(seconds, wall.second(), 0)
            && matches(minutes, wall.minute(), 0)
            && matches(hours, wall.hour(), 0)
            && self.matches_date(wall)
    }

    fn names_hours(&self) -> bool {
        (0..24).any(|hour| !matches(&self.fields[2], hour, 0))
    }
}

/// The first fire in `after .. horizon`, found by looking at each instant `step` apart.
fn walk(rule: &Rule, zone: &TimeZone, after: Timestamp, horizon: Timestamp, step: SignedDuration) -> Option<Timestamp> {
    // Some hours earlier, so that the walk knows which wall-clock times there have been. No clock goes back by more.
    let mut at = after.checked_sub(3.hours()).unwrap();
    let mut highest = zone.to_datetime(at);
    while at < horizon {
        at = at.checked_add(step).unwrap();
        let wall = zone.to_datetime(at);
        let fires = if rule.names_hours() {
            let mut skipped = highest.checked_add(step).unwrap();
            let mut any_skipped = false;
            while skipped < wall {
                any_skipped |= rule.matches(skipped);
                skipped = skipped.checked_add(step).unwrap();
            }
            any_skipped || wall > highest && rule.matches(wall)
        } else {
            rule.matches(wall)
        };
        highest = highest.max(wall);
        if fires && at > after {
            return Some(at);
        }
    }
    None
}

/// Zones, and an instant shortly before they change their clocks.
fn zone_and_change() -> impl Strategy<Value = (&'static str, &'static str)> {
    proptest::sample::select(vec![
        ("UTC", "2026-03-01T00:00:00Z"),
        ("Asia/Kolkata", "2026-03-01T00:00:00Z"),
        ("Europe/Berlin", "2026-03-29T01:00:00Z"),
        ("Europe/Berlin", "2026-10-25T01:00:00Z"),
        ("America/New_York", "2026-03-08T07:00:00Z"),
        ("America/New_York", "2026-11-01T06:00:00Z"),
        ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
        ("Australia/Lord_Howe", "2026-10-03T15:30:00Z"),
        ("America/St_Johns", "2008-11-02T02:31:00Z"),
        ("America/Sao_Paulo", "2018-11-04T03:00:00Z"),
        ("Africa/Casablanca", "2026-02-15T02:00:00Z"),
        ("Antarctica/Troll", "2026-03-29T01:00:00Z"),
        ("Antarctica/Troll", "2026-10-25T01:00:00Z"),
        ("Pacific/Apia", "2011-12-30T10:00:00Z"),
    ])
}

/// A rule for times of the day, on most or all days.
fn time_rule(seconds: impl Strategy<Value = Field>) -> impl Strategy<Value = Rule> {
    (seconds, field(0, 59, 2), field(0, 23, 5), field(1, 31, 8), field(1, 12, 9), field(0, 7, 8))
        .prop_map(|(s, m, h, date, month, weekday)| Rule { fields: [s, m, h, date, month, weekday] })
}

fn parsed(rule: &Rule, zone: &TimeZone) -> Option<Timetable> {
    match Timetable::parse(&json!(rule.text()), zone) {
        Ok(timetable) => Some(timetable),
        // 30 February; `a_rule_that_can_never_fire_is_an_error` has them.
        Err(error) if error.problem().contains("never") => None,
        Err(error) => panic!("{}: {error}", rule.text()),
    }
}

fn agrees(
    rule: &Rule,
    zone_name: &str,
    after: Timestamp,
    window: Span,
    step: SignedDuration,
) -> Result<(), TestCaseError> {
    let zone = zone(zone_name);
    let Some(timetable) = parsed(rule, &zone) else { return Ok(()) };
    let horizon = after.checked_add(window).unwrap();
    let mut after = after;
    for _ in 0..3 {
        let next = timetable.next_after(after);
        let expected = walk(rule, &zone, after, horizon, step);
        prop_assert_eq!(next.filter(|at| *at <= horizon), expected, "{} in {} after {}", rule.text(), zone_name, after);
        match next {
            Some(at) if at <= horizon => after = at,
            _ => break,
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fires_are_exactly_the_matching_minutes_around_clock_changes(
        rule in time_rule(Just(Some(vec![Entry::One(0)]))),
        (zone, change) in zone_and_change(),
        before in 0_i64..1440,
    ) {
        let after = change.parse::<Timestamp>().unwrap().checked_sub(before.minutes()).unwrap();
        agrees(&rule, zone, after, 36.hours(), SignedDuration::from_mins(1))?;
    }

    #[test]
    fn fires_are_exactly_the_matching_seconds_around_clock_changes(
        rule in time_rule(field(0, 59, 3)),
        (zone, change) in zone_and_change(),
        before in 0_i64..7000,
        fraction in 0_i64..1000,
    ) {
        let after = change.parse::<Timestamp>().unwrap().checked_sub(before.seconds()).unwrap();
        // The walk's seconds are whole.
        agrees(&rule, zone, after, 90.minutes(), SignedDuration::from_secs(1))?;
        // A fraction of a second in the reference changes nothing.
        if let Some(timetable) = parsed(&rule, &super::zone(zone)) {
            let later = after.checked_add(fraction.milliseconds()).unwrap();
            prop_assert_eq!(timetable.next_after(after), timetable.next_after(later));
        }
    }

    #[test]
    fn fires_are_exactly_the_matching_days_of_the_calendar(
        dates in field(1, 31, 3),
        months in field(1, 12, 3),
        weekdays in field(0, 7, 3),
        start in 0_i64..30_000,
    ) {
        let midnight = || Some(vec![Entry::One(0)]);
        let rule = Rule { fields: [midnight(), midnight(), midnight(), dates, months, weekdays] };
        let Some(timetable) = parsed(&rule, &TimeZone::UTC) else { return Ok(()) };
        let first = DateTime::constant(2000, 1, 1, 0, 0, 0, 0).checked_add(start.days()).unwrap();
        let after = TimeZone::UTC.to_timestamp(first).unwrap();
        // Nine years hold a 29 February even around 2100.
        let expected = (1..9 * 366_i64)
            .map(|days| first.checked_add(days.days()).unwrap())
            .filter(|day| rule.matches_date(*day))
            .map(|day| TimeZone::UTC.to_timestamp(day).unwrap());
        let found = std::iter::successors(timetable.next_after(after), |at| timetable.next_after(*at));
        for (found, expected) in found.zip(expected).take(40) {
            prop_assert_eq!(found, expected, "{}", rule.text());
        }
    }

    #[test]
    fn recurrence_objects_and_cron_rules_with_the_same_values_fire_together(
        minute in 0_u8..60, hour in 0_u8..24, month in 1_u8..13, weekday in 0_u8..7,
        (zone, change) in zone_and_change(),
    ) {
        let after = change.parse().unwrap();
        let cron = Timetable::parse(&json!(format!("{minute} {hour} * {month} {weekday}")), &super::zone(zone)).unwrap();
        let recurrence = json!({"minute": minute, "hour": [hour], "month": (month - 1).to_string(), "dayOfWeek": weekday});
        let recurrence = Timetable::parse(&recurrence, &super::zone(zone)).unwrap();
        prop_assert_eq!(cron.next_after(after), recurrence.next_after(after));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[0-9*,/LW?#a-f @-]{0,24}|\\PC{0,24}") {
        let _ = Timetable::parse(&json!(text), &TimeZone::UTC);
        let _ = Timetable::parse(&json!({"rule": text, "start": text, "tz": text, "hour": text}), &TimeZone::UTC);
    }
}
