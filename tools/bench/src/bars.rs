//! The bars: what must be shown, beside what was measured.

mod gates;

use super::plan::{Scale, count};
use super::program::{ORIGINAL, Programs};
use super::results::Results;

/// One bar.
pub(super) struct Bar {
    pub(super) measure: String,
    pub(super) bar: String,
    /// None: not measured in this run.
    pub(super) measured: Option<(String, bool)>,
}

/// Reads medians by scenario for all that the bars compare.
struct Medians<'a> {
    results: &'a Results,
    programs: &'a Programs,
}

impl Medians<'_> {
    fn ours(&self, scenario: &str, figure: &str) -> Option<f64> {
        self.results.median(scenario, &self.programs.ours.name, figure)
    }

    /// The most of all rounds, for what must never be exceeded.
    fn most(&self, scenario: &str, figure: &str) -> Option<f64> {
        self.results.summary(scenario, &self.programs.ours.name, figure).map(|summary| summary.most)
    }

    fn limit(&self, scenario: &str) -> Option<f64> {
        self.results.median(scenario, &self.programs.limits.name, "per_s")
    }

    fn rival(&self, name: &str, scenario: &str, figure: &str) -> Option<f64> {
        self.results.median(scenario, name, figure)
    }

    /// The best rival's: the highest rate, or the shortest time.
    fn best(&self, scenario: &str, figure: &str) -> Option<f64> {
        best_rival(self.results, self.programs, scenario, figure)
    }
}

/// The best rival's median: the highest rate, or the shortest time.
pub(super) fn best_rival(results: &Results, programs: &Programs, scenario: &str, figure: &str) -> Option<f64> {
    let medians = programs.rivals.iter().filter_map(|rival| results.median(scenario, &rival.name, figure));
    if figure.ends_with("_ms") { medians.reduce(f64::min) } else { medians.reduce(f64::max) }
}

fn times(value: Option<f64>, base: Option<f64>, least: f64) -> Option<(String, bool)> {
    let ratio = value? / base?;
    Some((format!("{ratio:.2} ×"), ratio >= least))
}

fn share(value: Option<f64>, base: Option<f64>, least: f64) -> Option<(String, bool)> {
    let ratio = value? / base?;
    Some((format!("{:.0} %", ratio * 100.0), ratio >= least))
}

fn at_most(value: Option<f64>, most: f64, unit: &str) -> Option<(String, bool)> {
    let value = value?;
    Some((format!("{value:.2} {unit}"), value <= most))
}

/// Every bar, with what this run says.
pub(super) fn bars(scale: &Scale, results: &Results, programs: &Programs) -> Vec<Bar> {
    let medians = Medians { results, programs };
    let ours = |scenario: &str| medians.ours(scenario, "per_s");
    let p50 = |scenario: &str| medians.ours(scenario, "p50_ms");
    // The faster of its two, so that the ratio is the smaller one.
    let original = [medians.rival(ORIGINAL, "http-callback", "per_s"), medians.rival(ORIGINAL, "http-node", "per_s")];
    let original = original.into_iter().flatten().reduce(f64::max);
    let awa = |scenario: &str| medians.rival("awa", scenario, "per_s");
    let ([some, many], [few_dead, many_dead]) = (scale.not_due.map(count), scale.dead.map(count));
    let mut bars = Vec::new();
    let mut bar = |measure: &str, bar: &str, measured| {
        bars.push(Bar { measure: measure.to_owned(), bar: bar.to_owned(), measured });
    };

    bar("drain, one worker", "≥ 1.3 × the best rival", times(ours("drain-1"), medians.best("drain-1", "per_s"), 1.3));
    bar("", "≥ 75 % of raw claim + delete", share(ours("drain-1"), medians.limit("drain-1"), 0.75));
    bar(
        "drain with rows not due",
        &format!("≥ 90 % of that without: {some} rows"),
        share(ours("not-due"), ours("not-due-0"), 0.9),
    );
    bar("", &format!("the same: {many} rows"), share(ours("not-due-many"), ours("not-due-0"), 0.9));
    bar(
        "drain under a held snapshot",
        &format!("≥ 90 % of that without: {few_dead} dead rows"),
        share(ours("dead-held"), ours("dead"), 0.9),
    );
    bar("", &format!("the same: {many_dead} dead rows"), share(ours("dead-many-held"), ours("dead-many"), 0.9));
    bar(
        "single enqueue, always NOTIFY",
        "≥ 85 % of raw insert + pg_notify",
        share(ours("single-always"), medians.limit("single-always"), 0.85),
    );
    bar(
        "single enqueue, NOTIFY on demand",
        "≥ 2.5 × the best rival",
        times(ours("single-demand"), medians.best("single-always", "per_s"), 2.5),
    );
    bar("", "≥ 65 % of raw single-row commits", share(ours("single-demand"), medians.limit("single-raw"), 0.65));
    bar(
        "idle latency with rows not due",
        &format!("p50 ≤ 1.3 × that without: {some} rows"),
        below(p50("not-due-latency"), p50("not-due-0-latency"), 1.3),
    );
    bar("", &format!("the same: {many} rows"), below(p50("not-due-many-latency"), p50("not-due-0-latency"), 1.3));
    bar("bulk enqueue", "≥ 60 % of raw 500-row inserts", share(ours("bulk"), medians.limit("bulk"), 0.6));
    bar("", "the same with 2 clients", share(ours("bulk-2"), medians.limit("bulk-2"), 0.6));
    bar("", "ahead of awa's COPY", times(ours("bulk"), awa("bulk"), 1.0));
    // A plain INSERT with pg_notify and a plain claim have the same way to go; their time is this machine's floor.
    let floor = results.median("latency", &programs.limits.name, "p50_ms");
    let idle = at_most(p50("latency"), 1.0, "ms").map(|(text, met)| match floor {
        Some(floor) => (format!("{text} (the limit: {floor:.2} ms)"), met),
        None => (text, met),
    });
    bar("enqueue to handler start, idle", "p50 ≤ 1.0 ms", idle);
    bar(
        "",
        "p99 below the best rival's",
        below(medians.ours("latency", "p99_ms"), medians.best("latency", "p99_ms"), 1.0),
    );
    bar("HTTP drain, answer mode", "≥ 60 × the original", times(ours("http-answer"), original, 60.0));
    bar("", "≥ 2 × awa's sync mode", times(ours("http-answer"), awa("http-answer"), 2.0));
    bar("HTTP drain, callback mode", "≥ 40 × the original", times(ours("http-callback"), original, 40.0));
    let busy = medians.ours("http-node", "function_share");
    let text = busy.map(|busy| (format!("the function used {:.0} % of a core", busy * 100.0), busy >= 0.9));
    bar("HTTP drain with the original's function", "as fast as the function allows", text);
    let original = medians.rival(ORIGINAL, "http-latency-callback", "p50_ms");
    bar(
        "enqueue to done over HTTP, idle",
        "p50 below half of the original's",
        below(p50("http-latency"), original, 0.5),
    );
    gates::bars(&medians, &mut bar);
    let held = format!("{} schedules", count(scale.schedules));
    let spread = |figure| medians.ours("schedules", figure);
    let together = |figure| medians.ours("schedules-together", figure);
    bar(&held, "all held within 10 s of the start", at_most(spread("startup_s"), 10.0, "s"));
    bar("", "resident memory below 100 MB, at the most", at_most(spread("peak_mb"), 100.0, "MB"));
    // A heartbeat each third of the lease of 8 s is 22.5 a minute.
    bar("", "at rest, below 30 statements a minute", at_most(spread("statements_per_min"), 30.0, "a minute"));
    let due = scale.due;
    bar(&format!("{due} fires a minute"), "p99 late by less than 1 s", at_most(spread("p99_ms"), 1_000.0, "ms"));
    // In a quick run hardly two fires are due in the same second.
    let statements = if scale.quick { None } else { spread("statements_per_fire") };
    bar("", "at most one statement for 4 fires", at_most(statements, 0.25, "a fire"));
    bar(&format!("{due} fires in one second"), "p99 late by less than 1 s", at_most(together("p99_ms"), 1_000.0, "ms"));
    bar("", "at most one statement for 20 fires", at_most(together("statements_per_fire"), 0.05, "a fire"));
    let original = medians.rival(ORIGINAL, "schedules-together", "p99_ms");
    bar("", "p99 below the original's", below(together("p99_ms"), original, 1.0));
    let idle = |figure| medians.ours("idle", figure);
    bar("idle", "CPU below 0.1 %", at_most(idle("cpu_percent"), 0.1, "%"));
    bar("", "resident memory below 20 MB", at_most(idle("rss_mb"), 20.0, "MB"));
    // Worker and scheduler, each once in 5 s.
    bar("", "one statement per role and 5 s: 24 a minute", at_most(idle("statements_per_min"), 24.0, "a minute"));
    bars
}

fn below(value: Option<f64>, base: Option<f64>, most: f64) -> Option<(String, bool)> {
    let ratio = value? / base?;
    Some((format!("{ratio:.2} ×"), ratio <= most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_meets_its_bar_or_does_not() {
        assert_eq!(times(Some(13.0), Some(10.0), 1.3), Some(("1.30 ×".to_owned(), true)));
        assert_eq!(share(Some(7.4), Some(10.0), 0.75), Some(("74 %".to_owned(), false)));
        assert_eq!(below(Some(2.0), Some(1.0), 1.3), Some(("2.00 ×".to_owned(), false)));
        assert_eq!(times(None, Some(1.0), 1.0), None);
    }
}
