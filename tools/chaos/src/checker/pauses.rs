//! Pauses: once `pause` has returned, no claim that begins starts a job, until the pause is over. A claim that was
//! under way may, for a second. A host that has closed itself is as if it were paused.

use std::time::Duration;

use super::super::change::{Change, Row};
use super::super::history::Micros;
use super::gates::Gates;
use super::{Evidence, Findings, Rule};

/// When a pause has its effect at the latest.
const EFFECT: Duration = Duration::from_secs(1);

pub(super) fn check(evidence: &Evidence, gates: &Gates, findings: &mut Findings) {
    for claim in evidence.changes.iter().filter(|change| change.is_claim()) {
        let known = known_to(claim);
        let passed = claim.row().map(Row::gates).unwrap_or_default();
        for gate in passed.iter().filter(|gate| gates.is_shut(gate, known, claim.at, claim.now)) {
            findings.job(Rule::Pause, claim.job, format!("claimed while {gate} was paused, or closed"));
        }
    }
}

/// What was promised by then, the claim had to know.
fn known_to(claim: &Change) -> Micros {
    claim.now.max(claim.at.minus(EFFECT))
}
