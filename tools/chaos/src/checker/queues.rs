//! Named queues: jobs start in the order of priority, run_at and id. How many run at once is a limit.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::change::{Change, Row, What};
use super::super::history::{Answer, Event, Micros};
use super::gates::Gates;
use super::{Evidence, Figures, Findings, Rule};

pub(super) fn check(evidence: &Evidence, gates: &Gates, findings: &mut Findings, figures: &mut Figures) {
    let mut queues: BTreeMap<&str, Vec<&Change>> = BTreeMap::new();
    for change in &evidence.changes {
        if let Some(queue) = change.row().and_then(|row| row.queue.as_deref()) {
            queues.entry(queue).or_default().push(change);
        }
    }
    let (lost, unplaced) = (lost_calls(evidence), unplaced(evidence));
    for (queue, changes) in queues {
        let times = Times { lost: &lost, unplaced: &unplaced };
        orders(queue, &changes, gates, &times, findings, figures);
    }
}

/// From when until when.
type Span = (Micros, Micros);

/// When an order cannot be told, or is not promised.
struct Times<'a> {
    lost: &'a [Span],
    unplaced: &'a [Unplaced],
}

/// Whether a claim was under way in one of these times.
fn meets(spans: &[Span], claim: &Change) -> bool {
    spans.iter().any(|(from, until)| *from <= claim.at && claim.now <= *until)
}

/// So many jobs a claim puts in their place, those that have been due longest. docs/guarantees.md says so.
const PLACED_AT_ONCE: usize = 1000;

/// The key of a job that waits for its time.
const UNPLACED: &str = "run_at";

/// A job that was due and had not been put in its place.
struct Unplaced {
    run_at: Micros,
    from: Micros,
    until: Micros,
}

fn unplaced(evidence: &Evidence) -> Vec<Unplaced> {
    let mut last: BTreeMap<i64, &Change> = BTreeMap::new();
    let mut all = Vec::new();
    for change in &evidence.changes {
        let Some(before) = last.insert(change.job, change) else { continue };
        let Some(row) = before.new.as_ref().filter(|row| row.waits()) else { continue };
        let from = before.at.max(row.run_at);
        if before.key.as_deref() == Some(UNPLACED) && from < change.at {
            // Until then, other claims look at it still.
            let until = change.committed.map_or(change.at, |committed| committed.max(change.at));
            all.push(Unplaced { run_at: row.run_at, from, until });
        }
    }
    all
}

/// Whether a claim need not have looked at a job that waited to be put in its place.
fn is_beyond(row: &Row, claim: &Change, unplaced: &[Unplaced]) -> bool {
    let before = |other: &&Unplaced| other.run_at <= row.run_at && other.from <= claim.at && claim.now <= other.until;
    unplaced.iter().filter(before).count() > PLACED_AT_ONCE
}

/// A job that is claimed as another one of its queue is completed may pass by one that has appeared so lately, beside a
/// held snapshot. docs/guarantees.md says 2 s.
const LATELY: Duration = Duration::from_millis(2500);

/// From when until when operators' calls were under way that a loss of the connection has undone, perhaps: which jobs
/// they held meanwhile is not known, and claims passed those by.
fn lost_calls(evidence: &Evidence) -> Vec<Span> {
    let mut began: BTreeMap<usize, Micros> = BTreeMap::new();
    let mut lost = Vec::new();
    for entry in &evidence.entries {
        match &entry.event {
            Event::CallBegan { call, act } if !act.sets_gate() => _ = began.insert(*call, entry.at),
            Event::CallEnded { call, answer: Answer::Unknown } => {
                lost.extend(began.remove(call).map(|from| (from, entry.at)));
            }
            _ => {}
        }
    }
    lost
}

/// What was known of a job when another was claimed.
struct Seen<'a> {
    row: Option<&'a Row>,
    /// Whether that was so before the claim began.
    is_old: bool,
    /// Whether it waited to be put in its place.
    unplaced: bool,
}

fn orders(
    queue: &str,
    changes: &[&Change],
    gates: &Gates,
    times: &Times<'_>,
    findings: &mut Findings,
    figures: &mut Figures,
) {
    for (index, claim) in changes.iter().enumerate() {
        if meets(times.lost, claim) {
            continue;
        }
        let (Some(snapshot), Some(claimed), What::Claimed) = (&claim.snapshot, &claim.old, claim.what()) else {
            continue;
        };
        figures.ordered += 1;
        let follows = |change: &&Change| change.xid == claim.xid && change.what() == What::Completed;
        let until = if changes[..index].iter().any(follows) { claim.now.minus(LATELY) } else { claim.now };
        // Each job as the claim could see it. What it could not see was not committed yet, and is nobody's fault.
        let mut seen: BTreeMap<i64, Seen<'_>> = BTreeMap::new();
        for change in changes[..index].iter().filter(|change| snapshot.sees(change.xid)) {
            // The snapshot is that of the claim's end: what was committed after its beginning it may have missed.
            let is_old = change.committed.is_none_or(|committed| committed <= until);
            let unplaced = change.key.as_deref() == Some(UNPLACED);
            seen.insert(change.job, Seen { row: change.new.as_ref(), is_old, unplaced });
        }
        // What others were changing, it passed by; and the others that it took start with it.
        let taken = |change: &&&Change| change.xid == claim.xid || !snapshot.sees(change.xid) && change.now <= claim.at;
        let passed: BTreeSet<i64> = changes.iter().filter(taken).map(|change| change.job).collect();
        let due = |row: &Row| row.waits() && row.run_at <= until;
        let earlier = seen
            .into_iter()
            .filter(|(job, seen)| seen.is_old && !passed.contains(job))
            .filter_map(|(job, seen)| Some((job, seen.row?, seen.unplaced)))
            .filter(|(job, row, _)| *job != claim.job && due(row) && row.order(*job) < claimed.order(claim.job))
            .filter(|(_, row, _)| may_start(row, claimed, claim, gates))
            .filter(|(_, row, unplaced)| !(*unplaced && is_beyond(row, claim, times.unplaced)))
            .min_by_key(|(job, row, _)| row.order(*job));
        if let Some((earlier, row, _)) = earlier {
            let text =
                format!("claimed in {queue} before job {earlier}, which was due and has priority {}", row.priority);
            findings.job(Rule::Order, claim.job, text);
        }
    }
}

/// Whether nothing can have held an earlier job back but what let the claimed one pass.
fn may_start(earlier: &Row, claimed: &Row, claim: &Change, gates: &Gates) -> bool {
    let passed = claimed.gates();
    earlier.gates().iter().all(|gate| passed.contains(gate) || !gates.is_set(gate, claim.now, claim.at))
}
