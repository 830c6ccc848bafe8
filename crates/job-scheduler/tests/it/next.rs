//! `job-scheduler next`: the answers, the exit codes, and where it points.

use std::io::Write;
use std::process::{Command, Output, Stdio};

fn next(arguments: &[&str], environment: &[(&str, &str)], input: impl AsRef<[u8]>) -> Output {
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
    child.stdin.take().unwrap().write_all(input.as_ref()).unwrap();
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
fn an_epoch_and_a_zone_without_a_name_are_taken_and_no_count_is_five() {
    assert_eq!(answer(&["--rule", "1768472431000", FROM[0], FROM[1]], &[]), "2026-01-15T10:20:31Z\n");
    assert_eq!(answer(&["--rule", "* * * * *", FROM[0], FROM[1]], &[]).lines().count(), 5);
    assert_eq!(answer(&["--rule", "* * * * *", "--count", "0"], &[]), "");
    // Strictly after --from, whose default is now.
    assert_eq!(answer(&["--rule", "@daily", "--from", "2026-01-15", "--count", "1"], &[]), "2026-01-16T00:00:00Z\n");
    let now: jiff::Timestamp = answer(&["--rule", "* * * * * *", "--count", "1"], &[]).trim().parse().unwrap();
    assert!(now > jiff::Timestamp::now() - jiff::SignedDuration::from_mins(1), "{now}");
}

#[test]
fn what_has_no_effect_is_told_on_standard_error() {
    let schedule = r#"{"rule": "0 9 * * *", "timezone": "Asia/Kolkata", "missed": "never", "overlap": "allow"}"#;
    let output = next(&["--json", schedule, FROM[0], FROM[1], "--count", "1"], &[], "");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "2026-01-16T09:00:00Z\n");
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "warning: missed: \"never\" is not one of skip, once, all; skip counts\n\
         warning: \"timezone\": is no key of a schedule, and has no effect\n"
    );
    let output = next(&["--rule", r#"{"hours": 9}"#, FROM[0], FROM[1]], &[], "");
    assert!(String::from_utf8(output.stderr).unwrap().contains("\"hours\" in rule"));
    let output = next(&["--json", r#"{"rule": "@daily", "missed": "all", "overlap": "skip"}"#], &[], "");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn the_commands_of_the_readme_print_what_it_says() {
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_job-scheduler"));
    let readme = include_str!("../../README.md");
    let block = readme.split("```").find(|block| block.starts_with("text\n$ job-scheduler next")).unwrap();
    let commands: Vec<&str> = block.trim_start_matches("text\n$ ").split("\n$ ").collect();
    assert_eq!(commands.len(), 2);
    for command in commands {
        let (command, printed) = command.split_once('\n').unwrap();
        let shell = Command::new("/bin/sh")
            .args(["-c", &format!("{command} 2>&1")])
            .env_clear()
            .env("PATH", binary.parent().unwrap())
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(shell.stdout).unwrap().trim_end(), printed.trim_end(), "{command}");
    }
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
        (vec!["--rule", r#"{"hour": }"#], "rule: is JSON that cannot be read: expected value at line 1 column 10"),
        (vec!["--rule", r#"{"hour": [1, 24]}"#], "rule.hour[1]: 24 is not"),
        (vec!["--rule", "-1 * * * *"], "\n  -1 * * * *\n  ^\n"),
        (vec!["--rule", "* * * * *", "--end", "soon"], "end: "),
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
        "",
        r#""text""#,
        r#"{"rule": "0 0 * * *", "schedule_info": "0 0 * * *"}"#,
        r#"{"rule": null, "tz": null, "from": null, "count": null}"#,
        r#"{"rule": "0 0 * * *", "count": -1}"#,
        r#"{"rule": "0 0 * * *", "tz": "Mars/Phobos"}"#,
        r#"{"rule": "0 0 * * *", "from": "soon"}"#,
        r#"{"rule": {"hour": 0, "minute": 0, "minutes": 1}, "from": "2026-01-15T10:20:30Z", "count": 1}"#,
        // The line's tz is the rule's, as --tz is, but only the default of a schedule_info.
        r#"{"rule": {"hour": 0, "tz": "Asia/Kolkata"}, "tz": "America/New_York", "from": "2026-01-15T10:20:30Z", "count": 1}"#,
        r#"{"schedule_info": {"rule": "0 0 * * *", "tz": "Asia/Kolkata"}, "tz": "America/New_York", "from": 1768472430000, "count": 1}"#,
        r#"{"schedule_info": "0 0 * * *", "tz": "America/New_York", "from": "2026-01-15T10:20:30Z", "count": 1}"#,
    ];
    let output = next(&["--batch"], &[], lines.join("\n"));
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
    assert!(answers[7].starts_with(r#"{"error":"the line is not a JSON object"#), "{}", answers[7]);
    assert!(answers[8].starts_with(r#"{"error":"the line is not a JSON object"#), "{}", answers[8]);
    assert!(answers[9].starts_with(r#"{"error":"the line needs"#), "{}", answers[9]);
    assert!(answers[10].starts_with(r#"{"error":"the line needs"#), "{}", answers[10]);
    assert!(answers[11].starts_with(r#"{"error":"count: "#), "{}", answers[11]);
    assert!(answers[12].starts_with(r#"{"error":"tz: "#), "{}", answers[12]);
    assert!(answers[13].starts_with(r#"{"error":"from: "#), "{}", answers[13]);
    assert_eq!(
        answers[14],
        r#"{"next":["2026-01-16T00:00:00Z"],"warnings":["\"minutes\" in rule: is no field of a recurrence, and has no effect"]}"#
    );
    assert_eq!(
        answers[15],
        r#"{"next":["2026-01-16T05:00:00Z"],"warnings":["rule.tz: has no effect, since the schedule's own tz counts"]}"#
    );
    assert_eq!(answers[16], r#"{"next":["2026-01-15T18:30:00Z"]}"#);
    assert_eq!(answers[17], r#"{"next":["2026-01-16T05:00:00Z"]}"#);
    assert_eq!(answers.len(), lines.len());
}

#[test]
fn a_batch_answers_lines_that_are_no_text_and_goes_on() {
    let output =
        next(&["--batch", FROM[0], FROM[1], "--count", "1"], &[], b"\xff\xfe\r\n\r\n{\"rule\": \"@daily\"}\r\n");
    assert!(output.status.success());
    let answers = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<&str> = answers.lines().collect();
    assert!(answers[..2].iter().all(|answer| answer.starts_with(r#"{"error":"#)), "{answers:?}");
    assert_eq!(answers[2..], [r#"{"next":["2026-01-16T00:00:00Z"]}"#]);
    // Nothing asked, nothing answered.
    assert!(next(&["--batch"], &[], "").stdout.is_empty());
}
