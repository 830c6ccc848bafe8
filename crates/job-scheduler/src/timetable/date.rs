//! Dates as JavaScript's `new Date(…)` takes them: epoch milliseconds, and strings in the forms people use. What lies
//! beyond the years that an instant can have, which end a day before the year 10000, is the nearest instant.

mod written;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::temporal::Pieces;
use jiff::tz::{Offset, TimeZone};
use serde_json::{Number, Value};

use self::written::Written;
use super::error::{RuleError, shown};

/// JavaScript's dates are so many milliseconds around 1970.
const MOST_MILLISECONDS: i64 = 8_640_000_000_000_000;

/// The instant of a date value that must be one (`start`, `end`).
pub(super) fn parse(value: &Value, local: &TimeZone, place: &str) -> Result<Timestamp, RuleError> {
    match value {
        Value::Number(number) => from_epoch(number, place),
        Value::String(text) => from_text(text, local).ok_or_else(|| {
            RuleError::new(place, format!("{} is not a date (write it as 2030-12-31T23:59:00Z)", shown(text)))
        }),
        _ => Err(RuleError::new(place, "is neither a date string nor a number of epoch milliseconds")),
    }
}

/// An instant given in milliseconds since 1970.
pub(super) fn from_epoch(number: &Number, place: &str) -> Result<Timestamp, RuleError> {
    // A fraction of a millisecond is cut off, as JavaScript does.
    let milliseconds = number.as_i64().or_else(|| number.as_f64().map(|number| number as i64));
    let milliseconds = milliseconds.filter(|number| (-MOST_MILLISECONDS..=MOST_MILLISECONDS).contains(number));
    milliseconds.map(|milliseconds| nearest(Timestamp::from_millisecond(milliseconds), milliseconds < 0)).ok_or_else(
        || RuleError::new(place, format!("{number} is not a date in epoch milliseconds (at most 8640000000000000)")),
    )
}

/// The instant a date string names; None when it is none. With an offset or Z it is absolute, a date alone is midnight
/// UTC, and a date and time without an offset is in the `local` zone.
pub(super) fn from_text(text: &str, local: &TimeZone) -> Option<Timestamp> {
    match Written::read(text) {
        Some(Written::At(wall, offset)) => Some(in_zone(wall, offset, local)),
        Some(Written::Earlier) => Some(Timestamp::MIN),
        Some(Written::Later) => Some(Timestamp::MAX),
        // ISO 8601 has forms that JavaScript refuses: hours alone in a time or an offset.
        None if text.trim_start().as_bytes().get(4) == Some(&b'-') => more_of_iso(text.trim()),
        None => None,
    }
}

fn more_of_iso(text: &str) -> Option<Timestamp> {
    let pieces = Pieces::parse(text).ok()?;
    let offset = pieces.to_numeric_offset().filter(|offset| offset.seconds().abs() < 24 * 3600)?;
    Some(in_zone(pieces.date().to_datetime(pieces.time()?), Some(offset.seconds()), &TimeZone::UTC))
}

fn in_zone(wall: DateTime, offset: Option<i32>, local: &TimeZone) -> Timestamp {
    let instant = match offset {
        Some(offset) => Offset::from_seconds(offset).and_then(|offset| offset.to_timestamp(wall)),
        None => local.to_ambiguous_timestamp(wall).compatible(),
    };
    nearest(instant, wall.year() < 0)
}

/// The instant, or the end of time that is nearest to it.
fn nearest(instant: Result<Timestamp, jiff::Error>, before: bool) -> Timestamp {
    instant.unwrap_or(if before { Timestamp::MIN } else { Timestamp::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Option<String> {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        from_text(text, &berlin).map(|instant| instant.to_string())
    }

    #[test]
    fn date_strings_mean_what_javascript_makes_of_them() {
        for (text, expected) in [
            ("2030-07-01T12:00:00Z", "2030-07-01T12:00:00Z"),
            ("2030-07-01T12:00:00.250+02:00", "2030-07-01T10:00:00.25Z"),
            ("2030-07-01 12:00:00.123456+00", "2030-07-01T12:00:00.123456Z"),
            ("2030-07-01T12:00:00+00:00", "2030-07-01T12:00:00Z"),
            ("2030-07-01T12:00Z", "2030-07-01T12:00:00Z"),
            ("2030-07-01", "2030-07-01T00:00:00Z"),
            ("2030-07", "2030-07-01T00:00:00Z"),
            ("2030", "2030-01-01T00:00:00Z"),
            ("2030-07-01T12:00:00", "2030-07-01T10:00:00Z"),
            ("2030-07-01 12:00", "2030-07-01T10:00:00Z"),
            ("Mon, 01 Jul 2030 12:00:00 GMT", "2030-07-01T12:00:00Z"),
            ("Mon Jul 01 2030 12:00:00 GMT+0200 (Central European Summer Time)", "2030-07-01T10:00:00Z"),
            ("Jul 1, 2030 12:00:00", "2030-07-01T10:00:00Z"),
            ("July 1, 2030 12:00", "2030-07-01T10:00:00Z"),
            ("07/01/2030", "2030-06-30T22:00:00Z"),
            ("7/1/2030 10:00", "2030-07-01T08:00:00Z"),
            ("2030/07/01", "2030-06-30T22:00:00Z"),
            ("2030-7-1", "2030-06-30T22:00:00Z"),
            ("1 Jul 2030 10:00", "2030-07-01T08:00:00Z"),
            ("Mon Jul 01 2030", "2030-06-30T22:00:00Z"),
            ("2030-07-01 12:00:00 UTC", "2030-07-01T12:00:00Z"),
            ("2030-07-01 12:00:00 +02:00", "2030-07-01T10:00:00Z"),
            ("2026-12-31T24:00:00Z", "2027-01-01T00:00:00Z"),
            ("2026-12-31T24:00", "2026-12-31T23:00:00Z"),
            ("3/7/2026, 10:00:00 AM", "2026-03-07T09:00:00Z"),
            ("3/7/2026, 12:00:00\u{202f}AM", "2026-03-06T23:00:00Z"),
            ("3/7/26 1:30 pm", "2026-03-07T12:30:00Z"),
            ("Sat, 7 Mar 2026 10:00:00 EST", "2026-03-07T15:00:00Z"),
            ("Saturday, March 7, 2026, 10:00 GMT+1", "2026-03-07T09:00:00Z"),
            ("7-Mar-2026", "2026-03-06T23:00:00Z"),
            ("Mar 2026", "2026-02-28T23:00:00Z"),
            ("2026-03-07T10:00:00+0100", "2026-03-07T09:00:00Z"),
            ("2026-03-07T10:00:00+01", "2026-03-07T09:00:00Z"),
            // Beyond the last instant, and before the first.
            ("9999-12-31T23:59:59Z", "9999-12-30T22:00:00.999999999Z"),
            ("9999-12-31T24:00:00Z", "9999-12-30T22:00:00.999999999Z"),
            ("9999-12-31T23:59:59", "9999-12-30T22:00:00.999999999Z"),
            ("+275759-09-13T00:00:00Z", "9999-12-30T22:00:00.999999999Z"),
            ("-271820-01-01T00:00:00Z", "-009999-01-02T01:59:59Z"),
        ] {
            assert_eq!(at(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_not_taken_for_one() {
        for text in [
            "",
            "soon",
            "* * * * *",
            "1 2 3 4 5",
            "0 12 1 13 *",
            "61 12 1 JAN ?",
            "@daily",
            "2030-13-01",
            "2030-02-30",
            "2/30/2030",
            "2030-07-01T25:00",
            "2030-07-01T24:00:01Z",
            "2030-07-01 10:75",
            "1700000000000",
            "5",
            "Jan 5",
            "3/7",
            "every 5/5/2030",
            "Saturday, March 7, 2026 at 10:00",
            "2030-07-01 05:00 GMT+9900",
            "2030-07-01-05:00",
            "13:00 PM 1/1/2030",
            "0/1/2030",
            "1/1/2030 10:00 11:00",
            "+275761-01-01",
            "1/1/300000",
            "12-31T10:00",
        ] {
            assert_eq!(at(text), None, "{text}");
        }
    }
}
