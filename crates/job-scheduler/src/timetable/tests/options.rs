//! `missed`, `overlap`, and what in a schedule has no effect.

use super::*;

fn parsed(schedule: &Value) -> (Timetable, Vec<String>) {
    Timetable::parse_with_warnings(schedule, &TimeZone::UTC).unwrap_or_else(|error| panic!("{schedule}: {error}"))
}

#[test]
fn missed_and_overlap_are_read_from_the_outermost_object() {
    for (schedule, missed, overlap) in [
        (json!("@daily"), Missed::Skip, Overlap::Skip),
        (json!(1_768_472_431_000_i64), Missed::Skip, Overlap::Skip),
        (json!({}), Missed::Skip, Overlap::Skip),
        (json!({"rule": "@daily"}), Missed::Skip, Overlap::Skip),
        (json!({"rule": "@daily", "missed": null, "overlap": null}), Missed::Skip, Overlap::Skip),
        (json!({"rule": "@daily", "missed": "skip", "overlap": "skip"}), Missed::Skip, Overlap::Skip),
        (json!({"rule": "@daily", "missed": "once", "overlap": "allow"}), Missed::Once, Overlap::Allow),
        (json!({"rule": {"hour": 1}, "missed": "all"}), Missed::All, Overlap::Skip),
        (json!({"hour": 1, "missed": "all", "overlap": "allow"}), Missed::All, Overlap::Allow),
        (json!({"rule": "2030-01-01", "missed": "once"}), Missed::Once, Overlap::Skip),
    ] {
        let (timetable, warnings) = parsed(&schedule);
        assert_eq!((timetable.missed(), timetable.overlap()), (missed, overlap), "{schedule}");
        assert_eq!(warnings, [""; 0], "{schedule}");
    }
}

#[test]
fn what_has_no_effect_is_told_and_the_schedule_runs() {
    let recurrence = json!({
        "year": null, "month": 0, "date": 1, "dayOfWeek": [1, 2, 3, 4, 5], "hour": 0, "minute": 0, "second": 0, "tz": "UTC",
        "start": "2026-01-01", "end": "2030-01-01",
    });
    assert_eq!(parsed(&recurrence).1, [""; 0]);

    for (schedule, expected) in [
        (json!({"rule": "@daily", "Tz": "UTC"}), vec![r#""Tz": is no key of a schedule, and has no effect"#]),
        (json!({"rule": null, "hours": 1}), vec![r#""hours": is no key of a schedule, and has no effect"#]),
        (
            json!({"rule": "@daily", "hour": 99, "minute": 1}),
            vec!["hour: has no effect beside rule", "minute: has no effect beside rule"],
        ),
        (json!({"rule": {"day": 1}}), vec![r#""day" in rule: is no field of a recurrence, and has no effect"#]),
        (
            json!({"rule": {"end": 0, "hour": 1, "missed": "all"}}),
            vec![
                "rule.end: has no effect within rule; write it beside rule",
                "rule.missed: has no effect within rule; write it beside rule",
            ],
        ),
        (
            json!({"rule": {"hour": 1, "tz": "Asia/Kolkata"}, "tz": "UTC"}),
            vec!["rule.tz: has no effect, since the schedule's own tz counts"],
        ),
        (json!({"rule": {"hour": 1, "tz": "Asia/Kolkata"}, "tz": ""}), vec![]),
        (
            json!({"rule": "@daily", "missed": "One"}),
            vec![r#"missed: "One" is not one of skip, once, all; skip counts"#],
        ),
        (json!({"rule": "@daily", "overlap": true}), vec!["overlap: true is not one of skip, allow; skip counts"]),
        (json!({"rule": "@daily", "overlap": {}}), vec!["overlap: an object is not one of skip, allow; skip counts"]),
    ] {
        let (timetable, warnings) = parsed(&schedule);
        assert_eq!(warnings, expected, "{schedule}");
        assert_eq!((timetable.missed(), timetable.overlap()), (Missed::Skip, Overlap::Skip), "{schedule}");
        let plain = Timetable::parse(&schedule, &TimeZone::UTC).unwrap();
        assert_eq!(plain, timetable, "{schedule}");
        assert!(plain.next_after(FROM.parse().unwrap()).is_some(), "{schedule}");
    }
}

#[test]
fn a_thousand_unknown_keys_are_told_in_short() {
    let mut schedule = Map::from_iter([("rule".to_owned(), json!("@daily"))]);
    schedule.extend((0..1000).map(|key| (format!("{key:04}{}", "x".repeat(1000)), json!(1))));
    let (_, warnings) = parsed(&Value::Object(schedule));
    assert_eq!(warnings.last().unwrap(), "and 990 more");
    assert!(warnings.iter().map(String::len).sum::<usize>() < 2000);
}
