//! Hosts: while a host's gate is closed because the host is down, and by what has closed it, no attempt is used up.

use std::collections::BTreeMap;

use super::super::change::{Row, What};
use super::super::history::Micros;
use super::super::operations::{Gate, GateKind};
use super::timelines::Timelines;
use super::{Evidence, Figures, Findings, Rule};

/// What a function says when it is down.
pub(crate) const DOWN: &str = "down as planned";

pub(super) fn check(evidence: &Evidence, timelines: &Timelines<'_>, findings: &mut Findings, figures: &mut Figures) {
    let closed = closed(evidence);
    figures.closed = closed.values().map(Vec::len).sum();
    for (job, timeline) in &timelines.jobs {
        for (index, change) in timeline.changes.iter().enumerate() {
            let what = change.what();
            if let (What::Returned, Some(row)) = (what, &change.new) {
                figures.returned += 1;
                // What was not written yet when the host closed is given back later, perhaps when it is open again.
                let claimed = timeline.changes[..index].iter().rev().find(|before| before.what() == What::Claimed);
                if !was_closed(&closed, row, claimed.map_or(change.at, |claim| claim.at), change.at) {
                    findings.job(Rule::Unexplained, *job, "its attempt was given back, and its host was not down");
                }
            }
            let Some(row) = change.new.as_ref().filter(|_| what == What::Failed) else { continue };
            if !row.error.as_deref().is_some_and(|error| error.contains(DOWN))
                || !was_closed(&closed, row, change.at, change.at)
            {
                continue;
            }
            let counted = change.old.as_ref().is_some_and(|old| row.attempts >= old.attempts);
            // Those that were stored before the gate was closed, or at the same time, are given back.
            let next = timeline.changes[index + 1..].iter().map(|next| next.what()).find(|what| *what != What::Placed);
            let excused = matches!(next, Some(What::Returned | What::Operated | What::Replaced));
            if counted && !excused {
                let text =
                    format!("attempt {} of {} counts, although its host was closed", row.attempts, row.max_attempts);
                findings.job(Rule::Host, *job, text);
            }
        }
    }
}

/// From when until when each host was closed as it was down.
fn closed(evidence: &Evidence) -> BTreeMap<&Gate, Vec<(Micros, Micros)>> {
    let mut spans: BTreeMap<&Gate, Vec<(Micros, Micros)>> = BTreeMap::new();
    for change in evidence.gates.iter().filter(|change| change.gate.kind == GateKind::Host) {
        let spans = spans.entry(&change.gate).or_default();
        let probed = change.new.is_some_and(|setting| setting.probed);
        let open = spans.last_mut().filter(|(_, until)| *until == Micros(i64::MAX));
        match open {
            Some((_, until)) if !probed => *until = change.at,
            None if probed => spans.push((change.at, Micros(i64::MAX))),
            _ => {}
        }
    }
    spans
}

/// Whether the job's host was closed at any time from the first to the last of these.
fn was_closed(closed: &BTreeMap<&Gate, Vec<(Micros, Micros)>>, row: &Row, first: Micros, last: Micros) -> bool {
    let gate = row.host.as_ref().map(|host| Gate::new(GateKind::Host, host));
    let spans = gate.as_ref().and_then(|gate| closed.get(gate));
    spans.is_some_and(|spans| spans.iter().any(|(from, until)| *from <= last && first <= *until))
}
