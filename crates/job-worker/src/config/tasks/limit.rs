//! The limits of tasks in JOBS_TASKS, which workers set in the database.

use std::time::Duration;

use job_pg::{Limit, Rate};
use serde_json::{Map, Value};

use super::{AllTasks, Faults, REST};

const LIMIT: &[&str] = &["max_running", "rate", "per", "burst"];
/// The largest limit, that of SQL's int.
const MOST: usize = 0x7fff_ffff;

impl AllTasks {
    /// The limits that a worker sets at its start, by the name of their gate.
    pub(crate) fn limits(&self) -> impl Iterator<Item = (&str, Limit)> {
        let named = self.named.iter().map(|(task, settings)| (task.as_str(), settings));
        named.chain([(REST, &self.rest)]).filter_map(|(task, settings)| Some((task, settings.limit?)))
    }
}

impl Faults {
    pub(super) fn limit(&mut self, place: &str, settings: &Map<String, Value>) -> Limit {
        let mut read = Limit::default();
        let (mut starts, mut per, mut burst) = (None, Duration::from_secs(1), 1);
        let int = |number: usize| u32::try_from(number).ok();
        for (key, value) in settings {
            let at = format!("{place}.{key}");
            match key.as_str() {
                "max_running" => read.max_running = self.number(&at, value, MOST).and_then(int),
                "rate" => starts = self.number(&at, value, MOST).and_then(int),
                "per" => per = self.duration(&at, value).unwrap_or(per),
                "burst" => burst = self.number(&at, value, MOST).and_then(int).unwrap_or(burst),
                _ => self.unknown(place, key, LIMIT),
            }
        }
        read.rate = starts.map(|starts| Rate { starts, per, burst });
        for key in ["per", "burst"] {
            if settings.contains_key(key) && !settings.contains_key("rate") {
                self.add(&format!("{place}.{key}"), "means nothing without rate");
            }
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::read;
    use super::*;

    #[test]
    fn a_limit_is_that_of_one_task_and_not_of_those_that_are_not_named() {
        let read = read(
            r#"{"a": {"limit": {"max_running": 5, "rate": 100, "per": "10s", "burst": 7}}, "b": {"limit": {}},
                            "c": {"timeout": "1s"}, "*": {"limit": {"rate": 3}}}"#,
        )
        .unwrap();
        let rate = |starts, seconds, burst| Some(Rate { starts, per: Duration::from_secs(seconds), burst });
        let limits: Vec<_> = read.limits().collect();
        let a = Limit { max_running: Some(5), rate: rate(100, 10, 7) };
        let rest = Limit { max_running: None, rate: rate(3, 1, 1) };
        assert_eq!(limits, [("a", a), ("b", Limit::default()), ("*", rest)]);
        assert_eq!((read.of("a").limit, read.of("c").limit), (Some(a), None));
    }

    #[test]
    fn what_is_no_limit_is_told_with_its_place() {
        for (value, told) in [
            (r#"{"mail": {"limit": 5}}"#, "mail.limit: is not an object"),
            (
                r#"{"mail": {"limit": {"max_runing": 5}}}"#,
                "mail.limit.max_runing: there is no such setting; do you mean max_running?",
            ),
            (r#"{"mail": {"limit": {"max_running": 0}}}"#, "mail.limit.max_running: is not a whole number from 1"),
            (r#"{"mail": {"limit": {"burst": 5}}}"#, "mail.limit.burst: means nothing without rate"),
        ] {
            let error = read(value).unwrap_err();
            assert!(error.contains(told), "{value}: {error}");
        }
    }
}
