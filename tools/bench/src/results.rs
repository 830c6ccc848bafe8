//! What was measured: samples by scenario and program, and their medians.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Figures of one run by name: `per_s`, `p50_ms` and so on.
pub(super) type Figures = BTreeMap<&'static str, f64>;

/// How one run ended.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    Measured {
        figures: Figures,
        settings: Option<String>,
    },
    /// The program has no such thing.
    Unsupported,
    Failed(String),
    /// The run's time was over.
    NoTime,
}

/// One run of one program.
#[derive(Debug, Clone)]
struct Sample {
    scenario: &'static str,
    program: String,
    outcome: Outcome,
}

/// A median and where the values lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
    pub(super) count: usize,
}

impl Summary {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most, count) = (*values.first()?, *values.last()?, values.len());
        let middle = count / 2;
        let median = if count % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Self { median, least, most, count })
    }
}

/// All samples of a run.
#[derive(Debug, Default)]
pub(super) struct Results {
    samples: Vec<Sample>,
}

impl Results {
    pub(super) fn add(&mut self, scenario: &'static str, program: &str, outcome: Outcome) {
        self.samples.push(Sample { scenario, program: program.to_owned(), outcome });
    }

    fn of<'a>(&'a self, scenario: &str, program: &str) -> impl DoubleEndedIterator<Item = &'a Outcome> {
        let wanted = move |sample: &&Sample| sample.scenario == scenario && sample.program == program;
        self.samples.iter().filter(wanted).map(|sample| &sample.outcome)
    }

    /// The last run's outcome, when there was one.
    pub(super) fn last(&self, scenario: &str, program: &str) -> Option<&Outcome> {
        self.of(scenario, program).next_back()
    }

    /// Median and spread of a figure.
    pub(super) fn summary(&self, scenario: &str, program: &str, figure: &str) -> Option<Summary> {
        let value = |outcome: &Outcome| match outcome {
            Outcome::Measured { figures, .. } => figures.get(figure).copied(),
            _ => None,
        };
        Summary::of(self.of(scenario, program).filter_map(value).collect())
    }

    pub(super) fn median(&self, scenario: &str, program: &str, figure: &str) -> Option<f64> {
        self.summary(scenario, program, figure).map(|summary| summary.median)
    }

    /// The settings that a program stated.
    pub(super) fn settings(&self, scenario: &str, program: &str) -> Option<&str> {
        self.of(scenario, program).find_map(|outcome| match outcome {
            Outcome::Measured { settings, .. } => settings.as_deref(),
            _ => None,
        })
    }

    /// Everything, for a machine to read.
    pub(super) fn to_json(&self) -> Value {
        let sample = |sample: &Sample| {
            let outcome = match &sample.outcome {
                Outcome::Measured { figures, settings } => json!({ "figures": figures, "settings": settings }),
                Outcome::Unsupported => json!({ "unsupported": true }),
                Outcome::Failed(why) => json!({ "failed": why }),
                Outcome::NoTime => json!({ "no_time": true }),
            };
            json!({ "scenario": sample.scenario, "program": sample.program, "outcome": outcome })
        };
        self.samples.iter().map(sample).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_the_median_with_its_spread() {
        let mut results = Results::default();
        for value in [3.0, 9.0, 5.0] {
            let figures = Figures::from([("per_s", value)]);
            results.add("drain", "ours", Outcome::Measured { figures, settings: None });
        }
        results.add("drain", "ours", Outcome::NoTime);
        let summary = results.summary("drain", "ours", "per_s").unwrap();
        assert_eq!(summary, Summary { median: 5.0, least: 3.0, most: 9.0, count: 3 });
        assert_eq!(Summary::of(vec![1.0, 2.0]).unwrap().median, 1.5);
        assert!(results.median("drain", "awa", "per_s").is_none());
    }
}
