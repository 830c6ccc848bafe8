//! Rescues: a job is taken from a worker only when that worker can have been silent for a lease, or its lock is too
//! old.

use super::super::change::What;
use super::super::history::Micros;
use super::super::plan::{Link, Service, Target, WORKERS};
use super::timelines::{Claim, End, Timelines};
use super::{Figures, Findings, Rule, Terms};

/// The id that a worker goes by (HOSTNAME).
pub(crate) fn worker_id(index: usize) -> String {
    format!("chaos-worker-{index}")
}

pub(super) fn check(timelines: &Timelines<'_>, terms: &Terms, findings: &mut Findings, figures: &mut Figures) {
    let mut times = Vec::new();
    for (job, timeline) in &timelines.jobs {
        for claim in &timeline.claims {
            let Some(end) = claim.end.as_ref().filter(|end| matches!(end.what, What::Rescued | What::Reclaimed)) else {
                continue;
            };
            let silence = silence(timelines, terms, claim, end);
            let expired = end.what == What::Reclaimed && end.at.since(claim.locked_at) >= terms.expiry;
            if silence.is_none() && !expired {
                let held = end.at.since(claim.at);
                findings.job(
                    Rule::Robbed,
                    *job,
                    format!("taken from {} after {held:?}, which was alive", claim.worker),
                );
            }
            // Whoever has taken it starts it.
            if let (Some(silent), Some(run)) = (silence, timeline.runs.iter().find(|run| run.at > end.at)) {
                times.push(run.at.since(silent.max(claim.at)));
            }
        }
    }
    times.sort_unstable();
    figures.restarted = (times.get(times.len() / 2).copied(), times.last().copied());
}

/// Since when the worker that held a job can have been silent when it was taken.
fn silence(timelines: &Timelines<'_>, terms: &Terms, claim: &Claim, end: &End) -> Option<Micros> {
    let service = (1..=WORKERS).find(|index| worker_id(*index) == claim.worker).map(Service::Worker);
    let targets = service.map(|service| [Target::Service(service), Target::Link(Link::Database(service))]);
    let concerns = |target: Target| target == Target::Postgres || targets.is_some_and(|own| own.contains(&target));
    // Its last sign of life may have been just before the claim.
    let from = claim.at.minus(terms.lease);
    let faults = timelines.disturbances.iter().filter(|fault| fault.from <= end.at && fault.until >= from);
    faults.filter(|fault| concerns(fault.target)).map(|fault| fault.from).min()
}
