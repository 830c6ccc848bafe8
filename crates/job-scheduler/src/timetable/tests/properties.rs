//! The search against one that looks at every single minute, second or day: fires strictly increase, none that matches
//! is left out, and nothing else fires.

use jiff::civil::DateTime;
use jiff::{SignedDuration, Span, ToSpan};
use proptest::prelude::*;

use super::naive::{Entry, Field, Rule, dates, field, time_rule, weekdays, zone_and_change};
use super::*;

const MINUTE: SignedDuration = SignedDuration::from_mins(1);
const SECOND: SignedDuration = SignedDuration::from_secs(1);

/// A schedule, None when it can never fire.
fn parsed(schedule: &Value) -> Option<Timetable> {
    match Timetable::parse(schedule, &TimeZone::UTC) {
        Ok(timetable) => Some(timetable),
        // 30 February; `a_rule_that_can_never_fire_is_an_error` has them.
        Err(error) if error.problem().contains("never") => None,
        Err(error) => panic!("{schedule}: {error}"),
    }
}

/// Asks both for the next fires within `window`.
fn agrees(
    rule: &Rule,
    schedule: &Value,
    zone_name: &str,
    after: Timestamp,
    window: Span,
    step: SignedDuration,
) -> Result<(), TestCaseError> {
    let zone = zone(zone_name);
    let Some(timetable) = parsed(schedule) else { return Ok(()) };
    let horizon = after.checked_add(window).unwrap();
    let mut after = after;
    for _ in 0..3 {
        let next = timetable.next_after(after);
        let expected = rule.next(&zone, after, horizon, step);
        prop_assert_eq!(next.filter(|at| *at <= horizon), expected, "{} after {}", schedule, after);
        match next {
            Some(at) if at <= horizon => {
                // It comes next for whoever asks on the way to it.
                let way = at.duration_since(after);
                for earlier in [SignedDuration::from_nanos(1), way / 3, way / 2] {
                    prop_assert_eq!(timetable.next_after(at.checked_sub(earlier).unwrap()), Some(at), "{}", schedule);
                }
                after = at;
            }
            _ => break,
        }
    }
    Ok(())
}

fn cron(rule: &Rule, zone: &str) -> Value {
    json!({ "rule": rule.text(), "tz": zone })
}

/// Values of one field of a recurrence object: None for any.
fn values(min: u8, max: u8, any: u32) -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![any => Just(None), 10 - any => proptest::collection::vec(min..=max, 1..4).prop_map(Some)]
}

/// A recurrence object, and the same to be evaluated by looking.
fn recurrence(seconds: u32) -> impl Strategy<Value = (Rule, Value)> {
    let fields = (
        values(0, 59, seconds),
        values(0, 59, 2),
        values(0, 23, 4),
        values(1, 31, 7),
        values(1, 12, 9),
        values(0, 6, 7),
    );
    (fields, 0..3_u8).prop_map(|((second, minute, hour, date, month, weekday), form)| {
        let mut object = Map::new();
        let months_from_zero = month.as_ref().map(|months| months.iter().map(|month| month - 1).collect::<Vec<_>>());
        for (name, values) in [
            ("second", &second),
            ("minute", &minute),
            ("hour", &hour),
            ("date", &date),
            ("month", &months_from_zero),
            ("dayOfWeek", &weekday),
        ] {
            // A second that is absent is 0.
            let any = (name == "second" || form == 0).then_some(Value::Null);
            let value = values.as_ref().map(|values| match (form, &values[..]) {
                (0, [only]) => json!(only),
                (1, values) => json!(values.iter().map(u8::to_string).collect::<Vec<_>>()),
                (_, values) => json!(values),
            });
            object.extend(value.or(any).map(|value| (name.to_owned(), value)));
        }
        let field = |values: Option<Vec<u8>>| values.map(|values| values.into_iter().map(Entry::One).collect());
        let fields: [Field; 6] = [second, minute, hour, date, month, weekday].map(field);
        (Rule { fields, both: true }, Value::Object(object))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fires_are_exactly_the_matching_minutes_around_clock_changes(
        rule in time_rule(Just(Some(vec![Entry::One(0)]))),
        (zone, change) in zone_and_change(),
        before in 0_i64..1440,
    ) {
        let after = change.checked_sub(before.minutes()).unwrap();
        agrees(&rule, &cron(&rule, zone), zone, after, 36.hours(), MINUTE)?;
    }

    #[test]
    fn fires_are_exactly_the_matching_seconds_around_clock_changes(
        rule in time_rule(field(0, 59, 3)),
        (zone, change) in zone_and_change(),
        before in 0_i64..7000,
        fraction in 0_i64..1000,
    ) {
        let after = change.checked_sub(before.seconds()).unwrap();
        // The walk's seconds are whole.
        agrees(&rule, &cron(&rule, zone), zone, after, 90.minutes(), SECOND)?;
        // A fraction of a second in the reference changes nothing.
        if let Some(timetable) = parsed(&cron(&rule, zone)) {
            let later = after.checked_add(fraction.milliseconds()).unwrap();
            prop_assert_eq!(timetable.next_after(after), timetable.next_after(later));
        }
    }

    #[test]
    fn recurrence_objects_fire_exactly_when_all_their_fields_match(
        (rule, object) in recurrence(3),
        (zone, change) in zone_and_change(),
        before in 0_i64..7000,
    ) {
        let after = change.checked_sub(before.seconds()).unwrap();
        agrees(&rule, &json!({ "rule": object, "tz": zone }), zone, after, 90.minutes(), SECOND)?;
    }

    #[test]
    fn recurrence_objects_fire_on_exactly_the_matching_minutes_of_a_day(
        (mut rule, mut object) in recurrence(10),
        (zone, change) in zone_and_change(),
        before in 0_i64..1440,
    ) {
        object.as_object_mut().unwrap().remove("second");
        rule.fields[0] = Some(vec![Entry::One(0)]);
        object["tz"] = json!(zone);
        let after = change.checked_sub(before.minutes()).unwrap();
        agrees(&rule, &object, zone, after, 36.hours(), MINUTE)?;
    }

    #[test]
    fn nothing_fires_outside_of_start_and_end_and_everything_within(
        rule in time_rule(Just(Some(vec![Entry::One(0)]))),
        (zone, change) in zone_and_change(),
        before in 0_i64..1440,
        start in -1440_i64..1440,
        length in 0_i64..2880,
        at_fires in any::<bool>(),
    ) {
        let after = change.checked_sub(before.minutes()).unwrap();
        let mut start = change.checked_add(start.minutes()).unwrap();
        let mut end = start.checked_add(length.minutes()).unwrap();
        if at_fires {
            // The bounds themselves: a fire at start is none, one at end is.
            let fire = |from: Timestamp| {
                let horizon = from.checked_add(24.hours()).unwrap();
                rule.next(&super::zone(zone), from, horizon, MINUTE).unwrap_or(from)
            };
            (start, end) = (fire(start), fire(end));
        }
        let mut schedule = cron(&rule, zone);
        schedule["start"] = json!(start.to_string());
        schedule["end"] = json!(end.as_millisecond());
        let zone = super::zone(zone);
        let Some(timetable) = parsed(&schedule) else {
            prop_assert_eq!(rule.next(&zone, start, end, MINUTE), None, "{} is said never to fire", schedule);
            return Ok(());
        };
        let (mut found, mut expected) = (after, after.max(start));
        for _ in 0..3 {
            let fire = rule.next(&zone, expected, end, MINUTE);
            prop_assert_eq!(timetable.next_after(found), fire, "{} after {}", schedule, found);
            let Some(fire) = fire else { break };
            (found, expected) = (fire, fire);
        }
    }

    #[test]
    fn fires_are_exactly_the_matching_days_of_the_calendar(
        dates in dates(3),
        months in field(1, 12, 3),
        weekdays in weekdays(3),
        start in 0_i64..30_000,
    ) {
        let midnight = || Some(vec![Entry::One(0)]);
        let rule = Rule::cron([midnight(), midnight(), midnight(), dates, months, weekdays]);
        let Some(timetable) = parsed(&json!(rule.text())) else { return Ok(()) };
        let first = DateTime::constant(2000, 1, 1, 0, 0, 0, 0).checked_add(start.days()).unwrap();
        let after = TimeZone::UTC.to_timestamp(first).unwrap();
        // Nine years hold a 29 February even around 2100.
        let expected: Vec<Timestamp> = (1..9 * 366_i64)
            .map(|days| first.checked_add(days.days()).unwrap())
            .filter(|day| rule.fires_on(*day))
            .take(40)
            .map(|day| TimeZone::UTC.to_timestamp(day).unwrap())
            .collect();
        let found = std::iter::successors(timetable.next_after(after), |at| timetable.next_after(*at));
        prop_assert_eq!(found.take(expected.len()).collect::<Vec<_>>(), expected, "{}", rule.text());
    }

    #[test]
    fn recurrence_objects_with_years_fire_on_exactly_the_matching_days(
        first in 2000_i16..2200,
        more in proptest::collection::vec(0_i16..12, 1..4),
        month in values(1, 12, 3),
        date in values(1, 31, 3),
        weekday in values(0, 6, 3),
    ) {
        let years: Vec<i16> = more.iter().map(|more| first + more).collect();
        let months_from_zero = month.as_ref().map(|months| months.iter().map(|month| month - 1).collect::<Vec<_>>());
        let object = json!({
            "year": years, "month": months_from_zero, "date": date, "dayOfWeek": weekday, "hour": 0, "minute": 0,
        });
        let field = |values: Option<Vec<u8>>| values.map(|values| values.into_iter().map(Entry::One).collect());
        let rule = Rule { fields: [None, None, None, field(date), field(month), field(weekday)], both: true };
        let eve = DateTime::constant(first - 1, 12, 31, 0, 0, 0, 0);
        let expected: Vec<Timestamp> = (1..13 * 366_i64)
            .map(|days| eve.checked_add(days.days()).unwrap())
            .filter(|day| years.contains(&day.year()) && rule.fires_on(*day))
            .map(|day| TimeZone::UTC.to_timestamp(day).unwrap())
            .collect();
        let after = TimeZone::UTC.to_timestamp(eve).unwrap();
        let found: Vec<Timestamp> = parsed(&object)
            .map(|timetable| std::iter::successors(timetable.next_after(after), |at| timetable.next_after(*at)).collect())
            .unwrap_or_default();
        prop_assert_eq!(found, expected, "{}", object);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[0-9*,/LW?#a-f @-]{0,24}|\\PC{0,24}") {
        let _ = Timetable::parse(&json!(text), &TimeZone::UTC);
        let _ = Timetable::parse(&json!({"rule": text, "start": text, "tz": text, "hour": text}), &TimeZone::UTC);
    }
}
