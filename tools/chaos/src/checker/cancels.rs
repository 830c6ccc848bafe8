//! Cancels: a cancelled job is gone. Nothing becomes of it afterwards, and its worker, which is told at once, does not
//! start it any more.

use std::time::Duration;

use super::super::change::{Change, What};
use super::super::history::Event;
use super::super::operations::Act;
use super::super::plan::{Link, Service, Target, WORKERS};
use super::rescues::worker_id;
use super::timelines::{Run, Timelines};
use super::{Evidence, Figures, Findings, Rule};

/// A worker knows within two seconds. What it has sent by then takes its time to be told, on a busy machine.
const KNOWN: Duration = Duration::from_secs(5);

pub(super) fn check(evidence: &Evidence, timelines: &Timelines<'_>, findings: &mut Findings, figures: &mut Figures) {
    let cancels = evidence.entries.iter().filter_map(|entry| match entry.event {
        Event::CallBegan { call, act: Act::Cancel { .. } } => Some(call),
        _ => None,
    });
    let cancels: Vec<usize> = cancels.collect();
    let is_cancel =
        |change: &&&Change| change.what() == What::Operated && change.call.is_some_and(|call| cancels.contains(&call));
    for (job, timeline) in &timelines.jobs {
        let Some(cancel) = timeline.changes.iter().find(is_cancel) else { continue };
        figures.cancelled += usize::from(cancel.old.as_ref().is_some_and(|old| old.is_held()));
        if let Some(after) = timeline.changes.iter().find(|change| change.seq > cancel.seq) {
            findings.job(Rule::Cancel, *job, format!("{after}"));
        }
        let told = cancel.committed.unwrap_or(cancel.at).plus(KNOWN);
        for run in timeline.runs.iter().filter(|run| run.at > told) {
            // A worker that was cut off, or its request, knows later.
            if !timelines
                .disturbed(cancel.at, run.at, |fault| fault.target == Target::Postgres || concerns(fault.target, run))
            {
                findings.job(Rule::Cancel, *job, format!("run {} was started for {}", run.run, run.worker));
            }
        }
    }
}

/// Whether a fault of the target can have held back the request of a run, or what its worker knows of it.
pub(super) fn concerns(target: Target, run: &Run) -> bool {
    let service = (1..=WORKERS).find(|index| worker_id(*index) == run.worker).map(Service::Worker);
    let function = Service::Function(run.function);
    match target {
        Target::Postgres => false,
        Target::Service(struck) => Some(struck) == service || struck == function,
        Target::Link(Link::Database(struck)) => Some(struck) == service,
        Target::Link(Link::Function(struck)) => struck == run.function,
        Target::Link(_) => false,
    }
}
