//! A `cron::Schedule` as a recurrence object: there, too, all fields must match.

use cron::{Schedule, TimeUnitSpec};
use job_pg::EnqueueError;
use job_scheduler::timetable::{TimeZone, Timetable};
use serde_json::{Map, Value};

use super::{IntoRule, refused};

impl IntoRule for &Schedule {
    fn into_rule(self) -> Result<Value, EnqueueError> {
        let mut rule = Map::new();
        let mut add = |name: &str, values: Option<Vec<u32>>| rule.insert(name.to_owned(), values.into());
        // Always there: a recurrence without a second is one at second 0.
        add("second", some_of(self.seconds(), 0));
        for (name, values) in [
            ("minute", some_of(self.minutes(), 0)),
            ("hour", some_of(self.hours(), 0)),
            ("date", some_of(self.days_of_month(), 0)),
            // From January = 1 and Sunday = 1 to 0.
            ("month", some_of(self.months(), 1)),
            ("dayOfWeek", some_of(self.days_of_week(), 1)),
            ("year", some_of(self.years(), 0)),
        ] {
            if values.is_some() {
                add(name, values);
            }
        }
        let rule = Value::Object(rule);
        // Some parse and match no date: 30 February.
        let read = Timetable::parse(&rule, &TimeZone::UTC);
        read.map_err(|error| refused(format!("{error} (from the cron::Schedule {:?})", self.source())))?;
        Ok(rule)
    }
}

impl IntoRule for Schedule {
    fn into_rule(self) -> Result<Value, EnqueueError> {
        (&self).into_rule()
    }
}

/// The values of a field, counted from `first`; None when it has all.
fn some_of(field: &impl TimeUnitSpec, first: u32) -> Option<Vec<u32>> {
    (!field.is_all()).then(|| field.iter().map(|value| value - first).collect())
}
