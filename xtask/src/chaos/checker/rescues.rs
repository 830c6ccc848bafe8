//! Rescues: a job is taken from a worker only when that worker can have been silent for a lease, or its lock is too old.

use super::super::change::What;
use super::super::plan::{Link, Service, Target, WORKERS};
use super::lives::Lives;
use super::{Findings, Rule, Terms};

/// The id that a worker goes by (HOSTNAME).
pub(crate) fn worker_id(index: usize) -> String {
    format!("chaos-worker-{index}")
}

pub(super) fn check(lives: &Lives<'_>, terms: &Terms, findings: &mut Findings) {
    for (job, life) in &lives.jobs {
        for claim in &life.claims {
            let Some(end) = &claim.end else { continue };
            let silent = match end.what {
                What::Rescued => {
                    let service = (1..=WORKERS).find(|index| worker_id(*index) == claim.worker).map(Service::Worker);
                    let targets =
                        service.map(|service| [Target::Service(service), Target::Link(Link::Database(service))]);
                    // Its last sign of life may have been just before the claim.
                    lives.disturbed(claim.at.minus(terms.lease), end.at, |fault| {
                        fault.target == Target::Postgres
                            || targets.is_some_and(|targets| targets.contains(&fault.target))
                    })
                }
                What::Reclaimed => end.at.since(claim.locked_at) >= terms.expiry,
                _ => true,
            };
            if !silent {
                let held = end.at.since(claim.at);
                findings.job(
                    Rule::Robbed,
                    *job,
                    format!("taken from {} after {held:?}, which was alive", claim.worker),
                );
            }
        }
    }
}
