//! The sentences of the contract as tables: which schedules are valid, and when they fire.

mod clocks;
mod naive;
mod options;
mod properties;

use serde_json::{Value, json};

use super::*;

fn zone(name: &str) -> TimeZone {
    zone::named(name, "tz").unwrap()
}

/// The next `count` fires of a schedule after `from`, as text.
fn fires(schedule: &Value, from: &str, count: usize) -> Vec<String> {
    let timetable = Timetable::parse(schedule, &TimeZone::UTC).unwrap_or_else(|error| panic!("{schedule}: {error}"));
    std::iter::successors(Some(from.parse().unwrap()), |after| timetable.next_after(*after))
        .skip(1)
        .take(count)
        .map(|at| at.to_string())
        .collect()
}

fn error(schedule: &Value) -> RuleError {
    match Timetable::parse(schedule, &TimeZone::UTC) {
        Ok(_) => panic!("{schedule} is valid"),
        Err(error) => error,
    }
}

/// Thursday, 15 January 2026, 10:20:30 UTC.
const FROM: &str = "2026-01-15T10:20:30Z";

#[test]
fn cron_rules_fire_when_the_contract_says() {
    for (rule, expected) in [
        ("* * * * *", ["2026-01-15T10:21:00Z", "2026-01-15T10:22:00Z"]),
        ("* * * * * *", ["2026-01-15T10:20:31Z", "2026-01-15T10:20:32Z"]),
        ("*/20 * * * * *", ["2026-01-15T10:20:40Z", "2026-01-15T10:21:00Z"]),
        ("*/5 * * * *", ["2026-01-15T10:25:00Z", "2026-01-15T10:30:00Z"]),
        ("  5,10-12   9  * *   * ", ["2026-01-16T09:05:00Z", "2026-01-16T09:10:00Z"]),
        ("10-20/5 12 * * *", ["2026-01-15T12:10:00Z", "2026-01-15T12:15:00Z"]),
        // From a to the maximum.
        ("50/5 12 * * *", ["2026-01-15T12:50:00Z", "2026-01-15T12:55:00Z"]),
        ("0 0 1 feb,APR *", ["2026-02-01T00:00:00Z", "2026-04-01T00:00:00Z"]),
        ("0 0 1 Nov-12 *", ["2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"]),
        ("0 0 * * mon-FRI", ["2026-01-16T00:00:00Z", "2026-01-19T00:00:00Z"]),
        ("0 0 * * 0", ["2026-01-18T00:00:00Z", "2026-01-25T00:00:00Z"]),
        ("0 0 * * 7", ["2026-01-18T00:00:00Z", "2026-01-25T00:00:00Z"]),
        ("0 0 * * 6-7", ["2026-01-17T00:00:00Z", "2026-01-18T00:00:00Z"]),
        ("0 0 ? * 5", ["2026-01-16T00:00:00Z", "2026-01-23T00:00:00Z"]),
        ("0 0 20 * ?", ["2026-01-20T00:00:00Z", "2026-02-20T00:00:00Z"]),
        // Both day fields restricted: either.
        ("0 0 17 * 5", ["2026-01-16T00:00:00Z", "2026-01-17T00:00:00Z"]),
        ("0 0 1-31 * 5", ["2026-01-16T00:00:00Z", "2026-01-17T00:00:00Z"]),
        ("0 0 31 2 1", ["2026-02-02T00:00:00Z", "2026-02-09T00:00:00Z"]),
        ("0 0 L * *", ["2026-01-31T00:00:00Z", "2026-02-28T00:00:00Z"]),
        ("0 0 15,L 2 *", ["2026-02-15T00:00:00Z", "2026-02-28T00:00:00Z"]),
        ("0 0 * * 5L", ["2026-01-30T00:00:00Z", "2026-02-27T00:00:00Z"]),
        ("0 0 * * 7l,MONL", ["2026-01-25T00:00:00Z", "2026-01-26T00:00:00Z"]),
        ("0 0 * * 2#3", ["2026-01-20T00:00:00Z", "2026-02-17T00:00:00Z"]),
        ("0 0 29 2 *", ["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"]),
        ("@hourly", ["2026-01-15T11:00:00Z", "2026-01-15T12:00:00Z"]),
        ("@daily", ["2026-01-16T00:00:00Z", "2026-01-17T00:00:00Z"]),
        ("@midnight", ["2026-01-16T00:00:00Z", "2026-01-17T00:00:00Z"]),
        ("@weekly", ["2026-01-18T00:00:00Z", "2026-01-25T00:00:00Z"]),
        ("@Monthly", ["2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"]),
        ("@yearly", ["2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z"]),
        (" @annually ", ["2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z"]),
    ] {
        assert_eq!(fires(&json!(rule), FROM, 2), expected, "{rule}");
        assert_eq!(fires(&json!({ "rule": rule }), FROM, 2), expected, "{rule} as rule");
    }
}

#[test]
fn recurrence_objects_fire_when_all_their_fields_match() {
    for (rule, expected) in [
        (json!({}), ["2026-01-15T10:21:00Z", "2026-01-15T10:22:00Z"]),
        (json!({"second": null}), ["2026-01-15T10:20:31Z", "2026-01-15T10:20:32Z"]),
        (json!({"minute": 30}), ["2026-01-15T10:30:00Z", "2026-01-15T11:30:00Z"]),
        // An absent minute is every minute.
        (json!({"hour": 12}), ["2026-01-15T12:00:00Z", "2026-01-15T12:01:00Z"]),
        (json!({"hour": "12", "minute": "5", "second": "7"}), ["2026-01-15T12:05:07Z", "2026-01-16T12:05:07Z"]),
        (json!({"hour": [9, "10"], "minute": 0}), ["2026-01-16T09:00:00Z", "2026-01-16T10:00:00Z"]),
        // Months from 0, weekdays from Sunday.
        (json!({"month": 0, "date": 16, "hour": 0, "minute": 0}), ["2026-01-16T00:00:00Z", "2027-01-16T00:00:00Z"]),
        (json!({"dayOfWeek": 0, "hour": 0, "minute": 0}), ["2026-01-18T00:00:00Z", "2026-01-25T00:00:00Z"]),
        // Both days, unlike cron: a Friday the 13th.
        (json!({"date": 13, "dayOfWeek": 5, "hour": 0, "minute": 0}), ["2026-02-13T00:00:00Z", "2026-03-13T00:00:00Z"]),
        (
            json!({"year": [2028, 2027], "month": 5, "date": 1, "hour": 0, "minute": 0}),
            ["2027-06-01T00:00:00Z", "2028-06-01T00:00:00Z"],
        ),
        (json!({"minute": [5, null]}), ["2026-01-15T10:21:00Z", "2026-01-15T10:22:00Z"]),
        (json!({"minute": 30, "tz": "Asia/Kolkata", "other": true}), ["2026-01-15T11:00:00Z", "2026-01-15T12:00:00Z"]),
    ] {
        assert_eq!(fires(&rule, FROM, 2), expected, "{rule}");
        if rule.get("tz").is_none() {
            assert_eq!(fires(&json!({ "rule": rule }), FROM, 2), expected, "{rule} as rule");
        }
    }
}

#[test]
fn a_year_in_the_past_is_valid_and_has_no_next_fire() {
    assert_eq!(fires(&json!({"year": 2020}), FROM, 1), [""; 0]);
    assert_eq!(fires(&json!({"year": 2026, "month": 0, "date": 15, "hour": 10, "minute": 20}), FROM, 1), [""; 0]);
}

#[test]
fn a_date_fires_once_and_strictly_after_the_reference() {
    let millisecond = 1_768_472_431_000_i64; // a second after FROM
    for once in [
        json!("2026-01-15T10:20:31Z"),
        json!(millisecond),
        json!({"rule": "2026-01-15T10:20:31Z"}),
        json!({"rule": millisecond}),
    ] {
        assert_eq!(fires(&once, FROM, 5), ["2026-01-15T10:20:31Z"], "{once}");
        assert_eq!(fires(&once, "2026-01-15T10:20:31Z", 1), [""; 0], "{once}");
    }
    assert!(Timetable::parse(&json!("2030-01-01"), &TimeZone::UTC).unwrap().is_one_off());
}

#[test]
fn nothing_fires_before_or_at_start_nor_after_end() {
    let bounded = json!({"rule": "0 * * * *", "start": "2026-01-16T00:00:00Z", "end": "2026-01-16T02:00:00Z"});
    assert_eq!(fires(&bounded, FROM, 5), ["2026-01-16T01:00:00Z", "2026-01-16T02:00:00Z"]);
    // A start in the past is ignored.
    let started = json!({"rule": "0 * * * *", "start": 0, "end": 1_768_474_800_000_i64});
    assert_eq!(fires(&started, FROM, 5), ["2026-01-15T11:00:00Z"]);
    let empty = json!({"rule": "0 * * * *", "start": null, "end": ""});
    assert_eq!(fires(&empty, FROM, 1), ["2026-01-15T11:00:00Z"]);
    let recurrence = json!({"rule": {"minute": 0}, "start": "2026-01-16T00:30:00Z", "end": "2026-01-16T01:00:00Z"});
    assert_eq!(fires(&recurrence, FROM, 5), ["2026-01-16T01:00:00Z"]);
}

#[test]
fn the_zone_is_the_schedule_s_else_the_default() {
    let default = zone("America/New_York");
    let next = |schedule: Value| {
        let timetable = Timetable::parse(&schedule, &default).unwrap();
        timetable.next_after(FROM.parse().unwrap()).unwrap().to_string()
    };
    assert_eq!(next(json!("0 12 * * *")), "2026-01-15T17:00:00Z");
    assert_eq!(next(json!({"rule": "0 12 * * *"})), "2026-01-15T17:00:00Z");
    assert_eq!(next(json!({"rule": "0 12 * * *", "tz": ""})), "2026-01-15T17:00:00Z");
    assert_eq!(next(json!({"rule": "0 12 * * *", "tz": "Europe/Berlin"})), "2026-01-15T11:00:00Z");
    assert_eq!(next(json!({"rule": "0 12 * * *", "tz": "europe/berlin"})), "2026-01-15T11:00:00Z");
    assert_eq!(next(json!({"rule": "0 12 * * *", "tz": "UTC"})), "2026-01-15T12:00:00Z");
    assert_eq!(next(json!({"rule": {"hour": 12, "minute": 0, "tz": "Europe/Berlin"}})), "2026-01-15T11:00:00Z");
    // A date and time without an offset is local to the process, whatever the rule's zone.
    assert_eq!(next(json!({"rule": "2026-01-15T12:00:00", "tz": "Europe/Berlin"})), "2026-01-15T17:00:00Z");
}

#[test]
fn a_leap_day_is_found_across_a_century_without_one() {
    assert_eq!(fires(&json!("0 0 29 2 *"), "2096-03-01T00:00:00Z", 1), ["2104-02-29T00:00:00Z"]);
    // The rarest date there is: a 29 February on a given weekday, 40 years apart here.
    let monday = json!({"month": 1, "date": 29, "dayOfWeek": 1, "hour": 0, "minute": 0});
    assert_eq!(fires(&monday, "2072-03-01T00:00:00Z", 1), ["2112-02-29T00:00:00Z"]);
}

#[test]
fn errors_say_what_is_wrong_and_where() {
    for (rule, message) in [
        ("60 * * * *", "minute: 60 is not within 0-59 (character 1 of"),
        ("* * * * * 8", "day of week: 8 is not within 0-7 (character 11 of"),
        ("* 24 * * *", "hour: 24 is not within 0-23 (character 3 of"),
        ("* * 0 * *", "day of month: 0 is not within 1-31 (character 5 of"),
        ("* * * 13 *", "month: 13 is not within 1-12"),
        ("* * * foo *", r#"month: "foo" is neither a number nor a three-letter name"#),
        ("x * * * *", r#"minute: "x" is not a number"#),
        ("0 0 * * FRI-MON", "day of week: the range 5-1 runs backward (character 9 of"),
        ("0 0 * * 5-0", "day of week: the range 5-0 runs backward"),
        ("30-10 * * * *", "minute: the range 30-10 runs backward"),
        ("*/0 * * * *", "minute: the step after / is not a whole number from 1 on (character 3 of"),
        ("*/-1 * * * *", "minute: the step"),
        ("1,,2 * * * *", "minute: an entry of the list is empty (character 3 of"),
        ("1, * * * *", "minute: an entry of the list is empty"),
        ("1- * * * *", "minute: a number is missing"),
        ("-1 * * * *", "minute: a number is missing"),
        ("1-2-3 * * * *", r#"minute: "2-3" is not a number"#),
        ("*/2/3 * * * *", "minute: the step"),
        ("? * * * *", r#"minute: "?" is not a number"#),
        ("0 0 L-3 * *", r#"day of month: "L" is not a number"#),
        ("0 0 15W * *", r#"day of month: "15W" is not a number"#),
        ("0 0 * * L", "day of week: L needs a day before it"),
        ("0 0 * * 1#6", "day of week: the number after # is not within 1-5 (character 11 of"),
        ("99999999999999999999 * * * *", "minute: 99999999999999999999 is not within 0-59"),
        ("* * * *", "is neither a date nor a cron rule: 4 field(s)"),
        ("* * * * * * *", "is neither a date nor a cron rule: 7 field(s)"),
        ("", "the rule is empty"),
        ("   ", "the rule is empty"),
        ("@never", "is not one of @yearly"),
        ("soon", "is neither a date nor a cron rule"),
        ("1é * * * *", r#"minute: "1é" is not a number"#),
        ("é 99 * * *", r#"minute: "é" is not a number"#),
    ] {
        for (schedule, place) in [(json!(rule), "schedule_info"), (json!({ "rule": rule }), "rule")] {
            let error = error(&schedule).to_string();
            assert!(error.starts_with(place) && error.contains(message), "{rule}: {error}");
        }
    }
    for (schedule, message) in [
        (json!({"rule": "* * * * *", "tz": "Mars/Phobos"}), r#"tz: "Mars/Phobos" is not a time zone"#),
        (json!({"rule": "* * * * *", "tz": 1}), "tz: is not the name of a time zone"),
        (json!({"rule": "* * * * *", "start": "soon"}), r#"start: "soon" is not a date"#),
        (json!({"rule": "* * * * *", "end": []}), "end: is neither a date string nor"),
        (json!({"rule": []}), "rule: is neither a cron rule, nor a date"),
        (json!({"rule": true}), "rule: is neither a cron rule, nor a date"),
        (json!(null), "schedule_info: is neither a cron rule, nor a date"),
        (json!([1]), "schedule_info: is neither a cron rule, nor a date"),
        (json!(9_000_000_000_000_000_i64), "schedule_info: 9000000000000000 is not a date in epoch milliseconds"),
        (json!({"hour": 24}), "hour: 24 is not a whole number within 0-23"),
        (json!({"hour": -1}), "hour: -1 is not a whole number within 0-23"),
        (json!({"date": 0}), "date: 0 is not within 1-31"),
        (json!({"date": [1, 32]}), "date[1]: 32 is not a whole number within"),
        (json!({"month": 12}), "month: 12 is not a whole number within 0-11"),
        (json!({"rule": {"dayOfWeek": [7]}}), "rule.dayOfWeek[0]: 7 is not a whole number within 0-6"),
        (json!({"minute": 1.5}), "minute: 1.5 is not a whole number within 0-59"),
        (json!({"minute": "x"}), r#"minute: "x" is not a number"#),
        (json!({"minute": ""}), r#"minute: "" is not a number"#),
        (json!({"minute": true}), "minute: true is not a number"),
        (json!({"minute": {"start": 1}}), "minute: an object is not a number"),
        (json!({"minute": []}), "minute: the list is empty"),
    ] {
        let error = error(&schedule).to_string();
        assert!(error.starts_with(message), "{schedule}: {error}");
    }
}

#[test]
fn a_rule_that_can_never_fire_is_an_error() {
    for schedule in [
        json!("0 0 30 2 *"),
        json!("0 0 31 4,6,9,11 ?"),
        json!({"month": 1, "date": 30}),
        json!({"year": 2027, "month": 1, "date": 29}),
        json!({"year": 2026, "month": 0, "date": 1, "dayOfWeek": 1}),
        json!({"rule": "* * * * *", "start": "2030-01-02", "end": "2030-01-01"}),
        json!({"rule": "0 0 1 6 *", "start": "2030-01-01", "end": "2030-02-01"}),
        json!({"rule": "2030-01-01", "start": "2030-01-02"}),
        json!({"rule": "2030-01-03", "end": "2030-01-02"}),
        json!({"rule": {"year": 2030}, "end": "2029-01-01"}),
    ] {
        let error = error(&schedule).to_string();
        assert!(error.contains("never fire"), "{schedule}: {error}");
    }
}

#[test]
fn an_error_about_a_long_text_stays_short() {
    let long = |letter: &str| letter.repeat(1_000_000);
    for text in [
        long("x"),
        format!("{} * * * *", long("9")),
        format!("* * * {} *", long("x")),
        format!("*/{} * * * *", long("1")),
    ] {
        let error = error(&json!(text)).to_string();
        assert!(error.len() < 400, "{}", error.len());
    }
}
