//! Schedules: each goes on firing whatever dies, and never fires while its last job has not ended.

use std::collections::BTreeMap;

use super::super::history::{Event, Micros};
use super::timelines::{Timeline, Timelines};
use super::{Evidence, Findings, Rule, Terms};

pub(super) fn check(evidence: &Evidence, timelines: &Timelines<'_>, terms: &Terms, findings: &mut Findings) {
    let mut fires: BTreeMap<u32, Vec<(i64, &Timeline<'_>)>> = BTreeMap::new();
    for (job, timeline) in &timelines.jobs {
        if let Some(schedule) = timeline.changes.first().and_then(|change| change.row()).and_then(|row| row.schedule) {
            fires.entry(schedule).or_default().push((*job, timeline));
        }
    }
    for (schedule, from, until) in schedules(evidence) {
        let mut free = from;
        let none = Vec::new();
        for (job, timeline) in fires.get(&schedule).unwrap_or(&none) {
            let Some(fired) = timeline.changes.first().map(|change| change.at) else { continue };
            if fired < free && free != from {
                let text = format!("schedule {schedule} fired while its last job had not ended");
                findings.job(Rule::Schedule, *job, text);
            }
            silence(schedule, free, fired, terms, findings);
            free = ended(timeline).unwrap_or(Micros(i64::MAX));
        }
        silence(schedule, free, until, terms, findings);
    }
}

/// A schedule's next fire, or its end, comes in time.
fn silence(schedule: u32, free: Micros, next: Micros, terms: &Terms, findings: &mut Findings) {
    let gap = next.since(free);
    if gap > terms.stuck {
        findings.other(Rule::Schedule, format!("schedule {schedule} did not fire for {:.1} s", gap.as_secs_f64()));
    }
}

/// When a job had ended for its schedule: it is gone, or all attempts are used.
fn ended(timeline: &Timeline<'_>) -> Option<Micros> {
    let over =
        |change: &&&super::Change| change.new.is_none() || change.new.as_ref().is_some_and(|row| row.is_exhausted());
    timeline.changes.iter().find(over).map(|change| change.at)
}

/// Each schedule: from when and until when it was there.
fn schedules(evidence: &Evidence) -> Vec<(u32, Micros, Micros)> {
    let mut all: BTreeMap<u32, (Micros, Micros)> = BTreeMap::new();
    for entry in &evidence.entries {
        match entry.event {
            Event::ScheduleAdded { schedule } => {
                all.insert(schedule, (entry.at, Micros(i64::MAX)));
            }
            Event::ScheduleRemoved { schedule } => {
                if let Some((_, until)) = all.get_mut(&schedule) {
                    *until = entry.at;
                }
            }
            _ => {}
        }
    }
    all.into_iter().map(|(schedule, (from, until))| (schedule, from, until)).collect()
}
