//! Bars of what holds jobs back.

use super::{Medians, at_most, below, share};

/// Tells each bar and what this run says.
pub(super) fn bars(medians: &Medians<'_>, bar: &mut impl FnMut(&str, &str, Option<(String, bool)>)) {
    let ours = |scenario: &str, figure: &str| medians.ours(scenario, figure);
    let rate = |scenario: &str| ours(scenario, "per_s");

    let least = "≥ 800 jobs/s";
    bar("one queue over HTTP, few waiting", least, at_least(rate("queue-few"), 800.0, "/s"));
    bar("the same, many waiting", least, at_least(rate("queue-many"), 800.0, "/s"));
    bar("", "≥ 90 % of that with few", share(rate("queue-many"), rate("queue-few"), 0.9));
    bar("the same, snapshot held", "≥ 90 % of that without", share(rate("queue-dead-held"), rate("queue-dead"), 0.9));
    bar("drain with 10,000 queues", "≥ 60 % of that without", share(rate("queues"), rate("queues-0"), 0.6));

    for (level, name, least) in
        [("READ COMMITTED", "rc", 100.0), ("REPEATABLE READ", "rr", 99.0), ("SERIALIZABLE", "ser", 99.0)]
    {
        let queue = format!("producers-{name}");
        let committed = ours(&queue, "committed_percent");
        let measure = format!("adding to a busy queue, {level}");
        bar(&measure, &format!("≥ {least} % committed"), at_least(committed, least, " %"));
        let none = rate(&format!("{queue}-none"));
        bar("", "≥ 80 % of the rate without a queue", share(rate(&queue), none, 0.8));
    }

    for (gate, scenario) in
        [("queue", "claims-queue"), ("limit", "claims-limit"), ("pause", "claims-pause"), ("a host's", "claims-host")]
    {
        let measure = format!("claim of 100 beside a closed gate: {gate}");
        bar(&measure, "p50 ≤ 5 ms", at_most(ours(scenario, "p50_ms"), 5.0, "ms"));
        bar("", "p99 ≤ 20 ms", at_most(ours(scenario, "p99_ms"), 20.0, "ms"));
    }

    for (rows, each, one) in
        [("due", "priorities-each", "priorities-one"), ("not due", "priorities-later-each", "priorities-later-one")]
    {
        let measure = format!("a priority each, rows {rows}");
        // The time of a job, as that of a claim.
        bar(&measure, "drain ≤ 1.5 × that with one", below(rate(one), rate(each), 1.5));
        bar("", "claim p50 ≤ 1.5 × that with one", below(ours(each, "p50_ms"), ours(one, "p50_ms"), 1.5));
    }

    let running = medians.most("limit", "most_running").zip(medians.most("limit", "most_locked"));
    let running = running.map(|(handlers, rows)| handlers.max(rows));
    bar("a limit of 50", "never 51 at once", running.map(|most| (format!("{most:.0}"), most <= 50.0)));
    bar("", "≥ 95 % used", at_least(ours("limit", "used_percent"), 95.0, " %"));
    bar("a rate of 100/s, burst 5", "never above the bucket", at_most(medians.most("rate", "above"), 0.0, "above"));
    bar("", "≥ 98 % used", at_least(ours("rate", "used_percent"), 98.0, " %"));

    let host = |figure: &str| ours("host", figure);
    let whole = |value: Option<f64>, most: f64| value.map(|value| (format!("{value:.0}"), value <= most));
    bar("a host that is down", "≤ 20 requests meanwhile", whole(host("requests"), 20.0));
    bar("", "no attempts used up", whole(host("attempts"), 0.0));
    let done = host("back_s").zip(host("left")).map(|(seconds, left)| {
        let text =
            if left > 0.0 { format!("{left:.0} not done after {seconds:.0} s") } else { format!("{seconds:.1} s") };
        (text, left <= 0.0 && seconds <= 10.0)
    });
    bar("", "all done ≤ 10 s after it is back", done);

    let fair = |figure: &str| ours("fair", figure);
    bar("fairness between two tenants", "share error ≤ 5 %", at_most(fair("error_percent"), 5.0, "%"));
    // One job of the other's, which it may have to wait for.
    let most = fair("alone_p99_ms").map(|alone| 2.0 * alone + 50.0);
    let wait = fair("beside_p99_ms").zip(most).map(|(wait, most)| (format!("{wait:.1} of {most:.1} ms"), wait <= most));
    bar("", "the small one's p99 wait ≤ 2 × alone + one job", wait);
    bar("", "slots used ≥ 90 % of that without", share(fair("used_on_percent"), fair("used_off_percent"), 0.9));
    bar("", "drain of empty jobs ≥ 90 % of that without", share(fair("on_per_s"), fair("off_per_s"), 0.9));

    let bulk = |figure: &str| ours("reschedule", figure);
    bar("reschedule_jobs under load", "≤ 5 s", at_most(bulk("seconds"), 5.0, "s"));
    let most = |figure: &str| medians.most("reschedule", figure);
    bar("", "every row changed that waits", most("unchanged").map(|left| (format!("{left:.0} left out"), left <= 0.0)));
    bar("", "unsettled ≤ 1,000", most("unsettled").map(|most| (format!("{most:.0}"), most <= 1_000.0)));
    bar("", "drain ≥ 50 % of that before", at_least(bulk("least_percent"), 50.0, " %"));
}

fn at_least(value: Option<f64>, least: f64, unit: &str) -> Option<(String, bool)> {
    let value = value?;
    // Rounded down: what is below the bar must not read as if it reached it.
    let (digits, shown) =
        if value < 1_000.0 { (2, (value * 100.0 + 1e-9).floor() / 100.0) } else { (0, value.floor()) };
    Some((format!("{shown:.digits$}{unit}"), value >= least))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_the_least_does_not_meet_the_bar() {
        assert_eq!(at_least(Some(99.996), 100.0, " %"), Some(("99.99 %".to_owned(), false)));
        assert_eq!(at_least(Some(1_234.5), 800.0, "/s"), Some(("1234/s".to_owned(), true)));
        assert_eq!(at_least(None, 1.0, ""), None);
    }
}
