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

fn look(agenda: &mut Agenda, id: i64, info: &str, now: &str) -> Looked {
    agenda.look_at(id, info, digest(id, info), at(now))
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
        assert_eq!(look(&mut agenda, *id, &info(rule), now), Looked::Taken);
    }
    agenda
}

#[test]
fn a_fire_is_due_at_its_time_and_until_it_is_settled() {
    let mut agenda = agenda(&[(1, "* * * * *"), (2, "30 * * * *")], "00:00:30");
    assert_eq!(agenda.next(), Some(at("00:01:00")));
    assert_eq!(agenda.due(at("00:00:59")), []);
    let fire = Fire { schedule: 1, at: at("00:01:00") };
    assert_eq!(agenda.due(at("00:01:00")), [fire]);
    assert_eq!(agenda.due(at("00:01:00.5")), [fire]);
    agenda.settle(fire, at("00:01:00.5"));
    assert_eq!(agenda.due(at("00:01:01")), []);
    assert_eq!(agenda.next(), Some(at("00:02:00")));
}

#[test]
fn a_clock_that_goes_back_repeats_no_fire() {
    let mut agenda = agenda(&[(1, "* * * * *")], "00:00:30");
    let fire = agenda.due(at("00:01:00"))[0];
    agenda.settle(fire, at("00:00:10"));
    assert_eq!(agenda.next(), Some(at("00:02:00")));
    // Nor does a changed rule.
    assert_eq!(look(&mut agenda, 1, &info("*/1 * * * *"), "00:00:20"), Looked::Taken);
    assert_eq!(agenda.next(), Some(at("00:02:00")));
}

#[test]
fn of_several_overdue_fires_only_the_latest_is_left_and_none_after_a_minute() {
    let mut seconds = agenda(&[(1, "* * * * * *")], "00:00:00");
    assert_eq!(seconds.due(at("00:00:10.5")), [Fire { schedule: 1, at: at("00:00:10") }]);
    assert_eq!(seconds.take_missed(), 1);
    assert_eq!(seconds.take_missed(), 0);

    let mut hours = agenda(&[(1, "0 * * * *")], "00:30:00");
    assert_eq!(hours.due(at("01:00:59")).len(), 1);
    assert_eq!(hours.due(at("01:01:01")), []);
    assert_eq!(hours.take_missed(), 1);
    assert_eq!(hours.next(), Some(at("02:00:00")));
}

#[test]
fn a_bad_rule_is_told_once_until_it_changes_and_stops_no_other() {
    let mut agenda = agenda(&[(1, "* * * * *")], "00:00:30");
    assert!(matches!(look(&mut agenda, 2, &info("61 * * * *"), "00:00:30"), Looked::Invalid(_)));
    assert_eq!(look(&mut agenda, 2, &info("61 * * * *"), "00:00:31"), Looked::Known);
    assert_eq!(agenda.due(at("00:01:00")).len(), 1);
    assert_eq!(look(&mut agenda, 2, &info("1 * * * *"), "00:00:32"), Looked::Taken);
    assert_eq!(agenda.due(at("00:01:00")).len(), 2);
    // Postgres takes this as json.
    assert!(matches!(look(&mut agenda, 3, r#"{"rule": 1e999}"#, "00:00:32"), Looked::Invalid(_)));
}

#[test]
fn a_changed_rule_replaces_the_next_fire_and_a_gone_schedule_has_none() {
    let mut agenda = agenda(&[(1, "5 * * * *"), (2, "10 * * * *")], "00:00:00");
    assert_eq!(look(&mut agenda, 1, &info("20 * * * *"), "00:00:30"), Looked::Taken);
    assert_eq!(agenda.next(), Some(at("00:10:00")));
    assert_eq!(agenda.retain(&HashSet::from([Block::of(1)]), &HashSet::from([1])), 1);
    assert_eq!(agenda.next(), Some(at("00:20:00")));
    assert!(agenda.holds(1) && !agenda.holds(2));
    agenda.forget(1);
    assert_eq!(agenda.next(), None);
}

#[test]
fn a_schedule_that_has_ended_is_held_and_costs_nothing() {
    let mut agenda = agenda(&[(1, "2025-06-01T00:00:00Z")], "00:00:00");
    assert_eq!((agenda.next(), agenda.ids()), (None, vec![1]));
    assert_eq!(agenda.due(at("12:00:00")), []);
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
    look(&mut agenda, 2, &info(daily), "00:00:01");
    assert_eq!(agenda.differing(&held(&[(2, daily), (5000, daily)])), HashSet::new());
    agenda.forget(2);
    agenda.forget(5000);
    assert_eq!(agenda.differing(&[]), HashSet::new());
}
