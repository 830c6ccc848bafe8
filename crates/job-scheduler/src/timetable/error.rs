//! What is wrong with a schedule, and where in it.

use std::fmt;

/// Texts longer than this are shown shortened: an error ends up in a log line.
const LONGEST_SHOWN: usize = 80;

/// A schedule that cannot be used: what is wrong, and where.
///
/// ```
/// use job_scheduler::timetable::{TimeZone, Timetable};
/// let error = Timetable::parse(&serde_json::json!({"rule": "0 25 * * *"}), &TimeZone::UTC).unwrap_err();
/// assert_eq!(error.to_string(), r#"rule, hour: 25 is not within 0-23 (character 3 of "0 25 * * *")"#);
/// assert_eq!(error.pointer().unwrap(), "0 25 * * *\n  ^^");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct RuleError {
    place: String,
    problem: String,
    /// The rule's text and the characters of it that are wrong.
    part: Option<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    text: String,
    first: usize,
    length: usize,
}

impl RuleError {
    /// A problem with the value at `place` (a path such as `rule.hour[1]`; empty for the schedule as a whole).
    pub(crate) fn new(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { place: place.into(), problem: problem.into(), part: None }
    }

    /// A problem with the bytes `at .. at + length` of a rule's `text`.
    pub(super) fn within(
        place: impl Into<String>,
        text: &str,
        at: usize,
        length: usize,
        problem: impl Into<String>,
    ) -> Self {
        let characters = |bytes: &str| bytes.chars().count();
        let part = Part {
            text: text.to_owned(),
            first: text.get(..at).map_or(0, characters),
            length: text.get(at..at + length).map_or(1, characters).max(1),
        };
        Self { part: Some(part), ..Self::new(place, problem) }
    }

    /// What is wrong, without the place.
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// Where: a path into the schedule, with the name of the field; empty for the schedule as a whole.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Two lines, the rule and marks under its bad part; None when the whole value is bad.
    pub fn pointer(&self) -> Option<String> {
        let part = self.part.as_ref()?;
        Some(format!("{}\n{}{}", part.text, " ".repeat(part.first), "^".repeat(part.length)))
    }
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        f.write_str(&self.problem)?;
        match &self.part {
            Some(part) => write!(f, " (character {} of {})", part.first + 1, shown(&part.text)),
            None => Ok(()),
        }
    }
}

/// A text of ASCII characters without quotes, shortened when it is long.
pub(super) fn brief(text: &str) -> String {
    match text.get(..LONGEST_SHOWN) {
        Some(start) if start != text => format!("{start}…"),
        _ => text.to_owned(),
    }
}

/// A text in quotes, shortened when it is long.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(LONGEST_SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
