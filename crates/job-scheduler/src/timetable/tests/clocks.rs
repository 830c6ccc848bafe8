//! What happens to a rule when its zone changes the clocks.

use super::{Timestamp, fires, json};

fn in_zone(rule: &str, tz: &str, from: &str, count: usize) -> Vec<String> {
    fires(&json!({ "rule": rule, "tz": tz }), from, count)
}

#[test]
fn a_skipped_time_fires_once_at_the_end_of_the_gap() {
    // Berlin, 29 March 2026: 02:00 becomes 03:00 at 01:00 UTC.
    let berlin = |rule| in_zone(rule, "Europe/Berlin", "2026-03-28T12:00:00Z", 2);
    assert_eq!(berlin("30 2 * * *"), ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
    assert_eq!(berlin("0,15,30 2 * * *"), ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"]);
    // The time at the end of the gap has no second fire of its own.
    assert_eq!(berlin("0 2,3 * * *"), ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"]);
    let recurrence = json!({"hour": 2, "minute": 30, "tz": "Europe/Berlin"});
    assert_eq!(fires(&recurrence, "2026-03-28T12:00:00Z", 1), ["2026-03-29T01:00:00Z"]);
    // Also when one asks in the last second before.
    for from in ["2026-03-29T00:59:59Z", "2026-03-29T00:59:59.999Z"] {
        assert_eq!(in_zone("30 2 * * *", "Europe/Berlin", from, 1), ["2026-03-29T01:00:00Z"]);
    }
    // Strictly after: not again from the end of the gap itself.
    assert_eq!(in_zone("30 2 * * *", "Europe/Berlin", "2026-03-29T01:00:00Z", 1), ["2026-03-30T00:30:00Z"]);
}

#[test]
fn a_repeated_time_fires_the_first_time_only() {
    // New York, 1 November 2026: 02:00 becomes 01:00 at 06:00 UTC.
    let new_york = |rule, from| in_zone(rule, "America/New_York", from, 2);
    assert_eq!(new_york("30 1 * * *", "2026-10-31T12:00:00Z"), ["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"]);
    // From within either pass.
    assert_eq!(new_york("30 1 * * *", "2026-11-01T05:30:00Z"), ["2026-11-02T06:30:00Z", "2026-11-03T06:30:00Z"]);
    assert_eq!(new_york("30 1 * * *", "2026-11-01T06:10:00Z"), ["2026-11-02T06:30:00Z", "2026-11-03T06:30:00Z"]);
    assert_eq!(new_york("*/30 1,2 * * *", "2026-11-01T05:10:00Z"), ["2026-11-01T05:30:00Z", "2026-11-01T07:00:00Z"]);
}

#[test]
fn a_rule_that_names_no_hours_follows_elapsed_time() {
    let quarters = in_zone("*/30 * * * *", "America/New_York", "2026-11-01T05:00:00Z", 5);
    assert_eq!(
        quarters,
        [
            "2026-11-01T05:30:00Z",
            "2026-11-01T06:00:00Z",
            "2026-11-01T06:30:00Z",
            "2026-11-01T07:00:00Z",
            "2026-11-01T07:30:00Z"
        ]
    );
    let over_the_gap = in_zone("30 * * * *", "America/New_York", "2026-03-08T06:00:00Z", 2);
    assert_eq!(over_the_gap, ["2026-03-08T06:30:00Z", "2026-03-08T07:30:00Z"]);
    let recurrence = json!({"minute": 45, "tz": "America/New_York"});
    assert_eq!(fires(&recurrence, "2026-11-01T05:00:00Z", 2), ["2026-11-01T05:45:00Z", "2026-11-01T06:45:00Z"]);
    // Every hour of the day written out is no hour named.
    assert_eq!(
        in_zone("30 0-23 * * *", "America/New_York", "2026-11-01T05:00:00Z", 2),
        ["2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z"]
    );
}

/// The hour and minute in Berlin of each fire within `hours` after `from`.
fn berlin(rule: &str, from: &str, hours: i64) -> String {
    let last = from.parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_hours(hours);
    let schedule = json!({ "rule": rule, "tz": "Europe/Berlin", "end": last.to_string() });
    let zone = super::zone("Europe/Berlin");
    let fires = fires(&schedule, from, 100).into_iter().map(|at| zone.to_datetime(at.parse().unwrap()));
    fires.map(|at| at.strftime("%H:%M").to_string()).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_rules_of_the_readme_fire_in_berlin_as_it_says() {
    // From midnight to shortly before 04:00: three hours in spring, five in autumn.
    let spring = |rule| berlin(rule, "2026-03-28T22:59:59Z", 3);
    let autumn = |rule| berlin(rule, "2026-10-24T21:59:59Z", 5);
    for (rule, in_spring, in_autumn) in [
        ("30 2 * * *", "03:00", "02:30"),
        ("30 1,2 * * *", "01:30 03:00", "01:30 02:30"),
        (
            "*/15 1-3 * * *",
            "01:00 01:15 01:30 01:45 03:00 03:15 03:30 03:45",
            "01:00 01:15 01:30 01:45 02:00 02:15 02:30 02:45 03:00 03:15 03:30 03:45",
        ),
        ("0 * * * *", "00:00 01:00 03:00", "00:00 01:00 02:00 02:00 03:00"),
        ("@hourly", "00:00 01:00 03:00", "00:00 01:00 02:00 02:00 03:00"),
        (
            "*/15 * * * *",
            "00:00 00:15 00:30 00:45 01:00 01:15 01:30 01:45 03:00 03:15 03:30 03:45",
            "00:00 00:15 00:30 00:45 01:00 01:15 01:30 01:45 02:00 02:15 02:30 02:45 02:00 02:15 02:30 02:45 \
             03:00 03:15 03:30 03:45",
        ),
    ] {
        assert_eq!(spring(rule), in_spring, "{rule}");
        assert_eq!(autumn(rule), in_autumn, "{rule}");
    }
    // The times that come twice fire the first time.
    assert_eq!(in_zone("30 1,2 * * *", "Europe/Berlin", "2026-10-24T23:00:00Z", 2)[1], "2026-10-25T00:30:00Z");
    let quarters = in_zone("*/15 1-3 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", 2);
    assert_eq!(quarters, ["2026-10-25T00:45:00Z", "2026-10-25T02:00:00Z"]);
}

#[test]
fn a_fire_thousands_of_clock_changes_away_is_found_at_once() {
    let started = std::time::Instant::now();
    for _ in 0..20 {
        let far = json!({"year": 9998, "month": 5, "tz": "America/New_York"});
        assert_eq!(fires(&far, "2026-11-01T05:59:59Z", 1), ["9998-06-01T04:00:00Z"]);
    }
    assert!(started.elapsed().as_secs() < 1, "{:?}", started.elapsed());
}

#[test]
fn half_hour_changes_and_skipped_days_follow_the_same_rules() {
    // Lord Howe, 4 October 2026: 02:00 becomes 02:30 at 15:30 UTC the day before.
    assert_eq!(in_zone("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", 1), ["2026-10-03T15:30:00Z"]);
    // Lord Howe, 5 April 2026: 02:00 becomes 01:30 at 15:00 UTC the day before; 01:45 comes twice.
    assert_eq!(
        in_zone("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z", 2),
        ["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"]
    );
    // Apia had no 30 December 2011.
    assert_eq!(in_zone("0 12 30 12 *", "Pacific/Apia", "2011-12-01T00:00:00Z", 1), ["2011-12-30T10:00:00Z"]);
    // São Paulo's clocks used to change at midnight.
    assert_eq!(in_zone("@daily", "America/Sao_Paulo", "2018-11-03T12:00:00Z", 1), ["2018-11-04T03:00:00Z"]);
}
