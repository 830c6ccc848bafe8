//! Dates as JavaScript's `new Date(…)` takes them: epoch milliseconds, and strings in the forms people use.

use jiff::civil::{Date, DateTime};
use jiff::fmt::{rfc2822, strtime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde_json::{Number, Value};

use super::error::{RuleError, shown};

/// Dates other than ISO 8601 and RFC 2822 that a browser writes or a person types.
const OTHER_DATES: [&str; 7] =
    ["%a %b %d %Y", "%b %d, %Y", "%B %d, %Y", "%d %b %Y", "%m/%d/%Y", "%Y/%m/%d", "%Y-%m-%d"];
/// Times after such a date; both are local.
const OTHER_TIMES: [&str; 3] = ["", " %H:%M", " %H:%M:%S"];
/// What JavaScript's `Date.prototype.toString` writes, without the zone's name in parentheses.
const JAVASCRIPT_FORM: &str = "%a %b %d %Y %H:%M:%S GMT%z";

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
    milliseconds.and_then(|milliseconds| Timestamp::from_millisecond(milliseconds).ok()).ok_or_else(|| {
        RuleError::new(place, format!("{number} is not a date in epoch milliseconds (years up to 9999)"))
    })
}

/// The instant a date string names; None when it is none. With an offset or Z it is absolute, a date alone is midnight
/// UTC, and a date and time without an offset is in the `local` zone.
pub(super) fn from_text(text: &str, local: &TimeZone) -> Option<Timestamp> {
    let text = text.trim();
    if let Some(date) = iso_date(text) {
        return in_zone(date.into(), &TimeZone::UTC);
    }
    // Compact ISO forms (20300101T0000) are not JavaScript's; a cron rule is never taken for one.
    if starts_with_iso_date(text) {
        let text = offset_attached(text);
        return text.parse::<Timestamp>().ok().or_else(|| in_zone(text.parse::<DateTime>().ok()?, local));
    }
    if let Ok(zoned) = rfc2822::parse(text) {
        return Some(zoned.timestamp());
    }
    let text = text.split('(').next().unwrap_or(text).trim();
    if let Ok(zoned) = Zoned::strptime(JAVASCRIPT_FORM, text) {
        return Some(zoned.timestamp());
    }
    OTHER_DATES.iter().find_map(|date| {
        OTHER_TIMES.iter().find_map(|time| {
            let parts = strtime::parse(format!("{date}{time}"), text).ok()?;
            in_zone(parts.to_datetime().or_else(|_| parts.to_date().map(DateTime::from)).ok()?, local)
        })
    })
}

/// `2030-07-01 12:00:00 +02:00` and `… UTC` as ISO 8601 has them.
fn offset_attached(text: &str) -> String {
    match text.rsplit_once(' ') {
        Some((time, "UTC" | "GMT")) => format!("{time}Z"),
        Some((time, offset)) if offset.starts_with(['+', '-']) => format!("{time}{offset}"),
        _ => text.to_owned(),
    }
}

fn in_zone(wall: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    zone.to_ambiguous_timestamp(wall).compatible().ok()
}

/// `2030`, `2030-12` or `2030-12-31`.
fn iso_date(text: &str) -> Option<Date> {
    let mut parts = text.split('-').map(|part| part.bytes().all(|byte| byte.is_ascii_digit()).then_some(part));
    let year = parts.next()??;
    let month = parts.next().unwrap_or(Some("01"))?;
    let day = parts.next().unwrap_or(Some("01"))?;
    if parts.next().is_some() || year.len() != 4 || month.len() != 2 || day.len() != 2 {
        return None;
    }
    Date::new(year.parse().ok()?, month.parse().ok()?, day.parse().ok()?).ok()
}

fn starts_with_iso_date(text: &str) -> bool {
    text.get(..10).is_some_and(|date| iso_date(date).is_some())
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
        ] {
            assert_eq!(at(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_not_taken_for_one() {
        for text in
            ["", "soon", "* * * * *", "1 2 3 4 5", "2030-13-01", "2030-02-30", "2030-07-01T25:00", "1700000000000"]
        {
            assert_eq!(at(text), None, "{text}");
        }
    }
}
