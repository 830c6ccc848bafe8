//! Histories written by hand: one that is right in every way, and each way to be wrong.

mod gates;
mod made;
mod operators;

use super::super::change::{Change, Row, Snapshot};
use super::super::history::{Event, Micros};
use super::super::plan::{Kind, Link, Service, Target};
use super::*;
use made::{Made, SECOND, made};

#[test]
fn a_good_history_is_good() {
    let made = made(|made| {
        made.insert(1).run(1, 1);
        // Fails once, as planned.
        made.insert(2).claim(2, 1);
        let run = made.start(2, None);
        made.finish(run, false).fail(2, &failure_of(run)).wait(3 * SECOND).run(2, 2);
        // Its worker dies; it is rescued, and the dead run's outcome comes too late.
        made.insert(3).claim(3, 1);
        let (dead, dead_epoch) = (made.start(3, None), made.epochs);
        let back = made.fault(Target::Service(Service::Worker(1)), Kind::Kill);
        made.wait(6 * SECOND).rescue(3);
        made.event(back);
        made.claim(3, 2);
        assert_ne!(dead_epoch, made.epochs);
        let run = made.start(3, None);
        made.finish(dead, true).finish(run, true).complete(3);
        // A queue in order.
        made.insert_in(5, "q", 0).insert_in(4, "q", 0).insert_in(6, "q", -1).run(6, 1).run(5, 2).run(4, 1);
        // A stop that waits for one job and gives back one that had not started.
        made.insert(7).insert(8).claim(7, 1).claim(8, 1);
        let run = made.start(7, None);
        made.event(Event::StopAsked { worker: worker_id(1) });
        made.release(8).finish(run, true).complete(7);
        made.event(Event::StopDone { worker: worker_id(1), code: Some(0) });
        made.run(8, 2);
        made.event(Event::RolledBack { n: 100 });
        made.event(Event::Unresolved { n: 101 });
    });
    let verdict = made.verdict();
    assert_eq!(verdict.violations, []);
    let Figures { jobs, completed, reruns, repeats, rescued, ordered, stops, in_flight, .. } = verdict.figures;
    assert_eq!((jobs, completed, reruns, repeats, rescued), (8, 8, 2, 1, 1));
    assert_eq!((ordered, stops, in_flight), (3, 1, 2));
    assert_eq!(verdict.figures.stuck_job, Some(3));
    assert!(verdict.figures.longest_stuck >= Duration::from_secs(6), "{:?}", verdict.figures.longest_stuck);
}

#[test]
fn a_job_whose_commit_was_acknowledged_and_that_is_not_there_is_lost() {
    let made = made(|made| {
        made.insert(1).run(1, 1);
        made.event(Event::Committed { n: 2, job: 2 });
    });
    assert_eq!(made.wrong(), [(Rule::Lost, Some(2))]);
}

#[test]
fn a_job_that_does_not_end_is_lost() {
    let waits = made(|made| _ = made.insert(1));
    assert_eq!(waits.wrong(), [(Rule::Lost, Some(1))]);
    let held = made(|made| _ = made.insert(1).claim(1, 1));
    assert_eq!(held.wrong(), [(Rule::Lost, Some(1))]);
    let text = &held.verdict().violations[0].text;
    assert!(text.contains("Claimed") && text.contains("chaos-worker-1"), "{text}");
}

#[test]
fn a_row_that_is_gone_without_a_change_is_lost() {
    let made = made(|made| {
        made.insert(1);
        made.evidence.rows.clear();
    });
    assert_eq!(made.wrong(), [(Rule::Lost, Some(1))]);
}

#[test]
fn a_job_that_was_completed_without_a_start_is_lost() {
    let made = made(|made| _ = made.insert(1).claim(1, 1).complete(1));
    assert_eq!(made.wrong(), [(Rule::Lost, Some(1))]);
}

#[test]
fn a_job_that_was_rolled_back_and_runs_is_told() {
    let made = made(|made| {
        made.insert(1);
        made.event(Event::RolledBack { n: 2 });
        made.change(2, Some(Row { n: Some(2), max_attempts: 25, ..Row::default() }));
        made.run(2, 1).run(1, 1);
    });
    assert_eq!(made.wrong(), [(Rule::Uncommitted, Some(2)), (Rule::Uncommitted, Some(2))]);
}

#[test]
fn a_second_settlement_of_one_attempt_is_told() {
    let twice = made(|made| {
        made.insert(1).run(1, 1);
        let gone = made.evidence.changes.last().cloned().unwrap();
        let at = made.tick();
        made.evidence.changes.push(Change { at, ..gone });
    });
    assert_eq!(twice.wrong(), [(Rule::DoubleSettle, Some(1))]);
    // Failed, and failed once more: the second finds a row that nobody holds.
    let failed = made(|made| {
        made.insert(1).claim(1, 1);
        let run = made.start(1, None);
        made.finish(run, false).fail(1, &failure_of(run)).fail(1, "no callback within 10s").wait(3 * SECOND).run(1, 1);
    });
    assert_eq!(failed.wrong(), [(Rule::StaleSettle, Some(1))]);
    // The audit says that somebody held it, the claims say otherwise.
    let held = made(|made| {
        made.insert(1).claim(1, 1);
        let run = made.start(1, None);
        let held = made.row(1);
        made.finish(run, false).fail(1, &failure_of(run));
        made.evidence.rows.insert(1, held);
        made.fail(1, &failure_of(run)).wait(3 * SECOND).run(1, 1);
    });
    assert_eq!(held.wrong(), [(Rule::DoubleSettle, Some(1))]);
}

#[test]
fn an_attempt_that_is_completed_by_an_earlier_ones_outcome_is_told() {
    let made = made(|made| {
        made.insert(1).claim(1, 1);
        let zombie = made.start(1, None);
        let back = made.fault(Target::Service(Service::Worker(1)), Kind::Halt);
        made.wait(6 * SECOND).rescue(1);
        made.event(back);
        made.claim(1, 2);
        made.start(1, None);
        // The new run is still at work.
        made.finish(zombie, true).complete(1);
    });
    assert_eq!(made.wrong(), [(Rule::StaleSettle, Some(1))]);
}

#[test]
fn a_stale_settlement_is_seen_without_epochs_too() {
    let made = made(|made| {
        made.insert(1).claim(1, 1);
        let first = made.start(1, None);
        made.finish(first, true).release(1).claim(1, 1).complete(1);
        for entry in &mut made.evidence.entries {
            if let Event::Started { epoch, .. } = &mut entry.event {
                *epoch = None;
            }
        }
    });
    assert_eq!(made.wrong(), [(Rule::StaleSettle, Some(1))]);
}

#[test]
fn an_attempt_that_fails_by_another_ones_outcome_is_told() {
    let made = made(|made| {
        made.insert(1).claim(1, 1);
        let first = made.start(1, None);
        made.finish(first, false).release(1).claim(1, 1);
        let second = made.start(1, None);
        made.fail(1, &failure_of(first)).finish(second, true).wait(3 * SECOND).run(1, 1);
    });
    assert_eq!(made.wrong(), [(Rule::StaleSettle, Some(1))]);
}

#[test]
fn a_claim_of_a_held_job_and_an_epoch_used_twice_are_told() {
    let held = made(|made| {
        made.insert(1).claim(1, 1);
        let free = made.free(1);
        made.evidence.rows.insert(1, free);
        made.run(1, 2);
    });
    assert_eq!(held.wrong(), [(Rule::TwoClaims, Some(1)), (Rule::Robbed, Some(1))]);
    let epoch = made(|made| {
        made.insert(1).claim(1, 1).release(1);
        made.epochs -= 1;
        made.run(1, 1);
    });
    assert_eq!(epoch.wrong(), [(Rule::TwoClaims, Some(1))]);
}

#[test]
fn a_start_without_a_claim_is_told_unless_a_crash_has_taken_the_claim_back() {
    let without = made(|made| {
        made.insert(1).run(1, 1).insert(2);
        made.start(2, Some(77));
        made.run(2, 1);
    });
    assert_eq!(without.wrong(), [(Rule::Unclaimed, Some(2))]);
    let crashed = made(|made| {
        made.insert(2);
        made.start(2, Some(77));
        let back = made.fault(Target::Postgres, Kind::Kill);
        made.event(back);
        made.run(2, 1);
    });
    assert_eq!(crashed.wrong(), []);
    // The request was held back, and received after the crash.
    let late = |link: Link| {
        made(|made| {
            made.insert(2);
            let passes = made.fault(Target::Link(link), Kind::Blackhole);
            let back = made.fault(Target::Postgres, Kind::Kill);
            made.wait(2 * SECOND).event(back);
            made.event(passes);
            made.start(2, Some(77));
            made.run(2, 1);
        })
    };
    assert_eq!(late(Link::Function(1)).wrong(), []);
    assert_eq!(late(Link::Function(2)).wrong(), [(Rule::Unclaimed, Some(2))]);
}

#[test]
fn a_job_that_is_taken_from_a_live_worker_is_told() {
    let robbed = made(|made| _ = made.insert(1).claim(1, 1).wait(6 * SECOND).rescue(1).run(1, 2));
    assert_eq!(robbed.wrong(), [(Rule::Robbed, Some(1))]);
    let isolated = made(|made| {
        let back = made.fault(Target::Link(Link::Database(Service::Worker(1))), Kind::Blackhole);
        made.insert(1).claim(1, 1).wait(6 * SECOND).rescue(1);
        made.event(back);
        made.run(1, 2);
    });
    assert_eq!(isolated.wrong(), []);
}

#[test]
fn two_jobs_of_a_named_queue_at_once_are_told() {
    let made = made(|made| {
        made.insert_in(1, "q", 0).insert_in(2, "q", 0).claim(1, 1);
        let run = made.start(1, None);
        made.run(2, 2).finish(run, true).complete(1);
    });
    assert_eq!(made.wrong(), [(Rule::Overlap, Some(2))]);
}

#[test]
fn a_job_of_a_named_queue_out_of_turn_is_told() {
    let by_id = made(|made| _ = made.insert_in(1, "q", 0).insert_in(2, "q", 0).run(2, 1).run(1, 1));
    assert_eq!(by_id.wrong(), [(Rule::Order, Some(2))]);
    let by_priority = made(|made| _ = made.insert_in(1, "q", 5).insert_in(2, "q", 0).run(1, 1).run(2, 1));
    assert_eq!(by_priority.wrong(), [(Rule::Order, Some(1))]);
    // What the claim cannot see is not out of turn.
    let unseen = made(|made| {
        made.insert_in(1, "q", 0).insert_in(2, "q", 0).claim(2, 1);
        made.evidence.changes[2].snapshot = Some(Snapshot::read("1:9:1").unwrap());
        let run = made.start(2, None);
        made.finish(run, true).complete(2).run(1, 1);
    });
    assert_eq!(unseen.wrong(), []);
    // Nor is what waits to be put in its place behind more than a claim looks at.
    let due = |others: i64, comes_first: bool| {
        made(|made| {
            let others = 3..3 + others;
            let queue = |made: &mut Made| _ = made.insert_in(1, "q", 0).insert_in(2, "q", 0);
            if comes_first {
                queue(made);
            }
            others.clone().for_each(|other| _ = made.insert(other));
            if !comes_first {
                queue(made);
            }
            made.evidence.changes.iter_mut().filter(|change| change.job != 2).for_each(|change| {
                change.key = Some("run_at".into());
            });
            made.run(2, 1).run(1, 1);
            others.for_each(|other| _ = made.run(other, 1));
        })
    };
    assert_eq!(due(990, false).wrong(), [(Rule::Order, Some(2))]);
    assert_eq!(due(1010, false).wrong(), []);
    assert_eq!(due(1010, true).wrong(), [(Rule::Order, Some(2))], "it has been due longest");
}

#[test]
fn a_graceful_stop_that_gives_back_what_ran_or_leaves_it_locked_is_told() {
    let stop = |end: &dyn Fn(&mut Made)| {
        made(|made| {
            made.insert(1).claim(1, 1);
            let run = made.start(1, None);
            made.event(Event::StopAsked { worker: worker_id(1) });
            made.finish(run, true);
            end(made);
        })
    };
    let given_back = stop(&|made| {
        made.release(1);
        made.event(Event::StopDone { worker: worker_id(1), code: Some(0) });
        made.run(1, 2);
    });
    assert_eq!(given_back.wrong(), [(Rule::Stop, Some(1))]);
    let left = stop(&|made| {
        made.event(Event::StopDone { worker: worker_id(1), code: Some(0) });
        made.complete(1);
    });
    assert_eq!(left.wrong(), [(Rule::Stop, Some(1))]);
    let failed = stop(&|made| {
        made.complete(1);
        made.event(Event::StopDone { worker: worker_id(1), code: Some(70) });
    });
    assert_eq!(failed.wrong(), [(Rule::Stop, None)]);
}

#[test]
fn a_job_that_is_due_and_left_alone_is_stuck() {
    let left = made(|made| _ = made.insert(1).wait(16 * SECOND).run(1, 1));
    assert_eq!(left.wrong(), [(Rule::Stuck, Some(1))]);
    // Being claimed and given back is no progress.
    let in_turn = made(|made| _ = made.insert(1).wait(8 * SECOND).claim(1, 1).release(1).wait(8 * SECOND).run(1, 1));
    assert_eq!(in_turn.wrong(), [(Rule::Stuck, Some(1))]);
    let future = made(|made| {
        let run_at = Micros(made.clock + 60 * SECOND);
        made.insert_as(1, Row { n: Some(1), max_attempts: 25, run_at, ..Row::default() });
        made.wait(60 * SECOND).run(1, 1);
    });
    assert_eq!(future.wrong(), []);
    // Behind more urgent jobs that start, and behind less urgent ones.
    let after = |priority: i32| {
        made(|made| {
            let run_at = Micros(made.clock);
            made.insert_as(1, Row { n: Some(1), max_attempts: 25, run_at, priority, ..Row::default() });
            made.wait(9 * SECOND).insert(2).run(2, 1).wait(9 * SECOND).run(1, 1);
        })
    };
    assert_eq!(after(5).wrong(), []);
    assert_eq!(after(-5).wrong(), [(Rule::Stuck, Some(1))]);
    // Behind others in a queue that moves.
    let behind = made(|made| {
        made.insert_in(1, "q", 0).insert_in(2, "q", 0).insert_in(3, "q", 0);
        made.wait(9 * SECOND).run(1, 1).wait(9 * SECOND).run(2, 1).wait(9 * SECOND).run(3, 1);
    });
    assert_eq!(behind.wrong(), []);
}

#[test]
fn a_schedule_that_falls_silent_or_fires_on_top_of_itself_is_told() {
    let fire = |made: &mut Made, job: i64| {
        made.change(
            job,
            Some(Row { schedule: Some(0), max_attempts: 25, run_at: Micros(made.clock), ..Row::default() }),
        );
    };
    let runs = |made: &mut Made, job: i64| {
        made.claim(job, 1);
        let run = made.start(job, None);
        if let Some(Event::Started { n, .. }) = made.evidence.entries.last_mut().map(|entry| &mut entry.event) {
            *n = None;
        }
        made.finish(run, true).complete(job);
    };
    let silent = made(|made| {
        made.event(Event::ScheduleAdded { schedule: 0 });
        fire(made, 1);
        runs(made, 1);
        made.wait(16 * SECOND).event(Event::ScheduleRemoved { schedule: 0 });
    });
    assert_eq!(silent.wrong(), [(Rule::Schedule, None)]);
    let twice = made(|made| {
        made.event(Event::ScheduleAdded { schedule: 0 });
        fire(made, 1);
        fire(made, 2);
        runs(made, 1);
        runs(made, 2);
        made.event(Event::ScheduleRemoved { schedule: 0 });
    });
    assert_eq!(twice.wrong(), [(Rule::Schedule, Some(2))]);
}

#[test]
fn a_job_whose_key_was_taken_need_not_run_but_the_one_that_took_it_must() {
    let replaced = made(|made| {
        made.insert(1);
        let row = made.row(1);
        made.insert_as(1, Row { n: Some(2), ..row });
        made.claim(1, 1);
        let run = made.start(1, None);
        made.finish(run, true).complete(1);
    });
    // The run is of n = 1: what replaced it was completed and never started.
    assert_eq!(replaced.wrong(), [(Rule::Lost, Some(1))]);
}

#[test]
fn a_row_that_changes_in_no_known_way_is_told() {
    let made = made(|made| {
        made.insert(1);
        let row = made.row(1);
        made.change(1, Some(Row { priority: 7, ..row }));
        made.run(1, 1);
    });
    assert_eq!(made.wrong(), [(Rule::Unexplained, Some(1))]);
}
