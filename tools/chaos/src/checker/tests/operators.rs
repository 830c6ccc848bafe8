//! Histories with operators' calls on many jobs and with hosts that are down, and each way in which they go wrong.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::super::change::{ClosingAttempt, GateChange, Row, Setting};
use super::super::super::history::{Answer, Entry, Micros};
use super::super::super::operations::{Act, Gate, GateKind};
use super::super::super::plan::{Kind, Service, Target};
use super::super::{DOWN, Rule};
use super::made::{Made, SECOND, made};

#[test]
fn what_becomes_of_a_job_after_its_cancellation_is_told() {
    let cancelled = |next: &dyn Fn(&mut Made)| {
        made(|made| {
            made.insert(1).insert(2).claim(1, 1);
            let run = made.start(1, None);
            made.call(Act::Cancel { jobs: 2 }, some(&[1, 2]), |made| _ = made.complete(1).complete(2));
            // Its callback comes, and is stale.
            made.finish(run, true);
            next(made);
        })
    };
    let good = cancelled(&|_| ());
    assert_eq!(good.wrong(), []);
    assert_eq!((good.verdict().figures.cancelled, good.verdict().figures.operated), (1, 2));
    // A start that was on its way, and one that was not.
    assert_eq!(cancelled(&|made| _ = made.wait(SECOND).start(1, Some(1))).wrong(), []);
    assert_eq!(cancelled(&|made| _ = made.wait(6 * SECOND).start(1, Some(1))).wrong(), [(Rule::Cancel, Some(1))]);
    let halted = cancelled(&|made| {
        let back = made.fault(Target::Service(Service::Worker(1)), Kind::Halt);
        made.wait(6 * SECOND).event(back);
        made.start(1, Some(1));
    });
    assert_eq!(halted.wrong(), []);
    let back = cancelled(&|made| {
        let row = Row { n: Some(1), max_attempts: 25, ..Row::default() };
        made.change(1, Some(row));
        made.complete(1);
    });
    assert!(back.wrong().contains(&(Rule::Cancel, Some(1))), "{:?}", back.wrong());
    // One that had failed for good is left alone.
    let failed = made(|made| {
        made.insert(1).claim(1, 1);
        let row = made.free(1);
        made.change(1, Some(Row { attempts: row.max_attempts, run_at: Micros(0), error: Some("no".into()), ..row }));
        made.call(Act::Cancel { jobs: 1 }, some(&[1]), |made| _ = made.complete(1));
    });
    assert_eq!(failed.wrong(), [(Rule::Operator, Some(1))]);
}

#[test]
fn an_attempt_that_is_used_up_by_a_closed_host_is_told() {
    let host = || Gate::new(GateKind::Host, "h");
    let closed = |next: &dyn Fn(&mut Made)| {
        made(|made| {
            let row = Row { n: Some(1), max_attempts: 25, task: "a".into(), host: Some("h".into()), ..Row::default() };
            made.insert_as(1, row);
            made.claim(1, 1);
            next(made);
            made.wait(3 * SECOND).run(1, 1);
        })
    };
    let close = |made: &mut Made, new: Option<Setting>| {
        let at = made.tick();
        made.evidence.gates.push(GateChange { at, gate: host(), call: None, new });
    };
    let shut = |made: &Made| {
        Some(Setting { closed_until: Some(Micros(made.clock + SECOND)), probed: true, ..Setting::default() })
    };
    let down = |made: &mut Made, close_first: bool, given_back: bool| {
        let setting = shut(made);
        if close_first {
            close(made, setting);
        }
        made.fail(1, DOWN);
        if !close_first {
            close(made, setting);
        }
        if given_back {
            let row = made.row(1);
            made.change(1, Some(Row { attempts: row.attempts - 1, ..row }));
        }
        made.wait(SECOND);
        close(made, None);
    };
    // Counted before it was closed; a later one is given back.
    assert_eq!(closed(&|made| down(made, false, false)).wrong(), []);
    let back = closed(&|made| down(made, true, true));
    assert_eq!(back.wrong(), []);
    assert_eq!((back.verdict().figures.closed, back.verdict().figures.returned), (1, 1));
    let late = closed(&|made| {
        let setting = shut(made);
        close(made, setting);
        made.wait(2 * SECOND);
        down(made, true, false);
    });
    assert_eq!(late.wrong(), [(Rule::Host, Some(1))], "it failed while the host was closed");
    // Before, and it is one of those that closed it; or it is none of them.
    let before = |closing: bool| {
        closed(&|made| {
            if closing {
                made.evidence.closing.push(ClosingAttempt { job: 1, attempt: 1, at: Micros(made.clock) });
            }
            down(made, true, false);
        })
    };
    assert_eq!(before(true).wrong(), [(Rule::Host, Some(1))]);
    assert_eq!(before(false).wrong(), []);
    // Its outcome was written when another worker had opened the host already.
    let late = closed(&|made| {
        let setting = shut(made);
        close(made, setting);
        close(made, None);
        made.fail(1, DOWN);
        let row = made.row(1);
        made.change(1, Some(Row { attempts: row.attempts - 1, ..row }));
    });
    assert_eq!(late.wrong(), []);
    let for_nothing = closed(&|made| {
        made.fail(1, DOWN);
        let row = made.row(1);
        made.change(1, Some(Row { attempts: row.attempts - 1, ..row }));
    });
    assert_eq!(for_nothing.wrong(), [(Rule::Unexplained, Some(1))]);
    // Another failure counts, and nobody starts a job while it is closed.
    let other = closed(&|made| {
        let setting = shut(made);
        close(made, setting);
        made.fail(1, "no").wait(SECOND);
        close(made, None);
    });
    assert_eq!(other.wrong(), []);
    let started = closed(&|made| {
        let closed_until = Some(Micros(made.clock + 60 * SECOND));
        close(made, Some(Setting { closed_until, ..Setting::default() }));
        made.release(1).wait(2 * SECOND);
    });
    assert_eq!(started.wrong(), [(Rule::Pause, Some(1))]);
}

#[test]
fn what_a_call_held_that_was_lost_is_not_out_of_turn() {
    let during = |answer: Answer| {
        made(|made| {
            made.insert_in(1, "q", 0).insert_in(2, "q", 0);
            made.call(Act::Cancel { jobs: 1 }, answer, |made| made.call = None);
            let returned = made.evidence.entries.pop().unwrap();
            made.run(2, 1).run(1, 1);
            let at = made.tick();
            made.evidence.entries.push(Entry { at, ..returned });
        })
    };
    assert_eq!(during(Answer::Unknown).wrong(), []);
    assert_eq!(during(some(&[])).wrong(), [(Rule::Order, Some(2))]);
}

fn some(jobs: &[i64]) -> Answer {
    Answer::Changed(BTreeSet::from_iter(jobs.iter().copied()))
}

#[test]
fn what_operators_do_with_jobs_that_wait_is_as_it_should_be() {
    let made = made(|made| {
        (1..=3).for_each(|job| _ = made.insert(job));
        let later = |made: &Made, job| Row { run_at: Micros(made.clock + SECOND), priority: 1, ..made.row(job) };
        let act = Act::Reschedule { jobs: 3, after: Duration::from_secs(1), priority: Some(1), attempts: None };
        made.call(act, some(&[1, 2]), |made| {
            made.change(1, Some(later(made, 1)));
            made.change(2, Some(later(made, 2)));
        });
        made.call(Act::Complete { jobs: 1 }, some(&[1]), |made| _ = made.complete(1));
        made.call(Act::Fail { jobs: 1 }, some(&[3]), |made| {
            let row = made.row(3);
            made.change(3, Some(Row { attempts: row.max_attempts, error: Some("no".into()), ..row }));
        });
        made.call(Act::Fail { jobs: 1 }, some(&[3]), |made| {
            let row = made.row(3);
            made.change(3, Some(row));
        });
        made.wait(SECOND).run(2, 1);
    });
    assert_eq!(made.wrong(), []);
    assert_eq!(made.verdict().figures.operated, 5);
}

#[test]
fn a_call_that_changes_what_runs_or_something_else_or_does_not_tell_is_told() {
    let running = made(|made| {
        made.insert(1).claim(1, 1);
        let run = made.start(1, None);
        made.finish(run, true);
        made.call(Act::Complete { jobs: 1 }, some(&[1]), |made| _ = made.complete(1));
    });
    assert_eq!(running.wrong(), [(Rule::Operator, Some(1))]);
    let call = |act: Act, answer: Answer, row: Row| {
        made(move |made| {
            made.insert(1);
            let row = Row { n: Some(1), max_attempts: 25, task: "a".into(), ..row };
            made.call(act, answer, |made| made.change(1, Some(row))).run(1, 1);
        })
    };
    let later = Row { run_at: Micros(SECOND / 2), ..Row::default() };
    let reschedule = |priority| Act::Reschedule { jobs: 1, after: Duration::ZERO, priority, attempts: None };
    assert_eq!(call(reschedule(None), some(&[1]), later.clone()).wrong(), []);
    assert_eq!(call(reschedule(None), Answer::Unknown, later.clone()).wrong(), []);
    let wrong = [(Rule::Operator, Some(1))];
    assert_eq!(call(reschedule(Some(3)), some(&[1]), later.clone()).wrong(), wrong);
    assert_eq!(call(Act::Fail { jobs: 1 }, some(&[1]), later.clone()).wrong(), wrong);
    assert_eq!(call(Act::Complete { jobs: 1 }, some(&[1]), later.clone()).wrong(), wrong);
    assert_eq!(call(Act::Resume { gate: Gate::new(GateKind::Task, "a") }, Answer::Done, later.clone()).wrong(), wrong);
    assert_eq!(call(reschedule(None), some(&[]), later).wrong(), wrong);
    let untrue = made(|made| _ = made.insert(1).call(reschedule(None), some(&[1]), |_| ()).run(1, 1));
    assert_eq!(untrue.wrong(), wrong);
    let refused = made(|made| {
        made.insert(1).call(reschedule(None), Answer::Refused("deadlock".into()), |_| ()).run(1, 1);
    });
    assert_eq!(refused.wrong(), [(Rule::Operator, None)]);
}
