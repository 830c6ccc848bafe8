//! The agenda's rules, without a database.

use super::*;

fn at(text: &str) -> Timestamp {
    format!("2026-01-01T{text}Z").parse().unwrap()
}

fn info(rule: &str) -> String {
    serde_json::json!({ "rule": rule }).to_string()
}

/// Any number that differs for another id or text, as the database's does.
fn digest(id: i64, info: &str) -> i64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (id, info).hash(&mut hasher);
    hasher.finish().cast_signed()
}

/// A row as a claim finds it that owes nothing from before `now`.
fn row(id: i64, info: &str, now: &str) -> ScheduledJob {
    owing(id, info, now, now)
}

/// A row whose fires up to `fired_until` are dealt with, and whose fires from `owed_since` on are to be made.
fn owing(id: i64, info: &str, fired_until: &str, owed_since: &str) -> ScheduledJob {
    let (digest, info) = (digest(id, info), info.to_owned());
    ScheduledJob::held(id, "task".into(), info, digest, at(fired_until), at(owed_since))
}

fn update(agenda: &mut Agenda, id: i64, info: &str, now: &str) -> RowChange {
    agenda.update(&row(id, info, now))
}

fn next(agenda: &Agenda) -> Option<Timestamp> {
    agenda.next(&HashSet::new())
}

/// The times of the fires that are due.
fn due(agenda: &Agenda, now: &str) -> Vec<(i64, Timestamp)> {
    let fires = agenda.due(at(now), 100_000, &HashSet::new());
    fires.iter().map(|fire| (fire.schedule, fire.at)).collect()
}

fn settle_due(agenda: &mut Agenda, now: &str) {
    for fire in agenda.due(at(now), 100_000, &HashSet::new()) {
        agenda.settle(fire);
    }
}

fn with(rule: &str, key: &str, value: &str) -> String {
    serde_json::json!({ "rule": rule, key: value }).to_string()
}

fn held(schedules: &[(i64, &str)]) -> Vec<(Block, Digest)> {
    let mut blocks: HashMap<Block, Digest> = HashMap::new();
    for (id, rule) in schedules {
        let block = blocks.entry(Block::of(*id)).or_default();
        block.count += 1;
        block.xor ^= digest(*id, &info(rule));
    }
    blocks.into_iter().collect()
}

fn agenda(rules: &[(i64, &str)], now: &str) -> Agenda {
    let mut agenda = Agenda::new(TimeZone::UTC);
    for (id, rule) in rules {
        assert_eq!(update(&mut agenda, *id, &info(rule), now), RowChange::New);
    }
    agenda
}

#[test]
fn a_fire_is_due_at_its_time_and_until_it_is_settled() {
    let mut agenda = agenda(&[(1, "* * * * *"), (2, "30 * * * *")], "00:00:30");
    assert_eq!(next(&agenda), Some(at("00:01:00")));
    assert_eq!(due(&agenda, "00:00:59"), []);
    assert_eq!(due(&agenda, "00:01:00"), [(1, at("00:01:00"))]);
    assert_eq!(due(&agenda, "00:01:00.5"), [(1, at("00:01:00"))]);
    settle_due(&mut agenda, "00:01:00.5");
    assert_eq!(due(&agenda, "00:01:01"), []);
    assert_eq!(next(&agenda), Some(at("00:02:00")));
}

#[test]
fn a_clock_that_goes_back_repeats_no_fire() {
    let mut agenda = agenda(&[(1, "* * * * *")], "00:00:30");
    settle_due(&mut agenda, "00:01:00");
    assert_eq!(due(&agenda, "00:00:10"), []);
    assert_eq!(next(&agenda), Some(at("00:02:00")));
}

#[test]
fn every_fire_that_is_owed_is_due_in_the_order_of_time() {
    let mut agenda = agenda(&[(1, "*/3 * * * * *"), (2, "*/2 * * * * *")], "00:00:00");
    let six = [(2, 2), (1, 3), (2, 4), (1, 6), (2, 6)].map(|(id, second)| (id, at(&format!("00:00:0{second}"))));
    assert_eq!(due(&agenda, "00:00:06.5"), six);
    let first = agenda.due(at("00:00:06.5"), 2, &HashSet::new());
    assert_eq!(first.iter().map(|fire| (fire.schedule, fire.at)).collect::<Vec<_>>(), six[..2]);
    first.into_iter().for_each(|fire| agenda.settle(fire));
    assert_eq!(due(&agenda, "00:00:06.5"), six[2..]);
    // One that waits for a row holds up no other.
    let without = agenda.due(at("00:00:06.5"), 10, &HashSet::from([2]));
    assert_eq!(without.iter().map(|fire| fire.schedule).collect::<Vec<_>>(), [1]);
    assert_eq!(agenda.take_missed(), 0);
    assert!(!agenda.has_marks());
}

#[test]
fn fires_of_a_take_over_are_made_up_whatever_the_schedule_says() {
    for missed in ["skip", "once", "all"] {
        let mut agenda = Agenda::new(TimeZone::UTC);
        agenda.update(&owing(1, &with("* * * * * *", "missed", missed), "00:00:00", "00:00:00"));
        assert_eq!(due(&agenda, "00:00:08").len(), 8, "{missed}");
        assert_eq!(agenda.take_missed(), 0);
    }
}

#[test]
fn fires_from_an_outage_are_skipped_or_made_up_once_or_all() {
    let due_after = |missed: &str, owed_since: &str| {
        let mut agenda = Agenda::new(TimeZone::UTC);
        agenda.update(&owing(1, &with("0 * * * * *", "missed", missed), "00:00:00", owed_since));
        let marks = agenda.marks(10);
        let missed = marks.first().and_then(|mark| mark.missed.clone());
        let minutes = due(&agenda, "00:07:10").into_iter().map(|(_, at)| at.to_string()[11..16].to_owned());
        (minutes.collect::<Vec<_>>().join(" "), missed, agenda.take_missed())
    };
    let (made, missed, count) = due_after("skip", "00:05:30");
    assert_eq!((made.as_str(), count), ("00:06 00:07", 1));
    let (last, reason) = missed.unwrap();
    assert_eq!(last, at("00:05:00"));
    assert!(reason.ends_with("since 2026-01-01T00:01:00Z"), "{reason}");
    let (made, missed, _) = due_after("once", "00:05:30");
    assert_eq!((made.as_str(), missed.unwrap().0), ("00:05 00:06 00:07", at("00:04:00")));
    let (made, missed, count) = due_after("all", "00:05:30");
    assert_eq!((made.as_str(), missed, count), ("00:01 00:02 00:03 00:04 00:05 00:06 00:07", None, 0));
    // A fire at the instant itself is owed.
    assert_eq!(due_after("skip", "00:05:00").0, "00:05 00:06 00:07");
    // With a single missed one there are none before it.
    let (made, missed, _) = due_after("skip", "00:01:30");
    assert!(made.starts_with("00:02 ") && missed.unwrap().1.ends_with("made up for"));
    assert_eq!(due_after("once", "00:01:30").1, None);
}

#[test]
fn all_missed_fires_are_the_latest_thousand() {
    let mut agenda = Agenda::new(TimeZone::UTC);
    agenda.update(&owing(1, &with("* * * * * *", "missed", "all"), "00:00:00", "10:00:00"));
    let made = due(&agenda, "09:59:59");
    assert_eq!((made.len(), made[0].1), (1000, at("09:43:20")));
    assert_eq!(agenda.marks(1)[0].missed.as_ref().unwrap().0, at("09:43:19"));
}

#[test]
fn a_long_outage_is_looked_through_quickly() {
    let mut agenda = Agenda::new(TimeZone::UTC);
    let since: Timestamp = "1996-01-01T00:00:00Z".parse().unwrap();
    for id in 0..200 {
        let row = owing(id, &with("* * * * * *", "missed", "once"), "00:00:00", "00:00:00");
        agenda.update(&ScheduledJob::held(id, row.task, row.schedule_info.unwrap(), row.digest, since, at("12:00:00")));
    }
    assert_eq!(due(&agenda, "11:59:59").len(), 200);
}

#[test]
fn after_heartbeats_that_failed_only_the_latest_fire_is_made_and_none_after_a_minute() {
    let mut agenda = agenda(&[(1, "* * * * * *"), (2, "0 * * * *"), (3, "30 59 * * * *")], "00:59:20");
    agenda.steady_since(at("00:59:20"));
    agenda.steady_since(at("01:00:40"));
    // 3 is late by more than a minute, 2 by less; of 1 only the latest of those before is left.
    assert_eq!(
        due(&agenda, "01:00:41"),
        [(2, at("01:00:00")), (1, at("01:00:39")), (1, at("01:00:40")), (1, at("01:00:41"))]
    );
    assert_eq!(agenda.take_missed(), 2);
    let mut missed: Vec<_> =
        agenda.marks(10).into_iter().filter_map(|mark| Some((mark.schedule, mark.missed?.0))).collect();
    missed.sort_unstable();
    assert_eq!(missed, [(1, at("01:00:38")), (3, at("00:59:30"))]);
    assert_eq!(next(&agenda), Some(at("01:00:00")));
    // The same again changes nothing.
    agenda.steady_since(at("01:00:40"));
    assert_eq!(agenda.take_missed(), 0);
}

#[test]
fn a_schedule_without_a_fire_left_is_marked_and_then_forgotten() {
    let once = r#""2026-01-01T00:00:10Z""#;
    let mut agenda = Agenda::new(TimeZone::UTC);
    assert_eq!(update(&mut agenda, 1, once, "00:00:00"), RowChange::New);
    assert_eq!(update(&mut agenda, 2, once, "00:00:11"), RowChange::New);
    let marks = agenda.marks(10);
    assert_eq!(marks.iter().map(|mark| (mark.schedule, mark.ended)).collect::<Vec<_>>(), [(2, true)]);
    agenda.marked(&marks[0]);
    assert!(agenda.holds(1) && !agenda.holds(2) && !agenda.has_marks());
    settle_due(&mut agenda, "00:00:10");
    let marks = agenda.marks(10);
    assert_eq!(marks.iter().map(|mark| (mark.schedule, mark.ended)).collect::<Vec<_>>(), [(1, true)]);
    // One that has changed meanwhile is not forgotten.
    update(&mut agenda, 1, &info("* * * * *"), "00:00:20");
    agenda.marked(&marks[0]);
    assert!(agenda.holds(1) && !agenda.has_marks());
}

#[test]
fn what_is_wrong_is_marked_and_cleared_and_a_warning_stops_nothing() {
    let mut agenda = Agenda::new(TimeZone::UTC);
    assert!(matches!(update(&mut agenda, 1, &info("61 * * * *"), "00:00:00"), RowChange::Invalid(_)));
    update(&mut agenda, 2, &with("* * * * *", "tzz", "x"), "00:00:00");
    update(&mut agenda, 3, &info("* * * * *"), "00:00:00");
    let errors: HashMap<i64, String> =
        agenda.marks(10).into_iter().map(|mark| (mark.schedule, mark.error.unwrap())).collect();
    assert!(errors[&1].contains("minute: 61 is not within 0-59"), "{errors:?}");
    assert!(errors[&2].contains("tzz"), "{errors:?}");
    assert_eq!(errors.len(), 2);
    assert_eq!(due(&agenda, "00:01:00"), [(2, at("00:01:00")), (3, at("00:01:00"))]);
    agenda.marks(10).iter().for_each(|mark| agenda.marked(mark));
    assert!(!agenda.has_marks());
    // Written in the row and not true any more (another version may know more rules).
    let mut fine = row(4, &info("* * * * *"), "00:00:00");
    fine.last_error = Some("what it said before".into());
    agenda.update(&fine);
    assert_eq!(agenda.marks(10)[0].error, None);
}

#[test]
fn a_bad_rule_is_told_once_until_it_changes_and_stops_no_other() {
    let mut agenda = agenda(&[(1, "* * * * *")], "00:00:30");
    assert!(matches!(update(&mut agenda, 2, &info("61 * * * *"), "00:00:30"), RowChange::Invalid(_)));
    assert_eq!(update(&mut agenda, 2, &info("61 * * * *"), "00:00:31"), RowChange::None);
    assert_eq!(due(&agenda, "00:01:00").len(), 1);
    assert_eq!(update(&mut agenda, 2, &info("1 * * * *"), "00:00:32"), RowChange::New);
    assert_eq!(due(&agenda, "00:01:00").len(), 2);
    // Postgres takes this as json.
    assert!(matches!(update(&mut agenda, 3, r#"{"rule": 1e999}"#, "00:00:32"), RowChange::Invalid(_)));
}

#[test]
fn a_changed_rule_replaces_the_next_fire_and_a_gone_schedule_has_none() {
    let mut agenda = agenda(&[(1, "5 * * * *"), (2, "10 * * * *")], "00:00:00");
    assert_eq!(update(&mut agenda, 1, &info("20 * * * *"), "00:00:30"), RowChange::New);
    assert_eq!(next(&agenda), Some(at("00:10:00")));
    assert_eq!(agenda.retain(&HashSet::from([Block::of(1)]), &HashSet::from([1])), 1);
    assert_eq!(next(&agenda), Some(at("00:20:00")));
    assert!(agenda.holds(1) && !agenda.holds(2));
    agenda.forget(1);
    assert_eq!(next(&agenda), None);
}

#[test]
fn a_block_differs_when_a_schedule_of_it_comes_goes_or_changes() {
    let (hourly, daily) = ("0 * * * *", "0 0 * * *");
    let here = [(1, hourly), (2, hourly), (5000, daily)];
    let mut agenda = agenda(&here, "00:00:00");
    assert_eq!(agenda.differing(&held(&here)), HashSet::new());
    let (first, last) = (Block::of(1), Block::of(5000));
    for there in [&[(1, hourly), (5000, daily)][..], &[(1, daily), (2, hourly), (5000, daily)], &[(5000, daily)]] {
        assert_eq!(agenda.differing(&held(there)), HashSet::from([first]), "{there:?}");
    }
    assert_eq!(agenda.differing(&held(&here[..2])), HashSet::from([last]));
    assert_eq!(agenda.differing(&[]), HashSet::from([first, last]));
    // Only in the blocks that were read again can one be missed.
    assert_eq!(agenda.retain(&HashSet::from([first]), &HashSet::from([2])), 1);
    assert_eq!(agenda.differing(&held(&here[1..])), HashSet::new());
    update(&mut agenda, 2, &info(daily), "00:00:01");
    assert_eq!(agenda.differing(&held(&[(2, daily), (5000, daily)])), HashSet::new());
    agenda.forget(2);
    agenda.forget(5000);
    assert_eq!(agenda.differing(&[]), HashSet::new());
}

#[test]
fn a_take_over_by_one_that_lived_through_the_gap_makes_the_latest_fire_late() {
    for (first, made) in [("00:59:00", 1), ("01:00:10", 0)] {
        let mut agenda = Agenda::new(TimeZone::UTC);
        agenda.steady_since(at(first));
        agenda.steady_since(at("01:00:10"));
        agenda.update(&owing(1, &info("0 * * * *"), "00:10:00", "01:00:10"));
        assert_eq!(due(&agenda, "01:00:11").len(), made, "{first}");
    }
}

#[test]
fn a_rule_that_was_changed_during_a_gap_makes_up_nothing_for_it() {
    let mut agenda = Agenda::new(TimeZone::UTC);
    agenda.steady_since(at("00:00:00"));
    agenda.update(&owing(1, &info("* * * * * *"), "00:00:00", "00:00:00"));
    settle_due(&mut agenda, "00:00:05");
    // Halted here; the rule is changed at 6.
    agenda.steady_since(at("00:00:30"));
    agenda.update(&owing(1, &info("*/1 * * * * *"), "00:00:06", "00:00:00"));
    assert_eq!(due(&agenda, "00:00:30"), [(1, at("00:00:29")), (1, at("00:00:30"))]);
}

#[test]
fn a_row_that_cannot_be_used_is_told_once_and_its_text_is_not_asked_for() {
    let mut agenda = Agenda::new(TimeZone::UTC);
    let usable = info("* * * * * *");
    for (id, fired_until) in [(1, Timestamp::MAX), (2, "-000001-01-01T00:00:00Z".parse().unwrap())] {
        let row =
            ScheduledJob::held(id, "task".into(), usable.clone(), digest(id, &usable), fired_until, at("00:00:00"));
        assert!(!agenda.needs_text_of(&row));
        assert!(matches!(agenda.update(&row), RowChange::Invalid(error) if error.starts_with("fired_until: ")));
        assert_eq!(agenda.update(&row), RowChange::None);
        // Set right, it is read.
        let right = owing(id, &usable, "00:00:00", "00:00:00");
        assert!(agenda.needs_text_of(&right));
        assert_eq!(agenda.update(&right), RowChange::New);
        assert_eq!(agenda.update(&right), RowChange::None);
    }
    let large = format!("{usable}{}", " ".repeat(LARGEST_SCHEDULE_INFO as usize));
    let row = owing(3, &large, "00:00:00", "00:00:00");
    assert!(!agenda.needs_text_of(&row));
    let error = "schedule_info: is longer than 65536 bytes, and is not read";
    assert_eq!(agenda.update(&row), RowChange::Invalid(error.to_owned()));
    assert_eq!(agenda.update(&row), RowChange::None);
}
