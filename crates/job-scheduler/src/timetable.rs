//! When a schedule fires: schedule_info and an instant in, the next instant out. No clock, no I/O.
//!
//! A schedule is a cron rule, a recurrence object, or a date for a single fire; with `{"start", "end", "rule", "tz"}`
//! around it, or without. See the crate's documentation for all forms and for what happens when clocks change.

mod cron;
mod date;
mod days;
mod error;
mod fields;
mod options;
mod recurrence;
#[cfg(test)]
mod tests;
mod zone;

pub use jiff::Timestamp;
pub use jiff::tz::TimeZone;
use serde_json::{Map, Value};

pub use self::error::RuleError;
use self::fields::Fields;
pub use self::options::{Missed, Overlap};

/// A parsed schedule.
///
/// ```
/// use job_scheduler::timetable::{TimeZone, Timetable};
/// let schedule = serde_json::json!({"rule": "30 9 * * MON-FRI", "tz": "Europe/Berlin"});
/// let timetable = Timetable::parse(&schedule, &TimeZone::UTC).unwrap();
/// let friday_noon = "2026-03-27T12:00:00Z".parse().unwrap();
/// // Monday, after the clocks went forward.
/// assert_eq!(timetable.next_after(friday_noon).unwrap().to_string(), "2026-03-30T07:30:00Z");
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Timetable {
    fires: Fires,
    zone: TimeZone,
    start: Option<Timestamp>,
    end: Option<Timestamp>,
    missed: Missed,
    overlap: Overlap,
}

#[derive(Debug, Clone, PartialEq)]
enum Fires {
    /// Again and again.
    Rule(Fields),
    /// A single time.
    Once(Timestamp),
}

impl Timetable {
    /// Parses a schedule_info.
    ///
    /// `default_zone` is the zone of a rule without `tz`, and of dates that have a time but no offset (whatever the
    /// rule's own `tz`, as in JavaScript). A rule that can never fire is an error. Keys that mean nothing, and values
    /// of `missed` and `overlap` that do not, are none: [`Self::parse_with_warnings`] tells of them.
    pub fn parse(schedule_info: &Value, default_zone: &TimeZone) -> Result<Self, RuleError> {
        Self::parse_with_warnings(schedule_info, default_zone).map(|(timetable, _)| timetable)
    }

    /// Parses a schedule_info, and says what in it has no effect: a sentence each, with the key in front. They are not
    /// kept in the timetable, so that the many without any need no room for them.
    ///
    /// ```
    /// use job_scheduler::timetable::{Missed, TimeZone, Timetable};
    /// let schedule = serde_json::json!({"rule": "@daily", "timezone": "Europe/Berlin", "missed": "once"});
    /// let (timetable, warnings) = Timetable::parse_with_warnings(&schedule, &TimeZone::UTC).unwrap();
    /// assert_eq!(timetable.missed(), Missed::Once);
    /// assert_eq!(warnings, [r#""timezone": is no key of a schedule, and has no effect"#]);
    /// ```
    pub fn parse_with_warnings(
        schedule_info: &Value,
        default_zone: &TimeZone,
    ) -> Result<(Self, Vec<String>), RuleError> {
        let mut warnings = Vec::new();
        let timetable = match schedule_info {
            Value::Object(object) => {
                let zone = zone_of(object, default_zone)?;
                let start = bound(object, "start", default_zone)?;
                let end = bound(object, "end", default_zone)?;
                let (fires, zone) = match object.get("rule") {
                    None | Some(Value::Null) => (Fires::Rule(recurrence::parse(object, "")?), zone),
                    Some(Value::Object(rule)) => {
                        // The outer zone wins, as in the original.
                        let zone = if has_zone(object) { zone } else { zone_of(rule, default_zone)? };
                        (Fires::Rule(recurrence::parse(rule, "rule")?), zone)
                    }
                    Some(rule) => (scalar(rule, default_zone, "rule")?, zone),
                };
                let (missed, overlap, told) = options::read(object);
                warnings = told;
                Self { fires, zone, start, end, missed, overlap }
            }
            other => Self {
                fires: scalar(other, default_zone, "schedule_info")?,
                zone: default_zone.clone(),
                start: None,
                end: None,
                missed: Missed::default(),
                overlap: Overlap::default(),
            },
        };
        timetable.must_fire()?;
        Ok((timetable, warnings))
    }

    /// Parses a schedule_info from its JSON text: what Postgres stores as `json` need not be JSON that can be read
    /// here.
    pub fn from_json(text: &str, default_zone: &TimeZone) -> Result<Self, RuleError> {
        Self::from_json_with_warnings(text, default_zone).map(|(timetable, _)| timetable)
    }

    /// [`Self::parse_with_warnings`] from JSON text.
    pub fn from_json_with_warnings(text: &str, default_zone: &TimeZone) -> Result<(Self, Vec<String>), RuleError> {
        let value = serde_json::from_str(text)
            .map_err(|error| RuleError::new("schedule_info", format!("is JSON that cannot be read: {error}")))?;
        Self::parse_with_warnings(&value, default_zone)
    }

    /// The first fire strictly after `after` (strictly after `start`, when that is later), None when there is none.
    ///
    /// A fire at `end` itself still counts. A single fire counts when it is not before `start`.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let next = match &self.fires {
            Fires::Once(at) => (*at > after && self.start.is_none_or(|start| *at >= start)).then_some(*at),
            Fires::Rule(fields) => {
                let after = self.start.map_or(after, |start| start.max(after));
                zone::next_after(fields, &self.zone, after)
            }
        }?;
        self.end.is_none_or(|end| next <= end).then_some(next)
    }

    /// Whether the schedule has a single fire.
    pub fn is_one_off(&self) -> bool {
        matches!(self.fires, Fires::Once(_))
    }

    /// What becomes of fires that were missed.
    pub fn missed(&self) -> Missed {
        self.missed
    }

    /// What becomes of a fire while the previous one's job waits or runs.
    pub fn overlap(&self) -> Overlap {
        self.overlap
    }

    fn must_fire(&self) -> Result<(), RuleError> {
        let never = |problem: &str| Err(RuleError::new("", problem));
        if let Fires::Rule(fields) = &self.fires
            && fields.never_match()
        {
            return never("the rule can never fire: no date matches it");
        }
        match (self.start, self.end) {
            (Some(start), Some(end)) if start > end => never("can never fire: end is before start"),
            (None, None) => Ok(()),
            // From the first instant on there is a fire, or there never will be one.
            _ if self.next_after(Timestamp::MIN).is_none() => {
                never("can never fire: no fire lies between start and end")
            }
            _ => Ok(()),
        }
    }
}

/// A zone by its IANA name, as in `tz`; `place` says in the error where the name stands.
pub fn zone(name: &str, place: &str) -> Result<TimeZone, RuleError> {
    zone::named(name, place)
}

/// An instant as `start` and `end` take it.
pub fn date(value: &Value, local: &TimeZone, place: &str) -> Result<Timestamp, RuleError> {
    date::parse(value, local, place)
}

/// A rule that is not an object.
fn scalar(value: &Value, default_zone: &TimeZone, place: &str) -> Result<Fires, RuleError> {
    match value {
        // A cron rule first, as in the original: some are dates as well.
        Value::String(text) => match cron::parse(text, place) {
            Ok(rule) => Ok(Fires::Rule(rule)),
            Err(error) => date::from_text(text, default_zone).map(Fires::Once).ok_or(error),
        },
        Value::Number(number) => date::from_epoch(number, place).map(Fires::Once),
        _ => Err(RuleError::new(place, "is neither a cron rule, nor a date, nor a recurrence object")),
    }
}

fn has_zone(object: &Map<String, Value>) -> bool {
    !matches!(object.get("tz"), None | Some(Value::Null)) && object.get("tz") != Some(&Value::String(String::new()))
}

fn zone_of(object: &Map<String, Value>, default_zone: &TimeZone) -> Result<TimeZone, RuleError> {
    match object.get("tz") {
        _ if !has_zone(object) => Ok(default_zone.clone()),
        Some(Value::String(name)) => zone::named(name, "tz"),
        _ => Err(RuleError::new("tz", "is not the name of a time zone")),
    }
}

/// `start` or `end`; null and an empty string are no bound, as in the original.
fn bound(object: &Map<String, Value>, name: &str, local: &TimeZone) -> Result<Option<Timestamp>, RuleError> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(value) => date::parse(value, local, name).map(Some),
    }
}
