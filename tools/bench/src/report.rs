//! The report in Markdown.

use super::bars::{bars, best_rival};
use super::gates::Column;
use super::plan::{Group, Scale, Scenario, Work};
use super::program::{Kind, Program, Programs};
use super::results::{Outcome, Results, Summary};
use super::schedules::{Fires, Schedules};

const INTRODUCTION: &str = "\
# Benchmarks

Written by `cargo xtask bench`. Everybody runs on the same PostgreSQL with the same settings, in a fresh database, in
turn: one run of each program, then the next round. The planner has statistics (ANALYZE) before each drain. A figure is
the median of the rounds; behind it, where there was more than one, the least and the most. Ratios compare medians of this
run; figures of different machines or days do not compare.

The limits are what the same work costs without a job library: bare statements on a table with a primary key and one
partial index, without triggers, and bare HTTP requests. CPU is microseconds a job: of all of PostgreSQL's processes
during the whole command, and of the program during the timed part. What each program is and how to run it alone is in
[bench/README.md](../bench/README.md).
";

/// Everything that a report needs.
pub(super) struct Report<'a> {
    pub(super) facts: Vec<(&'static str, String)>,
    pub(super) groups: &'a [Group],
    pub(super) results: &'a Results,
    pub(super) programs: &'a Programs,
    pub(super) scale: &'a Scale,
    pub(super) minutes: f64,
}

impl Report<'_> {
    pub(super) fn text(&self) -> String {
        let mut text = INTRODUCTION.to_owned();
        if self.scale.quick {
            text.push_str("\nThis was a quick run: one round with small numbers. Its ratios are a hint, no more.\n");
        }
        text.push_str("\n| | |\n|---|---|\n");
        for (what, value) in &self.facts {
            text.push_str(&format!("| {what} | {value} |\n"));
        }
        text.push_str(&format!("| Time | {:.0} minutes |\n", self.minutes));
        text.push_str(&self.bars());
        for group in self.groups {
            text.push_str(&self.group(group));
        }
        text.push_str(&self.settings());
        text.push_str(&self.left_out());
        text
    }

    /// The table of bars.
    pub(super) fn bars(&self) -> String {
        let mut text = "\n## Bars\n\n| measure | bar | measured | |\n|---|---|---|---|\n".to_owned();
        for bar in bars(self.scale, self.results, self.programs) {
            let (measured, verdict) = match bar.measured {
                Some((measured, true)) => (measured, "met"),
                Some((measured, false)) => (measured, "**not met**"),
                None => ("–".to_owned(), "not measured"),
            };
            text.push_str(&format!("| {} | {} | {measured} | {verdict} |\n", bar.measure, bar.bar));
        }
        text
    }

    fn group(&self, group: &Group) -> String {
        let mut tables = String::new();
        let mut shapes = vec![Shape::Rate, Shape::Latency, Shape::Held, Shape::Fires, Shape::Idle];
        for shape in group.scenarios.iter().flat_map(Shape::of) {
            if !shapes.contains(&shape) {
                shapes.push(shape);
            }
        }
        for shape in shapes {
            let rows: String = group
                .scenarios
                .iter()
                .filter(|scenario| Shape::of(scenario).contains(&shape))
                .map(|scenario| self.rows(scenario, shape))
                .collect();
            if !rows.is_empty() {
                tables.push_str(&format!("\n{}\n{rows}", shape.head()));
            }
        }
        if tables.is_empty() {
            return tables;
        }
        let note = if group.note.is_empty() { String::new() } else { format!("\n{}\n", group.note) };
        format!("\n## {}\n{note}{tables}", group.title)
    }

    fn rows(&self, scenario: &Scenario, shape: Shape) -> String {
        let programs = [&self.programs.limits, &self.programs.ours].into_iter().chain(&self.programs.rivals);
        let mut title = scenario.title.as_str();
        let mut rows = String::new();
        for program in programs.filter(|program| scenario.who.contains(&program.kind)) {
            let cells = match self.results.last(scenario.name, &program.name) {
                None | Some(Outcome::Unsupported) => continue,
                Some(_) if self.results.summary(scenario.name, &program.name, shape.figure()).is_some() => {
                    self.cells(scenario, program, shape)
                }
                // Not all programs have all figures of a table of columns.
                Some(Outcome::Measured { .. }) if matches!(shape, Shape::Columns(_)) => continue,
                Some(Outcome::NoTime) => "no time left".to_owned(),
                Some(_) => "failed".to_owned(),
            };
            rows.push_str(&format!("| {title} | {} | {cells} |\n", program.label));
            title = "";
        }
        rows
    }

    fn cells(&self, scenario: &Scenario, program: &Program, shape: Shape) -> String {
        let summary = |figure: &str| self.results.summary(scenario.name, &program.name, figure);
        let plain = |figure: &str, digits| summary(figure).map_or_else(|| "–".to_owned(), |one| spread(one, digits));
        match shape {
            Shape::Columns(columns) => {
                let cells: Vec<_> = columns.iter().map(|column| plain(column.figure, column.digits)).collect();
                cells.join(" | ")
            }
            Shape::Idle => {
                let cells = [("cpu_percent", 3), ("rss_mb", 1), ("statements_per_min", 1), ("pg_percent", 3)];
                cells.map(|(figure, digits)| plain(figure, digits)).join(" | ")
            }
            Shape::Held => {
                let best = best_rival(self.results, self.programs, scenario.name, "held_per_s");
                let held = format!("{} | {}", plain("held", 0), plain("startup_s", 2));
                let rate = format!("{} | {}", plain("held_per_s", 0), ratio(summary("held_per_s"), best));
                let cells =
                    [("rss_mb", 1), ("peak_mb", 1), ("cpu_percent", 3), ("statements_per_min", 1), ("pg_percent", 3)];
                format!("{held} | {rate} | {}", cells.map(|(figure, digits)| plain(figure, digits)).join(" | "))
            }
            Shape::Fires => {
                let best = best_rival(self.results, self.programs, scenario.name, "p99_ms");
                let cells = [("p50_ms", 1), ("p99_ms", 1), ("max_ms", 1)];
                let late = cells.map(|(figure, digits)| plain(figure, digits)).join(" | ");
                let cpu = [("pg_us", "fire_pg_percent"), ("client_us", "fire_cpu_percent")]
                    .map(|(fire, percent)| format!("{} ({} %)", plain(fire, 0), plain(percent, 1)));
                let made = format!("{} of {}", plain("fires", 0), plain("due", 0));
                format!(
                    "{made} | {late} | {} | {} | {}",
                    ratio(summary("p99_ms"), best),
                    plain("fire_statements", 0),
                    cpu.join(" / ")
                )
            }
            Shape::Latency => {
                let best = best_rival(self.results, self.programs, scenario.name, "p50_ms");
                let ratio = ratio(summary("p50_ms"), best);
                let after = plain("after_ms", 2);
                format!("{} | {} | {after} | {ratio}", plain("p50_ms", 2), plain("p99_ms", 2))
            }
            Shape::Rate => {
                let best = best_rival(self.results, self.programs, scenario.name, "per_s");
                let limit = limit_of(scenario);
                let limit = limit.and_then(|name| self.results.median(name, &self.programs.limits.name, "per_s"));
                let limit = if program.kind == Kind::Limits { None } else { limit };
                let best = if program.kind == Kind::Limits { None } else { best };
                let rate = summary("per_s");
                let cpu = ["pg_us", "client_us", "function_us"]
                    .iter()
                    .filter_map(|figure| summary(figure).map(|one| format!("{:.0}", one.median)))
                    .collect::<Vec<_>>()
                    .join(" / ");
                format!("{} | {} | {} | {cpu}", plain("per_s", 0), ratio(rate, best), ratio(rate, limit))
            }
        }
    }

    fn settings(&self) -> String {
        let mut rows = String::new();
        for program in std::iter::once(&self.programs.ours).chain(&self.programs.rivals) {
            for scenario in ["drain-1", "latency", "http-answer", "http-callback"] {
                if let Some(settings) = self.results.settings(scenario, &program.name) {
                    rows.push_str(&format!("| {} | {scenario} | {settings} |\n", program.label));
                }
            }
        }
        if rows.is_empty() { rows } else { format!("\n## Settings of the programs\n\n| | | |\n|---|---|---|\n{rows}") }
    }

    fn left_out(&self) -> String {
        if self.programs.absent.is_empty() {
            return String::new();
        }
        let lines: String = self.programs.absent.iter().map(|line| format!("- {line}\n")).collect();
        format!("\n## Not there\n\n{lines}")
    }
}

/// What a scenario's row looks like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Rate,
    Latency,
    /// Schedules at rest.
    Held,
    /// Schedules that fire.
    Fires,
    Idle,
    /// One figure a column.
    Columns(&'static [Column]),
}

impl Shape {
    fn of(scenario: &Scenario) -> Vec<Self> {
        match scenario.work {
            Work::Add { .. } | Work::Drain(_) | Work::Post { .. } | Work::HttpDrain { .. } => vec![Self::Rate],
            Work::Latency { .. } | Work::HttpLatency { .. } => vec![Self::Latency],
            Work::Schedules(Schedules { fires: Fires::Spread { .. }, .. }) => vec![Self::Held, Self::Fires],
            Work::Schedules(_) => vec![Self::Fires],
            Work::Idle => vec![Self::Idle],
            Work::Gate(gate) => {
                let rate = gate.is_rate().then_some(Self::Rate);
                rate.into_iter().chain(gate.columns().map(Self::Columns)).collect()
            }
        }
    }

    /// The figure that every row of this shape has.
    fn figure(self) -> &'static str {
        match self {
            Self::Rate => "per_s",
            Self::Latency => "p50_ms",
            Self::Held => "held_per_s",
            Self::Fires => "p50_ms",
            Self::Idle => "rss_mb",
            Self::Columns(columns) => columns.first().map_or("", |column| column.figure),
        }
    }

    fn head(self) -> String {
        let head = match self {
            Self::Columns(columns) => {
                let heads: String = columns.iter().map(|column| format!(" {} |", column.head)).collect();
                return format!("| | |{heads}\n|---|---|{}", "---|".repeat(columns.len()));
            }
            Self::Rate => {
                "| | | per second | × the best rival | × the limit | CPU µs: PostgreSQL / program / function |\n|---|---|---|---|---|---|"
            }
            Self::Latency => {
                "| | | p50 ms | p99 ms | after the commit, p50 ms | × the best rival's p50 |\n|---|---|---|---|---|---|"
            }
            Self::Held => {
                "| | | held | start-up s | per second | × the best rival | resident MB | the most, MB | CPU % | statements a minute | CPU % of PostgreSQL |\n|---|---|---|---|---|---|---|---|---|---|---|"
            }
            Self::Fires => {
                "| | | fires | late p50 ms | p99 ms | most ms | × the best rival's p99 | statements | CPU µs a fire: PostgreSQL / program |\n|---|---|---|---|---|---|---|---|---|"
            }
            Self::Idle => {
                "| | | CPU % | resident MB | statements a minute | CPU % of PostgreSQL |\n|---|---|---|---|---|---|"
            }
        };
        head.to_owned()
    }
}

/// The scenario whose limit a scenario is compared with.
fn limit_of(scenario: &Scenario) -> Option<&'static str> {
    match scenario.name {
        "drain-1" | "not-due" | "not-due-many" | "dead" | "dead-held" | "dead-many" | "dead-many-held" => {
            Some("drain-1")
        }
        "drain-2" => Some("drain-2"),
        "single-always" => Some("single-always"),
        "single-demand" | "single-keeping-up" => Some("single-raw"),
        "bulk" => Some("bulk"),
        "bulk-2" => Some("bulk-2"),
        "http-answer" | "http-callback" => Some("http-post"),
        _ => None,
    }
}

fn ratio(value: Option<Summary>, base: Option<f64>) -> String {
    match (value, base) {
        (Some(value), Some(base)) => format!("{:.2}", value.median / base),
        _ => String::new(),
    }
}

/// The median, and the least and the most behind it.
fn spread(summary: Summary, digits: usize) -> String {
    let one = |value: f64| {
        let text = format!("{value:.digits$}");
        if digits == 0 { grouped(&text) } else { text }
    };
    if summary.count == 1 {
        return one(summary.median);
    }
    format!("{} ({}–{})", one(summary.median), one(summary.least), one(summary.most))
}

/// Digits in groups of three.
fn grouped(digits: &str) -> String {
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_shows_its_spread() {
        let summary = Summary { median: 61234.4, least: 60000.0, most: 999.0, count: 3 };
        assert_eq!(spread(summary, 0), "61,234 (60,000–999)");
        assert_eq!(spread(Summary { median: 1.234, count: 1, ..summary }, 2), "1.23");
    }
}
