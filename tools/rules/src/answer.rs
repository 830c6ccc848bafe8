//! What somebody says about a schedule.

use std::fmt;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Fires, in milliseconds since 1970, and an error when there is one; both when it comes after some fires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) next: Vec<i64>,
    pub(super) error: Option<String>,
}

impl Answer {
    /// Instants are RFC 3339, or seconds since 1970.
    pub(super) fn parse(value: &Value) -> Result<Self> {
        let instant = |instant: &Value| match instant {
            Value::String(text) => Ok(text.parse::<Timestamp>()?.as_millisecond()),
            other => {
                let seconds = other.as_f64().with_context(|| format!("{other} is no instant"))?;
                Ok((seconds * 1000.0).round() as i64)
            }
        };
        let next = value["next"].as_array().map(Vec::as_slice).unwrap_or_default();
        let error = value["error"].as_str().map(str::to_owned);
        Ok(Self { next: next.iter().map(instant).collect::<Result<_>>()?, error })
    }

    pub(super) fn to_json(&self) -> Value {
        let next: Vec<f64> = self.next.iter().map(|at| *at as f64 / 1000.0).collect();
        match &self.error {
            Some(error) => json!({ "next": next, "error": error }),
            None => json!({ "next": next }),
        }
    }

    /// Whether a rival says the same as this answer of ours: the same fires, or that there are none. That a schedule
    /// never fires is an error with us, which a rival may find or not.
    pub(super) fn is_same_as(&self, theirs: &Self) -> bool {
        let same_kind = match &self.error {
            Some(error) if error.contains("never fire") => true,
            _ => self.error.is_some() == theirs.error.is_some(),
        };
        same_kind && self.next == theirs.next
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for at in &self.next {
            match Timestamp::from_millisecond(*at) {
                Ok(at) => write!(f, "{at} ")?,
                Err(_) => write!(f, "{at} ms ")?,
            }
        }
        f.write_str(self.error.as_deref().unwrap_or(""))
    }
}

/// A rival's answer with a fire that it did not give in place of one that it did, which is ours as well.
pub(super) fn made_wrong(theirs: &Answer, ours: &Answer) -> Option<Answer> {
    let pair = theirs.next.windows(2).position(|pair| ours.next.contains(&pair[0]) && pair[1] - pair[0] > 3000)?;
    // A whole second, as all fires are, but not a whole minute: in a minute to which a quirk may move a fire it could
    // pass.
    let between = (theirs.next[pair] + theirs.next[pair + 1]) / 2000 * 1000;
    let between = if between % 60_000 == 0 { between + 1000 } else { between };
    let mut wrong = theirs.clone();
    wrong.next[pair] = between;
    (!ours.next.contains(&between)).then_some(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(next: &[i64], error: Option<&str>) -> Answer {
        Answer { next: next.to_vec(), error: error.map(str::to_owned) }
    }

    #[test]
    fn the_same_fires_are_the_same_answer_and_no_fires_are_ours_that_never_come() {
        let fires = answer(&[1000, 2000], None);
        assert!(fires.is_same_as(&fires));
        assert!(!fires.is_same_as(&answer(&[1000], None)));
        assert!(!fires.is_same_as(&answer(&[1000, 2000], Some("and then it failed"))));
        let never = answer(&[], Some("the rule can never fire: no date matches it"));
        assert!(never.is_same_as(&answer(&[], None)));
        assert!(never.is_same_as(&answer(&[], Some("loop limit"))));
        assert!(!never.is_same_as(&fires));
        let bad = answer(&[], Some("hour: 24 is not within 0-23"));
        assert!(bad.is_same_as(&answer(&[], Some("out of range"))));
        assert!(!bad.is_same_as(&answer(&[], None)));
    }

    #[test]
    fn an_answer_is_made_wrong_by_a_fire_between_two() {
        let ours = answer(&[0, 60_000, 120_000], None);
        assert_eq!(made_wrong(&ours, &ours), Some(answer(&[30_000, 60_000, 120_000], None)));
        let hourly = answer(&[0, 7_200_000], None);
        assert_eq!(made_wrong(&hourly, &hourly), Some(answer(&[3_601_000, 7_200_000], None)));
        // Only where it agrees with ours, and there is room.
        assert_eq!(made_wrong(&answer(&[10_000, 90_000], None), &ours), None);
        let every_second = answer(&[0, 1000, 2000], None);
        assert_eq!(made_wrong(&every_second, &every_second), None);
    }

    #[test]
    fn instants_are_read_as_text_and_as_seconds() {
        let ours = Answer::parse(&json!({"next": ["1970-01-01T00:01:00Z", "1970-01-01T00:01:00.25Z"]})).unwrap();
        assert_eq!(ours, Answer::parse(&json!({"next": [60, 60.25]})).unwrap());
        assert_eq!(Answer::parse(&ours.to_json()).unwrap(), ours);
        assert!(Answer::parse(&json!({"next": [null]})).is_err());
    }
}
