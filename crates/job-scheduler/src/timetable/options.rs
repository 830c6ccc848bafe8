//! What a schedule_info says beside its rule: what becomes of missed and of overlapping fires; and what in it has no
//! effect.

use serde_json::{Map, Value};

use super::error::shown;
use super::has_zone;
use super::recurrence::FIELDS;

/// Of a schedule_info with more warnings only the first are told: they end up in a log line and in a row.
const MOST_WARNINGS: usize = 10;

/// What becomes of fires during which nobody was there to make jobs (`"missed"`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missed {
    /// They are left out.
    #[default]
    Skip,
    /// The last one is made up for.
    Once,
    /// Each is made up for.
    All,
}

/// What becomes of a fire while the schedule's previous job waits or runs (`"overlap"`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overlap {
    /// It is left out.
    #[default]
    Skip,
    /// It makes a job as well.
    Allow,
}

const MISSED: [(&str, Missed); 3] = [("skip", Missed::Skip), ("once", Missed::Once), ("all", Missed::All)];
const OVERLAP: [(&str, Overlap); 2] = [("skip", Overlap::Skip), ("allow", Overlap::Allow)];

/// Keys of a schedule_info that have a meaning, with any rule.
const KEYS: [&str; 6] = ["rule", "start", "end", "tz", "missed", "overlap"];

/// Reads `missed` and `overlap`, and collects what has no effect in a valid schedule_info.
pub(super) fn read(object: &Map<String, Value>) -> (Missed, Overlap, Vec<String>) {
    let mut warnings = Vec::new();
    let missed = option(object, "missed", &MISSED, &mut warnings);
    let overlap = option(object, "overlap", &OVERLAP, &mut warnings);
    let rule = object.get("rule").filter(|rule| !rule.is_null());
    for key in object.keys().map(String::as_str).filter(|key| !KEYS.contains(key)) {
        match (rule, FIELDS.contains(&key)) {
            (None, true) => {}
            (Some(_), true) => warnings.push(format!("{key}: has no effect beside rule")),
            (_, false) => warnings.push(format!("{}: is no key of a schedule, and has no effect", shown(key))),
        }
    }
    if let Some(Value::Object(rule)) = rule {
        if has_zone(object) && has_zone(rule) {
            warnings.push("rule.tz: has no effect, since the schedule's own tz counts".to_owned());
        }
        for key in rule.keys().map(String::as_str).filter(|key| *key != "tz" && !FIELDS.contains(key)) {
            warnings.push(match KEYS.contains(&key) {
                true => format!("rule.{key}: has no effect within rule; write it beside rule"),
                false => format!("{} in rule: is no field of a recurrence, and has no effect", shown(key)),
            });
        }
    }
    if warnings.len() > MOST_WARNINGS {
        let more = warnings.split_off(MOST_WARNINGS).len();
        warnings.push(format!("and {more} more"));
    }
    (missed, overlap, warnings)
}

/// The value of a key that has few; null is as good as absent. The first of `values` is the default.
fn option<T: Copy + Default>(
    object: &Map<String, Value>,
    key: &str,
    values: &[(&str, T)],
    warnings: &mut Vec<String>,
) -> T {
    let Some(value) = object.get(key).filter(|value| !value.is_null()) else { return T::default() };
    if let Some((_, known)) = values.iter().find(|(name, _)| value == name) {
        return *known;
    }
    let written = match value {
        Value::String(text) => shown(text),
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        other => other.to_string(),
    };
    let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
    warnings.push(format!("{key}: {written} is not one of {}; {} counts", names.join(", "), names[0]));
    T::default()
}
