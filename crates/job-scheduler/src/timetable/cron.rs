//! Cron rules: `[second] minute hour day-of-month month day-of-week`, and names such as `@daily`.

use super::days::{ALL_WEEKDAYS, Days, Join};
use super::error::{RuleError, brief, shown};
use super::fields::{Fields, Years};

/// One field's name, range and value names (the first stands for `min`).
struct Kind {
    name: &'static str,
    min: u8,
    max: u8,
    names: &'static [&'static str],
    /// What stands for every value.
    any: &'static [&'static str],
}

const SECOND: Kind = Kind { name: "second", min: 0, max: 59, names: &[], any: &["*"] };
const MINUTE: Kind = Kind { name: "minute", min: 0, max: 59, names: &[], any: &["*"] };
const HOUR: Kind = Kind { name: "hour", min: 0, max: 23, names: &[], any: &["*"] };
const DATE: Kind = Kind { name: "day of month", min: 1, max: 31, names: &[], any: &["*", "?"] };
const MONTH: Kind = Kind {
    name: "month",
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    any: &["*"],
};
/// 7 is Sunday too.
const WEEKDAY: Kind = Kind {
    name: "day of week",
    min: 0,
    max: 7,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    any: &["*", "?"],
};

const NAMED_RULES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// Parses a cron rule.
pub(super) fn parse(rule: &str, place: &str) -> Result<Fields, RuleError> {
    let name = rule.trim();
    if name.starts_with('@') {
        let meaning = NAMED_RULES.iter().find(|(known, _)| name.eq_ignore_ascii_case(known));
        let Some((_, meaning)) = meaning else {
            let known = NAMED_RULES.map(|(known, _)| known).join(", ");
            let at = rule.len() - rule.trim_start().len();
            return Err(RuleError::within(place, rule, at, name.len(), format!("is not one of {known}")));
        };
        return parse(meaning, place);
    }

    let texts: Vec<&str> = rule.split_whitespace().collect();
    if !matches!(texts.len(), 5 | 6) {
        let problem = match texts.len() {
            0 => "the rule is empty".to_owned(),
            count => format!(
                "is neither a date nor a cron rule: {count} field(s) where a cron rule has 5, or 6 with seconds first"
            ),
        };
        return Err(RuleError::within(place, rule, 0, rule.len(), problem));
    }
    // split_whitespace yields parts of `rule`, so the distance between the pointers is the offset.
    let mut fields =
        texts.into_iter().map(|text| Part { rule, place, text, at: text.as_ptr() as usize - rule.as_ptr() as usize });
    let seconds = if fields.len() == 6 { fields.next() } else { None };
    let (Some(minutes), Some(hours), Some(dates), Some(months), Some(weekdays)) =
        (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(RuleError::new(place, "is not a cron rule"));
    };

    Ok(Fields {
        seconds: seconds.map_or(Ok(1), |text| text.values(&SECOND))?,
        minutes: minutes.values(&MINUTE)?,
        hours: hours.values(&HOUR)? as u32,
        months: months.values(&MONTH)? as u16,
        days: days(dates, weekdays)?,
        years: Years::Any,
    })
}

fn days(dates: Part<'_>, weekdays: Part<'_>) -> Result<Days, RuleError> {
    let restricted = |field: &Part<'_>| !matches!(field.text, "*" | "?");
    let join = if restricted(&dates) && restricted(&weekdays) { Join::Either } else { Join::Both };
    let mut days = Days { join, ..Days::none() };
    for item in dates.list() {
        match item.text {
            "L" | "l" => days.last_date = true,
            _ => days.dates |= item.item(&DATE)? as u32,
        }
    }
    for item in weekdays.list() {
        if let Some(day) = item.text.strip_suffix(['L', 'l']) {
            if day.is_empty() {
                return Err(item.error(&WEEKDAY, "L needs a day before it, as in 5L for the last Friday"));
            }
            days.last_weekdays |= one_weekday(item.prefix(day.len()).value(&WEEKDAY)?);
        } else if let Some((day, nth)) = item.text.split_once('#') {
            let nth_part = item.suffix(day.len() + 1);
            let (Ok(nth @ 1..=5), true) = (nth.parse::<usize>(), nth.len() == 1) else {
                return Err(nth_part.error(&WEEKDAY, "the number after # is not within 1-5"));
            };
            days.nth_weekdays[nth - 1] |= one_weekday(item.prefix(day.len()).value(&WEEKDAY)?);
        } else {
            days.weekdays |= fold_sunday(item.item(&WEEKDAY)?);
        }
    }
    Ok(days)
}

fn one_weekday(value: u8) -> u8 {
    1 << (value % 7)
}

/// Bit 7 is Sunday as bit 0 is.
fn fold_sunday(weekdays: u64) -> u8 {
    ((weekdays | weekdays >> 7) as u8) & ALL_WEEKDAYS
}

/// A part of the rule, which knows where it stands.
#[derive(Clone, Copy)]
struct Part<'a> {
    rule: &'a str,
    place: &'a str,
    text: &'a str,
    at: usize,
}

impl<'a> Part<'a> {
    fn prefix(self, length: usize) -> Self {
        Self { text: &self.text[..length], ..self }
    }

    fn suffix(self, from: usize) -> Self {
        Self { text: &self.text[from..], at: self.at + from, ..self }
    }

    fn error(self, kind: &Kind, problem: impl Into<String>) -> RuleError {
        RuleError::within(format!("{}, {}", self.place, kind.name), self.rule, self.at, self.text.len(), problem)
    }

    /// The entries between commas.
    fn list(self) -> impl Iterator<Item = Part<'a>> {
        let mut at = 0;
        self.text.split(',').map(move |text| {
            let part = self.suffix(at).prefix(text.len());
            at += text.len() + 1;
            part
        })
    }

    /// The values of a whole field, as bits.
    fn values(self, kind: &Kind) -> Result<u64, RuleError> {
        self.list().try_fold(0, |values, item| Ok(values | item.item(kind)?))
    }

    /// The values of one entry: `*`, `a`, `a-b`, each with `/step`; `a/step` goes on to the maximum.
    fn item(self, kind: &Kind) -> Result<u64, RuleError> {
        if self.text.is_empty() {
            return Err(self.error(kind, "an entry of the list is empty"));
        }
        let (range, step) = match self.text.split_once('/') {
            Some((range, step)) => (self.prefix(range.len()), Some(self.suffix(range.len() + 1).step(kind, step)?)),
            None => (self, None),
        };
        let (first, last) = match range.text.split_once('-') {
            _ if kind.any.contains(&range.text) => (kind.min, kind.max),
            Some((first, _)) => {
                let (first, last) =
                    (range.prefix(first.len()).value(kind)?, range.suffix(first.len() + 1).value(kind)?);
                if first > last {
                    return Err(range.error(kind, format!("the range {first}-{last} runs backward")));
                }
                (first, last)
            }
            None => {
                let first = range.value(kind)?;
                (first, if step.is_some() { kind.max } else { first })
            }
        };
        Ok((first..=last).step_by(step.unwrap_or(1)).fold(0, |values, value| values | 1 << value))
    }

    fn step(self, kind: &Kind, text: &str) -> Result<usize, RuleError> {
        match text.parse() {
            Ok(step @ 1..) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(step),
            _ => Err(self.error(kind, "the step after / is not a whole number from 1 on")),
        }
    }

    /// One number or name.
    fn value(self, kind: &Kind) -> Result<u8, RuleError> {
        if let Some(index) = kind.names.iter().position(|name| self.text.eq_ignore_ascii_case(name)) {
            return Ok(kind.min + index as u8);
        }
        let numeric = !self.text.is_empty() && self.text.bytes().all(|byte| byte.is_ascii_digit());
        match self.text.parse() {
            Ok(value) if numeric && (kind.min..=kind.max).contains(&value) => Ok(value),
            _ if numeric => {
                Err(self.error(kind, format!("{} is not within {}-{}", brief(self.text), kind.min, kind.max)))
            }
            _ if self.text.is_empty() => Err(self.error(kind, "a number is missing")),
            _ if kind.names.is_empty() => Err(self.error(kind, format!("{} is not a number", shown(self.text)))),
            _ => Err(self.error(kind, format!("{} is neither a number nor a three-letter name", shown(self.text)))),
        }
    }
}
