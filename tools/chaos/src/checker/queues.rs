//! Named queues: one job at a time, in the order of priority, run_at and id.

use std::collections::BTreeMap;

use super::super::change::{Change, Row, What};
use super::super::history::Micros;
use super::{Evidence, Figures, Findings, Rule, Terms};

pub(super) fn check(evidence: &Evidence, terms: &Terms, findings: &mut Findings, figures: &mut Figures) {
    let mut queues: BTreeMap<&str, Vec<&Change>> = BTreeMap::new();
    for change in &evidence.changes {
        if let Some(queue) = change.row().and_then(|row| row.queue.as_deref()) {
            queues.entry(queue).or_default().push(change);
        }
    }
    for (queue, changes) in queues {
        overlaps(queue, &changes, terms, findings);
        orders(queue, &changes, findings, figures);
    }
}

fn overlaps(queue: &str, changes: &[&Change], terms: &Terms, findings: &mut Findings) {
    let mut running: Option<(i64, Micros)> = None;
    for change in changes {
        match change.what() {
            What::Claimed | What::Reclaimed => {
                if let Some((other, since)) = running
                    && other != change.job
                    && change.now.since(since) < terms.expiry
                {
                    findings.job(
                        Rule::Overlap,
                        change.job,
                        format!("claimed in {queue} while job {other} was running"),
                    );
                }
                let locked_at = change.new.as_ref().and_then(|row| row.locked_at);
                running = Some((change.job, locked_at.unwrap_or(change.at)));
            }
            What::Completed | What::Failed | What::Released | What::Rescued => {
                running = running.filter(|(job, _)| *job != change.job);
            }
            _ => {}
        }
    }
}

fn orders(queue: &str, changes: &[&Change], findings: &mut Findings, figures: &mut Figures) {
    for (index, claim) in changes.iter().enumerate() {
        let (Some(snapshot), Some(claimed), What::Claimed) = (&claim.snapshot, &claim.old, claim.what()) else {
            continue;
        };
        figures.ordered += 1;
        // Each job as the claim could see it. What it could not see was not committed yet, and is nobody's fault.
        let mut seen: BTreeMap<i64, Option<&Row>> = BTreeMap::new();
        for change in changes[..index].iter().filter(|change| snapshot.sees(change.xid)) {
            seen.insert(change.job, change.new.as_ref());
        }
        let due = |row: &Row| row.waits() && row.run_at <= claim.now;
        let earlier = seen
            .into_iter()
            .filter_map(|(job, row)| Some((job, row?)))
            .filter(|(job, row)| *job != claim.job && due(row) && row.order(*job) < claimed.order(claim.job))
            .min_by_key(|(job, row)| row.order(*job));
        if let Some((earlier, row)) = earlier {
            let text =
                format!("claimed in {queue} before job {earlier}, which was due and has priority {}", row.priority);
            findings.job(Rule::Order, claim.job, text);
        }
    }
}
