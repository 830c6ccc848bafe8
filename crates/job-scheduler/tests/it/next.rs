//! `job-scheduler next`: the answers, the exit codes, and where it points.

use std::io::Write;
use std::process::{Command, Output, Stdio};

fn next(arguments: &[&str], environment: &[(&str, &str)], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_job-scheduler"))
        .arg("next")
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn answer(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let output = next(arguments, environment, "");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refusal(arguments: &[&str]) -> String {
    let output = next(arguments, &[], "");
    assert_eq!(output.status.code(), Some(64), "{arguments:?}");
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).unwrap()
}

const FROM: [&str; 2] = ["--from", "2026-01-15T10:20:30Z"];

#[test]
fn next_prints_utc_instants_one_a_line() {
    let rule = ["--rule", "0 9 * * MON", "--count", "2", FROM[0], FROM[1]];
    assert_eq!(answer(&rule, &[]), "2026-01-19T09:00:00Z\n2026-01-26T09:00:00Z\n");
    let zoned = [&rule[..], &["--tz", "Europe/Berlin"]].concat();
    assert_eq!(answer(&zoned, &[]), "2026-01-19T08:00:00Z\n2026-01-26T08:00:00Z\n");
    assert_eq!(answer(&rule, &[("TZ", "Europe/Berlin")]), "2026-01-19T08:00:00Z\n2026-01-26T08:00:00Z\n");
    let bounded = [&rule[..], &["--start", "2026-01-19T09:00:00Z", "--end", "2026-01-26T09:00:00Z"]].concat();
    assert_eq!(answer(&bounded, &[]), "2026-01-26T09:00:00Z\n");
    let recurrence = ["--rule", r#"{"hour": 9, "minute": 30}"#, "--count", "1", FROM[0], FROM[1]];
    assert_eq!(answer(&recurrence, &[]), "2026-01-16T09:30:00Z\n");
    assert_eq!(answer(&["--rule", "2020-01-01"], &[]), "");
}

#[test]
fn next_takes_a_full_schedule_info() {
    let schedule = r#"{"rule": "0 9 * * *", "tz": "Asia/Kolkata", "end": "2026-01-16T09:00:00Z"}"#;
    assert_eq!(answer(&["--json", schedule, FROM[0], FROM[1]], &[]), "2026-01-16T03:30:00Z\n");
}

#[test]
fn a_bad_rule_exits_with_64_and_the_bad_part_is_marked() {
    let message = refusal(&["--rule", "0 25 * * *"]);
    assert!(message.contains("rule, hour: 25 is not within 0-23"), "{message}");
    assert!(message.ends_with("\n  0 25 * * *\n    ^^\n"), "{message}");
    for (arguments, place) in [
        (vec!["--rule", "* * * * *", "--tz", "Mars/Phobos"], "tz: "),
        (vec!["--rule", "* * * * *", "--start", "soon"], "start: "),
        (vec!["--rule", "* * * * *", "--from", "soon"], "--from: "),
        (vec!["--json", "{"], "schedule_info: "),
        (vec!["--json", r#"{"hour": 24}"#], "hour: "),
        (vec!["--rule", "0 0 30 2 *"], "never fire"),
        (vec![], "--rule"),
        (vec!["--rule", "* * * * *", "--batch"], "--batch"),
        (vec!["--rule", "* * * * *", "--count", "x"], "--count"),
    ] {
        let message = refusal(&arguments);
        assert!(message.contains(place), "{arguments:?}: {message}");
    }
}

#[test]
fn a_batch_answers_each_line_with_a_line() {
    let lines = [
        r#"{"rule": "0 0 * * *", "from": "2026-01-15T10:20:30Z", "count": 2}"#,
        r#"{"rule": "0 0 * * *", "tz": "America/New_York", "from": "2026-01-15T10:20:30Z", "count": 1}"#,
        r#"{"schedule_info": {"rule": {"minute": 0}}, "from": "2026-01-15T10:20:30Z", "count": 1}"#,
        r#"{"rule": "x"}"#,
        "nonsense",
        r#"{"count": 1}"#,
        r#"{"rule": "2020-01-01"}"#,
    ];
    let output = next(&["--batch"], &[], &lines.join("\n"));
    assert!(output.status.success());
    let answers = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<&str> = answers.lines().collect();
    assert_eq!(answers[0], r#"{"next":["2026-01-16T00:00:00Z","2026-01-17T00:00:00Z"]}"#);
    assert_eq!(answers[1], r#"{"next":["2026-01-16T05:00:00Z"]}"#);
    assert_eq!(answers[2], r#"{"next":["2026-01-15T11:00:00Z"]}"#);
    assert!(answers[3].starts_with(r#"{"error":"rule: "#), "{}", answers[3]);
    assert!(answers[4].starts_with(r#"{"error":"the line is not a JSON object"#), "{}", answers[4]);
    assert!(answers[5].starts_with(r#"{"error":"the line needs"#), "{}", answers[5]);
    assert_eq!(answers[6], r#"{"next":[]}"#);
    assert_eq!(answers.len(), lines.len());
}
