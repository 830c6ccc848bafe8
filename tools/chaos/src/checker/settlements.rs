//! Settlements: each by an outcome of the attempt that it ends.

use super::super::change::What;
use super::timelines::{Claim, End, Timeline, Timelines};
use super::{Figures, Findings, Rule};

pub(super) fn check(timelines: &Timelines<'_>, findings: &mut Findings, figures: &mut Figures) {
    for (job, timeline) in &timelines.jobs {
        for claim in &timeline.claims {
            let Some(end) = &claim.end else { continue };
            match end.what {
                What::Completed if !timeline.runs.is_empty() => completed(*job, timeline, claim, end, findings),
                What::Failed => failed(*job, timeline, claim, end, findings),
                _ => {}
            }
        }
        let settled = |claim: &&Claim| claim.end.as_ref().is_some_and(|end| end.what.is_settlement());
        let stale = timeline
            .runs
            .iter()
            .filter(|run| run.finished.is_some())
            .filter(|run| !timeline.claims.iter().filter(settled).any(|claim| claim.owns(run)));
        figures.stale += stale.count();
    }
}

/// A run of this claim ended well before.
fn completed(job: i64, timeline: &Timeline<'_>, claim: &Claim, end: &End, findings: &mut Findings) {
    let done = |at, success| success && at <= end.at;
    let mut own = timeline.runs.iter().filter(|run| claim.owns(run));
    if own.any(|run| run.finished.is_some_and(|(at, success)| done(at, success))) {
        return;
    }
    let other = timeline.runs.iter().rfind(|run| run.finished.is_some_and(|(at, success)| done(at, success)));
    let text = match other {
        Some(run) => format!("completed by the outcome of run {}, which belongs to an earlier claim", run.run),
        None => "completed, but no run of it had ended well".to_owned(),
    };
    findings.job(Rule::StaleSettle, job, format!("{text} (claim of {}, epoch {:?})", claim.worker, claim.epoch));
}

/// A failure that names its run names one of this claim. Others come from the worker: refused, timed out, no callback.
fn failed(job: i64, timeline: &Timeline<'_>, claim: &Claim, end: &End, findings: &mut Findings) {
    let Some(named) = end.error.as_deref().and_then(run_of) else { return };
    let Some(run) = timeline.runs.iter().find(|run| run.run == named) else {
        findings.job(Rule::StaleSettle, job, format!("failed by the outcome of run {named}, which is another job's"));
        return;
    };
    if !claim.owns(run) {
        let text = format!("failed by the outcome of run {named}, which belongs to an earlier claim");
        findings.job(Rule::StaleSettle, job, format!("{text} (claim of {}, epoch {:?})", claim.worker, claim.epoch));
    }
}

/// The message of a run that fails.
pub(crate) fn failure_of(run: u64) -> String {
    format!("run {run} failed as planned")
}

fn run_of(error: &str) -> Option<u64> {
    let (_, rest) = error.split_once("run ")?;
    rest.split_once(" failed as planned")?.0.parse().ok()
}
