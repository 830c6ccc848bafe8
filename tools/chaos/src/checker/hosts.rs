//! Hosts: while a host's gate is closed because the host is down, and by what has closed it, no attempt is used up.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::change::{Row, What};
use super::super::history::Micros;
use super::super::operations::{Gate, GateKind};
use super::timelines::Timelines;
use super::{Evidence, Figures, Findings, Rule};

/// What a function says when it is down.
pub(crate) const DOWN: &str = "down as planned";

/// A failure is told of, and then written within this time.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);

pub(super) fn check(evidence: &Evidence, timelines: &Timelines<'_>, findings: &mut Findings, figures: &mut Figures) {
    let closed = closed(evidence);
    figures.closed = closed.values().map(Vec::len).sum();
    for (job, timeline) in &timelines.jobs {
        for (index, change) in timeline.changes.iter().enumerate() {
            let what = change.what();
            let claimed = || {
                let claim = timeline.changes[..index].iter().rev().find(|before| before.what() == What::Claimed);
                claim.map_or(change.at, |claim| claim.at)
            };
            if let (What::Returned, Some(row)) = (what, &change.new) {
                figures.returned += 1;
                // What was not written yet when the host closed is given back later, perhaps when it is open again.
                let since = claimed();
                if !spans(&closed, row).any(|(from, until)| from <= change.at && since <= until) {
                    findings.job(Rule::Unexplained, *job, "its attempt was given back, and its host was not down");
                }
            }
            let (What::Failed, Some(row), Some(held)) = (what, &change.new, &change.old) else { continue };
            if row.attempts < held.attempts || !row.error.as_deref().is_some_and(|error| error.contains(DOWN)) {
                continue;
            }
            let since = claimed();
            let has_closed_it = evidence
                .closing
                .iter()
                .any(|closing| (closing.job, closing.attempt) == (*job, held.attempts) && closing.at >= since);
            // What was told of just before, and is not among what closed it, counts: a request has succeeded since.
            let was_closed = spans(&closed, row).any(|(from, until)| {
                (from..=until).contains(&change.at) && (from <= since || from.plus(WRITTEN_WITHIN) < change.at)
            });
            if !has_closed_it && !was_closed {
                continue;
            }
            // What closed it, and was written before or at the same time, is given back.
            let next = timeline.changes[index + 1..].iter().map(|next| next.what()).find(|what| *what != What::Placed);
            let excused = matches!(next, Some(What::Returned | What::Operated | What::Replaced));
            if !excused {
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

/// From when until when the job's host was closed.
fn spans<'a>(
    closed: &'a BTreeMap<&Gate, Vec<(Micros, Micros)>>,
    row: &Row,
) -> impl Iterator<Item = (Micros, Micros)> + use<'a> {
    let gate = row.host.as_ref().map(|host| Gate::new(GateKind::Host, host));
    gate.and_then(|gate| closed.get(&gate)).into_iter().flatten().copied()
}
