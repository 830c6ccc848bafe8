//! Recurrence objects: `{"year", "month", "date", "dayOfWeek", "hour", "minute", "second"}`.

use serde_json::{Map, Value};

use super::days::{Days, Join};
use super::error::{RuleError, shown};
use super::fields::{ALL_HOURS, ALL_MONTHS, ALL_SIXTY, Fields, LAST_YEAR, Years};

/// The fields there are; `tz` may stand beside them.
pub(super) const FIELDS: [&str; 7] = ["year", "month", "date", "dayOfWeek", "hour", "minute", "second"];

/// Parses a recurrence object. Every field must match; one that is absent or null matches any value, except that an
/// absent second is 0. Months count from 0. Other keys are ignored.
pub(super) fn parse(object: &Map<String, Value>, place: &str) -> Result<Fields, RuleError> {
    let field = |name: &str, max: i16| match object.get(name) {
        Some(value) => values(value, max, &join(place, name)),
        None => Ok(None),
    };
    let bits = |name: &str, max: i16, all: u64| match field(name, max)? {
        Some(values) => Ok(values.into_iter().fold(0, |bits, value| bits | 1_u64 << value)),
        None => Ok::<u64, RuleError>(all),
    };

    let any = Days::all();
    let dates = bits("date", 31, any.dates.into())?;
    if dates & 1 != 0 {
        return Err(RuleError::new(join(place, "date"), "0 is not within 1-31"));
    }
    Ok(Fields {
        seconds: if object.contains_key("second") { bits("second", 59, ALL_SIXTY)? } else { 1 },
        minutes: bits("minute", 59, ALL_SIXTY)?,
        hours: bits("hour", 23, ALL_HOURS.into())? as u32,
        days: Days {
            dates: dates as u32,
            weekdays: bits("dayOfWeek", 6, any.weekdays.into())? as u8,
            join: Join::Both,
            ..any
        },
        // From January = 0 to January = bit 1.
        months: (bits("month", 11, u64::from(ALL_MONTHS) >> 1)? << 1) as u16,
        years: match field("year", LAST_YEAR)? {
            Some(mut years) => {
                years.sort_unstable();
                years.dedup();
                Years::Only(years.into())
            }
            None => Years::Any,
        },
    })
}

fn join(place: &str, name: &str) -> String {
    if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") }
}

/// The values of one field, None for any.
fn values(value: &Value, max: i16, place: &str) -> Result<Option<Vec<i16>>, RuleError> {
    let number = match value {
        Value::Null => return Ok(None),
        Value::Array(entries) if entries.is_empty() => {
            return Err(RuleError::new(place, "the list is empty, so the rule could never fire"));
        }
        Value::Array(entries) => {
            let mut all = Some(Vec::with_capacity(entries.len()));
            for (index, entry) in entries.iter().enumerate() {
                match (values(entry, max, &format!("{place}[{index}]"))?, &mut all) {
                    (Some(more), Some(all)) => all.extend(more),
                    // One entry that matches any value makes the list do so; the others must still be valid.
                    _ => all = None,
                }
            }
            return Ok(all);
        }
        Value::Number(number) => number.as_f64(),
        // As JavaScript's Number(…) reads it; an empty string is more likely a mistake than a zero.
        Value::String(text) => text.trim().parse::<f64>().ok(),
        _ => None,
    };
    let written = match value {
        Value::String(text) => shown(text),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        _ => "an object".to_owned(),
    };
    match number {
        Some(number) if number.fract() == 0.0 && (0.0..=f64::from(max)).contains(&number) => {
            Ok(Some(vec![number as i16]))
        }
        Some(number) if number.is_finite() => {
            let min = u8::from(place.ends_with("date"));
            Err(RuleError::new(place, format!("{written} is not a whole number within {min}-{max}")))
        }
        _ => Err(RuleError::new(place, format!("{written} is not a number, a numeric string, null or a list of them"))),
    }
}
