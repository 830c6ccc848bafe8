//! Dates beside Node's: what is taken for one is the date that `new Date(…)` makes of it.

use std::io::Write;
use std::process::{Command, Stdio};

use job_scheduler::timetable::{self, Timestamp};
use serde_json::{Value, json};

const ZONE: &str = "Europe/Berlin";

const DATES: [&str; 40] = [
    "2026-03-07",
    "2026-3-7",
    "2026-03",
    "2026",
    "+002026-03-07",
    "2026/03/07",
    "2026/3/7",
    "3/7/2026",
    "03/07/26",
    "3-7-2026",
    "3.7.2026",
    "2026.3.7",
    "Mar 7, 2026",
    "March 7 2026",
    "7 March 2026",
    "7-Mar-2026",
    "Mar-7-2026",
    "2026 Mar 7",
    "Sat Mar 07 2026",
    "Sat, 07 Mar 2026",
    "Saturday, March 7, 2026",
    "Mar 2026",
    "7 Mar 26",
    "3/7/99",
    "Sept 7, 2026",
    "2026-03-29",
    "2026-10-25",
    "2026-02-30",
    "2/30/2026",
    "2026-13-01",
    "13/7/2026",
    "3/7",
    "7 Mar",
    "1970-01-01",
    "0099-12-31",
    "9999-12-30",
    "2024-02-29",
    "2023-02-29",
    "3/7/12026",
    "soon",
];
const TIMES: [&str; 22] = [
    "",
    " 10:00",
    " 10:00:00",
    "T10:00",
    "T10:00:00",
    "T10:00:00.5",
    "T10:00:00.123456",
    " 10:00:00.25",
    "T24:00:00",
    " 24:00",
    "T24:00:01",
    " 25:00",
    " 10:60",
    ", 10:00:00 AM",
    ", 12:00:00\u{202f}PM",
    " 12:30 am",
    " 1:5",
    " 02:30",
    "T10",
    " 10",
    " at 10:00",
    " 10:00:00:250",
];
const ZONES: [&str; 20] = [
    "",
    "Z",
    " Z",
    "+01:00",
    "-0530",
    " +0100",
    " GMT",
    " UTC",
    " GMT+2",
    " GMT-0800 (Pacific Standard Time)",
    " EST",
    "+01",
    " CET",
    "+25:00",
    " +123456",
    " (a remark)",
    " PDT",
    " GMT+01:30",
    "+5",
    " UTC+1",
];

/// Whether a text is one that Node makes a date of and that means none: a day that its month does not have, a date
/// without a year, a minute 60, an offset of more than a day, signs and words that Node passes over. Such texts may be
/// refused.
fn is_nonsense(text: &str) -> bool {
    ["2026-02-30", "2/30/2026", "2023-02-29", "soon", "at "].iter().any(|date| text.starts_with(date))
        || ["+25:00", ":60", "26-0530", "7-0530"].iter().any(|part| text.contains(part))
        || text.starts_with('+') && !text.contains("07T")
        || (text.starts_with("3/7") && !text.starts_with("3/7/"))
        || (text.starts_with("7 Mar") && !["26", "ch"].iter().any(|rest| text[5..].trim_start().starts_with(rest)))
}

/// Whether it is a form of ISO 8601 that Node refuses: hours alone in a time or an offset.
fn is_more(text: &str) -> bool {
    let hours_alone = |hours: &str| text.contains(hours) && !text.contains(&format!("{hours}:"));
    text.contains('T') && text.ends_with("+01") || hours_alone("T10") || hours_alone(" 10")
}

fn ours(text: &str) -> Option<i64> {
    let zone = timetable::zone(ZONE, "tz").unwrap();
    timetable::date(&json!(text), &zone, "date").ok().map(|at| at.as_microsecond().div_euclid(1000))
}

#[test]
#[allow(clippy::print_stderr, reason = "what is skipped is said")]
fn a_date_is_what_new_date_makes_of_it() {
    let texts: Vec<String> = DATES
        .iter()
        .flat_map(|date| TIMES.iter().map(move |time| format!("{date}{time}")))
        .flat_map(|start| ZONES.iter().map(move |zone| format!("{start}{zone}")))
        .chain(TIMES.iter().map(|time| format!("{} 3/7/2026", time.trim_start_matches([' ', 'T', ',']))))
        .collect();
    let script = "process.stdout.write(JSON.stringify(JSON.parse(require('fs').readFileSync(0)).map(t => new Date(t).getTime())))";
    let node =
        Command::new("node").args(["-e", script]).env("TZ", ZONE).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut node = match node {
        Ok(node) => node,
        Err(error) => return eprintln!("SKIPPED a_date_is_what_new_date_makes_of_it: there is no Node ({error})"),
    };
    node.stdin.take().unwrap().write_all(&serde_json::to_vec(&texts).unwrap()).unwrap();
    let answers: Vec<Value> = serde_json::from_slice(&node.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(answers.len(), texts.len());
    // The last millisecond there is, here.
    let last = Timestamp::MAX.as_millisecond();
    let (mut taken, mut wrong) = (0, Vec::new());
    for (text, answer) in texts.iter().zip(answers) {
        let (ours, theirs) = (ours(text), answer.as_i64().map(|at| at.min(last)));
        let expected = if is_more(text) || (is_nonsense(text) && ours.is_none()) { ours } else { theirs };
        taken += usize::from(ours.is_some());
        if ours != expected {
            wrong.push(format!("{text:?}: {ours:?} here, {theirs:?} there"));
        }
    }
    assert!(taken > 3000, "{taken}");
    assert!(
        wrong.is_empty(),
        "{} differ: {:#?}",
        wrong.len(),
        wrong.iter().step_by(wrong.len().div_ceil(60)).collect::<Vec<_>>()
    );
}
