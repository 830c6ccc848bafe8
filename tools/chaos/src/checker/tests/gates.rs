//! Histories with gates: what operators set, and each way in which it is not kept.

use std::time::Duration;

use super::super::super::change::{Row, Setting, Snapshot};
use super::super::super::history::Micros;
use super::super::super::operations::{Gate, GateKind, Limit, Rate};
use super::super::Rule;
use super::made::{Made, SECOND, made};

fn task(name: &str) -> Gate {
    Gate::new(GateKind::Task, name)
}

/// Ends a claim well.
fn end(made: &mut Made, job: i64) {
    let run = made.start(job, None);
    made.finish(run, true).complete(job);
}

/// Claims all these jobs, and ends them.
fn at_once(made: &mut Made, jobs: &[i64]) {
    for job in jobs {
        made.claim(*job, 1);
    }
    for job in jobs {
        end(made, *job);
    }
}

#[test]
fn a_job_beyond_the_limit_of_its_task_is_told() {
    let kept = made(|made| {
        made.limit(task("a"), 2).insert(1).insert(2).insert(3);
        at_once(made, &[1, 2]);
        made.run(3, 1);
    });
    assert_eq!(kept.wrong(), []);
    let figures = kept.verdict().figures;
    assert_eq!((figures.limited, figures.filled), (3, 1));
    let exceeded = made(|made| {
        made.limit(task("a"), 2).insert(1).insert(2).insert(3);
        at_once(made, &[1, 2, 3]);
    });
    assert_eq!(exceeded.wrong(), [(Rule::Limit, Some(3))]);
    // An accepted job runs until its callback, and one that is rescued until then.
    let rescued = made(|made| {
        made.limit(task("a"), 1).insert(1).insert(2).claim(1, 1).claim(2, 2);
        made.rescue(1);
        end(made, 2);
        made.run(1, 2);
    });
    assert!(rescued.wrong().contains(&(Rule::Limit, Some(2))), "{:?}", rescued.wrong());
}

#[test]
fn a_limit_for_each_task_is_one_for_those_without_a_row_of_their_own() {
    let each = |own: &dyn Fn(&mut Made)| {
        made(|made| {
            made.limit(task("*"), 1);
            own(made);
            made.insert(1).insert(2);
            at_once(made, &[1, 2]);
        })
    };
    assert_eq!(each(&|_| ()).wrong(), [(Rule::Limit, Some(2))]);
    assert_eq!(each(&|made| _ = made.limit(task("a"), 2)).wrong(), []);
    assert_eq!(each(&|made| _ = made.limit(task("other"), 2)).wrong(), [(Rule::Limit, Some(2))]);
    // A pause that is over says nothing.
    assert_eq!(
        each(&|made| _ = made.pause(task("a"), Some(SECOND)).wait(2 * SECOND)).wrong(),
        [(Rule::Limit, Some(2))]
    );
}

#[test]
fn what_runs_when_a_limit_is_lowered_keeps_others_from_starting() {
    let lowered = |limit: u32, next: &dyn Fn(&mut Made)| {
        made(|made| {
            made.insert(1).insert(2).insert(3).claim(1, 1).claim(2, 1).limit(task("a"), limit);
            next(made);
        })
    };
    let waits = lowered(2, &|made| {
        end(made, 1);
        made.claim(3, 1);
        end(made, 3);
        end(made, 2);
    });
    assert_eq!(waits.wrong(), []);
    let starts = lowered(1, &|made| {
        end(made, 1);
        made.claim(3, 1);
        end(made, 3);
        end(made, 2);
    });
    assert_eq!(starts.wrong(), [(Rule::Limit, Some(3))]);
}

#[test]
fn a_limit_holds_from_the_return_of_its_call_until_it_is_lifted() {
    // Claimed while the call is under way.
    let early = made(|made| {
        made.insert(1).insert(2).claim(1, 1);
        made.limit(task("a"), 1);
        let returned = made.evidence.entries.last_mut().unwrap();
        returned.at.0 += SECOND;
        made.claim(2, 1);
        end(made, 1);
        end(made, 2);
        made.evidence.entries.sort_by_key(|entry| entry.at);
    });
    assert_eq!(early.wrong(), []);
    let lifted = made(|made| {
        made.limit(task("a"), 1).insert(1).insert(2).claim(1, 1).set(task("a"), None).claim(2, 1);
        end(made, 1);
        end(made, 2);
    });
    assert_eq!(lifted.wrong(), []);
}

#[test]
fn a_job_whose_end_is_not_committed_runs() {
    let ended = |is_seen: bool, same: bool| {
        made(|made| {
            made.limit(task("a"), 1).insert(1).insert(2).claim(1, 1);
            let run = made.start(1, None);
            made.finish(run, true).complete(1).claim(2, 1);
            let (end, claim) = (made.evidence.changes.len() - 2, made.evidence.changes.len() - 1);
            let xid = made.evidence.changes[end].xid;
            if !is_seen {
                made.evidence.changes[claim].snapshot = Some(Snapshot::read(&format!("1:{}:{xid}", xid + 1)).unwrap());
            }
            if same {
                made.evidence.changes[claim].xid = xid;
                made.evidence.changes.swap(end, claim);
            }
            let run = made.start(2, None);
            made.finish(run, true).complete(2);
        })
    };
    assert_eq!(ended(true, false).wrong(), []);
    assert_eq!(ended(false, false).wrong(), [(Rule::Limit, Some(2))]);
    // The end of one and the claim of the next in one transaction, whichever is written first.
    assert_eq!(ended(false, true).wrong(), []);
}

#[test]
fn tenants_and_queues_have_limits_too_and_a_queue_without_one_runs_a_job_at_a_time() {
    let two = |row: &Row, limit: Option<(Gate, u32)>| {
        let row = row.clone();
        made(move |made| {
            limit.into_iter().for_each(|(gate, limit)| _ = made.limit(gate, limit));
            for job in [1, 2] {
                let run_at = Micros(made.clock);
                made.insert_as(job, Row { n: Some(job as u64), max_attempts: 25, run_at, ..row.clone() });
            }
            at_once(made, &[1, 2]);
        })
    };
    let tenant = Row { tenant: Some("t".into()), ..Row::default() };
    assert_eq!(two(&tenant, None).wrong(), []);
    assert_eq!(two(&tenant, Some((Gate::new(GateKind::Tenant, "t"), 2))).wrong(), []);
    assert_eq!(two(&tenant, Some((Gate::new(GateKind::Tenant, "*"), 1))).wrong(), [(Rule::Limit, Some(2))]);
    let queue = Row { queue: Some("q".into()), ..Row::default() };
    assert_eq!(two(&queue, None).wrong(), [(Rule::Overlap, Some(2))]);
    assert_eq!(two(&queue, Some((Gate::new(GateKind::Queue, "q"), 2))).wrong(), []);
    assert_eq!(two(&queue, Some((Gate::new(GateKind::Queue, "q"), 1))).wrong(), [(Rule::Limit, Some(2))]);
}

#[test]
fn jobs_of_a_queue_that_one_claim_takes_together_are_in_order() {
    let together = |same: bool| {
        made(|made| {
            made.limit(Gate::new(GateKind::Queue, "q"), 2).insert_in(1, "q", 0).insert_in(2, "q", 0);
            at_once(made, &[2, 1]);
            if same {
                let xid = made.evidence.changes[2].xid;
                made.evidence.changes[3].xid = xid;
            }
        })
    };
    assert_eq!(together(true).wrong(), []);
    assert_eq!(together(false).wrong(), [(Rule::Order, Some(2))]);
}

#[test]
fn an_earlier_job_of_a_queue_may_wait_behind_a_gate_of_its_own_only() {
    let behind = |gate: Gate| {
        made(|made| {
            made.limit(gate, 5).insert_in(1, "q", 0).insert_in(2, "q", 0);
            let row = Row { task: "b".into(), ..made.row(1) };
            made.evidence.changes[0].new = Some(row.clone());
            made.evidence.rows.insert(1, row);
            made.run(2, 1).run(1, 1);
        })
    };
    assert_eq!(behind(task("b")).wrong(), []);
    assert_eq!(behind(task("c")).wrong(), [(Rule::Order, Some(2))]);
}

/// Starts jobs of the task, so long after each other.
fn paced(made: &mut Made, jobs: std::ops::RangeInclusive<i64>, pause: i64) {
    for job in jobs {
        made.insert(job).run(job, 1).wait(pause);
    }
}

fn ten_a_second(burst: u32) -> Option<Setting> {
    let rate = Some(Rate { starts: 10, per: Duration::from_secs(1), burst });
    Some(Setting { limit: Limit { max_running: None, rate }, ..Setting::default() })
}

#[test]
fn a_start_for_which_there_is_no_token_is_told() {
    let kept = made(|made| {
        made.set(task("a"), ten_a_second(3));
        paced(made, 1..=3, 0);
        made.wait(SECOND / 10);
        paced(made, 4..=8, SECOND / 10);
        made.wait(SECOND);
        paced(made, 9..=11, 0);
    });
    assert_eq!(kept.wrong(), []);
    assert_eq!(kept.verdict().figures.rated, 11);
    let burst = made(|made| {
        made.set(task("a"), ten_a_second(3));
        paced(made, 1..=4, 0);
    });
    assert_eq!(burst.wrong(), [(Rule::Rate, Some(4))]);
    let paced = made(|made| {
        made.set(task("a"), ten_a_second(1));
        paced(made, 1..=2, 3 * SECOND / 40);
    });
    assert_eq!(paced.wrong(), [(Rule::Rate, Some(2))]);
}

#[test]
fn setting_the_same_rate_again_does_not_fill_the_bucket_and_another_one_may() {
    let again = |burst: u32| {
        made(|made| {
            made.set(task("a"), ten_a_second(2));
            paced(made, 1..=2, 0);
            made.set(task("a"), ten_a_second(burst));
            paced(made, 3..=3, 0);
        })
    };
    assert_eq!(again(2).wrong(), [(Rule::Rate, Some(3))]);
    assert_eq!(again(3).wrong(), []);
}

#[test]
fn a_start_in_a_pause_is_told_until_it_is_over() {
    let paused = |gate: Gate, lasts: Option<i64>, next: &dyn Fn(&mut Made)| {
        made(|made| {
            made.insert(1).pause(gate, lasts);
            next(made);
            made.run(1, 1);
        })
    };
    let all = || Gate::new(GateKind::All, "");
    for gate in [task("a"), task("*"), all()] {
        assert_eq!(paused(gate.clone(), None, &|_| ()).wrong(), [(Rule::Pause, Some(1))]);
        assert_eq!(paused(gate.clone(), Some(SECOND), &|_| ()).wrong(), [(Rule::Pause, Some(1))]);
        assert_eq!(paused(gate.clone(), Some(SECOND), &|made| _ = made.wait(SECOND)).wrong(), []);
        assert_eq!(paused(gate.clone(), None, &|made| _ = made.set(gate.clone(), None)).wrong(), []);
    }
    assert_eq!(paused(task("b"), None, &|_| ()).wrong(), []);
    // A claim that was under way may, for a second.
    let under_way = |late: i64| {
        made(|made| {
            made.insert(1);
            let began = Micros(made.clock);
            made.pause(task("a"), None).wait(late).claim(1, 1);
            made.evidence.changes[1].now = began;
            end(made, 1);
        })
    };
    assert_eq!(under_way(SECOND / 2).wrong(), []);
    assert_eq!(under_way(2 * SECOND).wrong(), [(Rule::Pause, Some(1))]);
}

#[test]
fn a_job_that_is_left_alone_though_its_gates_are_open_is_stuck() {
    let behind = |gate: Option<Setting>, wait: i64, open: i64| {
        made(|made| {
            made.insert(1).set(task("a"), gate).wait(wait).set(task("a"), None).wait(open).run(1, 1);
        })
    };
    let pause = Some(Setting { paused_at: Some(Micros(0)), ..Setting::default() });
    assert_eq!(behind(pause, 60 * SECOND, 10 * SECOND).wrong(), []);
    assert_eq!(behind(pause, 60 * SECOND, 16 * SECOND).wrong(), [(Rule::Stuck, Some(1))]);
    // A limit that nobody fills and a bucket that nobody empties are open.
    let limit = Some(Setting { limit: Limit { max_running: Some(1), rate: None }, ..Setting::default() });
    assert_eq!(behind(limit, 16 * SECOND, 0).wrong(), [(Rule::Stuck, Some(1))]);
    assert_eq!(behind(ten_a_second(1), 16 * SECOND, 0).wrong(), [(Rule::Stuck, Some(1))]);
}

#[test]
fn a_job_behind_a_full_gate_is_not_stuck_until_it_has_room() {
    let full = |after: i64| {
        made(|made| {
            made.limit(task("a"), 1).insert(1).insert(2).claim(1, 1);
            let run = made.start(1, None);
            made.wait(14 * SECOND).finish(run, true).wait(6 * SECOND).complete(1).wait(after).run(2, 1);
        })
    };
    assert_eq!(full(SECOND).wrong(), []);
    assert_eq!(full(16 * SECOND).wrong(), [(Rule::Stuck, Some(2))]);
}

#[test]
fn later_jobs_behind_the_same_gate_that_start_are_no_excuse() {
    let between = |first: i64, others: [i64; 2]| {
        made(|made| {
            made.limit(task("a"), 5);
            (1..=3).for_each(|job| _ = made.insert(job));
            for other in others {
                made.wait(9 * SECOND).run(other, 1);
            }
            made.run(first, 1);
        })
    };
    assert_eq!(between(3, [1, 2]).wrong(), []);
    assert_eq!(between(1, [2, 3]).wrong()[0], (Rule::Stuck, Some(1)));
}
