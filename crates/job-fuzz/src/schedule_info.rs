//! Target `schedule_info`: a schedule is parsed and asked for its fires.
//!
//! The input's first line is the reference instant and the zone of schedules that name none, `2026-03-29T00:30:00Z
//! Europe/Berlin`; what cannot be read there has a default. Below it is the schedule as JSON.

use std::time::Duration;

use job_scheduler::timetable::{self, RuleError, TimeZone, Timestamp, Timetable};
use serde_json::Value;

/// How many fires are asked for.
const FIRES: usize = 8;

/// An error goes into a log line and into the table.
const LONGEST_ERROR: usize = 2000;

/// Reads the input as a schedule and asks when it fires.
pub fn schedule_info(input: &[u8]) {
    let input = String::from_utf8_lossy(input);
    let (first, info) = input.split_once('\n').unwrap_or(("", &input));
    let (after, zone) = first.trim().split_once(' ').unwrap_or((first, ""));
    let after = after.parse().unwrap_or(Timestamp::UNIX_EPOCH);
    let zone = timetable::zone(zone, "tz").unwrap_or(TimeZone::UTC);
    match Timetable::from_json(info, &zone) {
        Ok(timetable) => {
            let (start, end) = (bound(info, "start", &zone), bound(info, "end", &zone));
            check(after, start, end, |after| timetable.next_after(after));
            if timetable.is_one_off() {
                let fire = timetable.next_after(after);
                assert_eq!(fire.and_then(|fire| timetable.next_after(fire)), None, "a single fire comes twice");
            }
        }
        Err(error) => is_readable(&error),
    }
}

/// Asks for fires after an instant, and for the same ones from elsewhere.
fn check(
    after: Timestamp,
    start: Option<Timestamp>,
    end: Option<Timestamp>,
    next: impl Fn(Timestamp) -> Option<Timestamp>,
) {
    let mut last = after;
    for _ in 0..FIRES {
        let Some(fire) = next(last) else { break };
        assert!(fire > last, "after {last} comes {fire}");
        assert!(start.is_none_or(|start| fire >= start), "{fire} is before start");
        assert!(end.is_none_or(|end| fire <= end), "{fire} is after end");
        for between in [halfway(last, fire), just_before(fire)].into_iter().flatten().filter(|at| *at >= last) {
            assert_eq!(next(between), Some(fire), "after {last} comes {fire}, but not after {between}");
        }
        last = fire;
    }
    // When something fires does not depend on who asks when: what comes next from earlier on, comes next from here on.
    for earlier in [1, 3, 30, 24 * 40] {
        let Ok(earlier) = after.checked_sub(hours(earlier)) else { continue };
        match next(earlier) {
            Some(fire) if fire <= after => {}
            fire => assert_eq!(next(after), fire, "after {earlier} comes {fire:?}, but not after {after}"),
        }
    }
}

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

fn halfway(from: Timestamp, to: Timestamp) -> Option<Timestamp> {
    let half = to.duration_since(from) / 2;
    from.checked_add(half).ok()
}

fn just_before(fire: Timestamp) -> Option<Timestamp> {
    fire.checked_sub(Duration::from_nanos(1)).ok()
}

/// `start` or `end` of a schedule that has been found valid.
fn bound(info: &str, name: &str, zone: &TimeZone) -> Option<Timestamp> {
    let info: Value = serde_json::from_str(info).ok()?;
    timetable::date(info.get(name)?, zone, name).ok()
}

fn is_readable(error: &RuleError) {
    let text = error.to_string();
    assert!(!text.is_empty(), "an error without words");
    assert!(text.len() <= LONGEST_ERROR, "an error of {} bytes", text.len());
    if let Some(pointer) = error.pointer() {
        assert!(pointer.ends_with('^'), "an error that points nowhere");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// The next multiple of a minute.
    fn minutely(after: Timestamp) -> Option<Timestamp> {
        Timestamp::from_second((after.as_second().div_euclid(60) + 1) * 60).ok()
    }

    #[test]
    fn every_minute_passes() {
        check(at(90), None, None, minutely);
        check(at(90), None, Some(at(120)), |after| minutely(after).filter(|fire| *fire <= at(120)));
    }

    #[test]
    #[should_panic(expected = "comes")]
    fn a_fire_that_is_not_strictly_later_is_told() {
        check(at(60), None, None, |after| if after == at(60) { Some(after) } else { minutely(after) });
    }

    #[test]
    #[should_panic(expected = "but not after")]
    fn fires_that_depend_on_who_asks_are_told() {
        check(at(60), None, None, |after| after.checked_add(hours(1)).ok());
    }

    #[test]
    #[should_panic(expected = "after end")]
    fn a_fire_after_the_end_is_told() {
        check(at(90), None, Some(at(119)), minutely);
    }

    #[test]
    #[should_panic(expected = "before start")]
    fn a_fire_before_the_start_is_told() {
        check(at(90), Some(at(121)), None, minutely);
    }
}
