//! Operators' calls on many jobs: they change no job that runs unless they cancel it, only in the way that was asked
//! for, and say which ones they have changed. No call of an operator is refused.

use std::collections::{BTreeMap, BTreeSet};

use super::super::change::Change;
use super::super::history::{Answer, Event};
use super::super::operations::Act;
use super::{Evidence, Figures, Findings, Rule};

pub(super) fn check(evidence: &Evidence, findings: &mut Findings, figures: &mut Figures) {
    let mut acts: BTreeMap<usize, &Act> = BTreeMap::new();
    for entry in &evidence.entries {
        match &entry.event {
            Event::CallBegan { call, act } => _ = acts.insert(*call, act),
            Event::CallEnded { call, answer: Answer::Refused(error) } => {
                findings.other(Rule::Operator, format!("call {call} was refused: {error}"));
            }
            _ => {}
        }
    }
    let mut changed: BTreeMap<usize, BTreeSet<i64>> = BTreeMap::new();
    for change in &evidence.changes {
        let Some(call) = change.call else { continue };
        let act = acts.get(&call).copied();
        // What is set for gates gives jobs other places, which nobody sees.
        if act.is_none_or(|act| !act.sets_gate()) {
            changed.entry(call).or_default().insert(change.job);
            figures.operated += 1;
        }
        if let Some(fault) = fault(act, change) {
            findings.job(Rule::Operator, change.job, format!("call {call} {fault}: {change}"));
        }
    }
    for entry in &evidence.entries {
        let Event::CallEnded { call, answer: Answer::Changed(told) } = &entry.event else { continue };
        let none = BTreeSet::new();
        for job in told.symmetric_difference(changed.get(call).unwrap_or(&none)) {
            let text = if told.contains(job) { "was told to be changed, and was not" } else { "was changed untold" };
            findings.job(Rule::Operator, *job, format!("it {text} by call {call}"));
        }
    }
}

/// What is wrong with a change by a call.
fn fault(act: Option<&Act>, change: &Change) -> Option<&'static str> {
    let (old, new) = (change.old.as_ref(), change.new.as_ref());
    match act {
        None => Some("is none that was made"),
        Some(act) if act.sets_gate() => (old != new).then_some("sets a gate, and has changed a job"),
        Some(Act::Cancel { .. }) if old.is_some_and(|old| old.is_exhausted()) => {
            Some("has changed a job that had failed")
        }
        Some(Act::Cancel { .. }) => new.is_some().then_some("has not removed the job"),
        Some(_) if old.is_some_and(|old| old.is_held()) => Some("has changed a job that ran"),
        Some(Act::Complete { .. }) => new.is_some().then_some("has not removed the job"),
        Some(Act::Fail { .. }) => (!new.is_some_and(|new| new.is_exhausted())).then_some("has not failed the job"),
        Some(Act::Reschedule { priority, attempts, .. }) => {
            let is_so = new.is_some_and(|new| {
                priority.is_none_or(|priority| new.priority == priority)
                    && attempts.is_none_or(|attempts| new.attempts == attempts)
                    && !new.is_held()
            });
            (!is_so).then_some("has not changed the job as asked")
        }
        Some(_) => Some("changes no jobs"),
    }
}
