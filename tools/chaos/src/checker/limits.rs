//! Limits: no job starts while as many of its queue, task or tenant run as may. A job runs from its claim to the end of
//! it, also while a function that has accepted it works.
//!
//! What runs is counted as the database had it: a job whose end was not yet committed when another was claimed ran
//! beside it. Jobs that ran when a limit was lowered keep others from starting, and are no violation.

use std::collections::{BTreeMap, BTreeSet};

use super::super::change::{Change, Row};
use super::super::history::Micros;
use super::super::operations::{Gate, GateKind};
use super::gates::{Gates, merged};
use super::{Evidence, Figures, Findings, Rule, Terms};

pub(super) fn check(evidence: &Evidence, gates: &Gates, terms: &Terms, findings: &mut Findings, figures: &mut Figures) {
    for (gate, changes) in by_gate(evidence, gates) {
        let mut running = Running::of(&changes, terms);
        for change in &changes {
            running.follow(change);
            let Some(most) = change.is_claim().then(|| gates.most_running(&gate, change.at, change.now)).flatten()
            else {
                continue;
            };
            let others = running.beside(change);
            let count = others.len() + 1;
            if gates.is_set(&gate, change.at, change.at) {
                figures.limited += 1;
                figures.filled += usize::from(count == most as usize);
            }
            if count > most as usize {
                let names: Vec<String> = others.iter().take(5).map(i64::to_string).collect();
                let names = names.join(", ");
                let own = gate.kind == GateKind::Queue && !gates.is_set(&gate, change.at, change.at);
                let (rule, text) = if own {
                    (Rule::Overlap, format!("claimed in {gate} while {names} ran"))
                } else {
                    (Rule::Limit, format!("claimed as the {count}th of {gate}, beside {names}; the limit was {most}"))
                };
                findings.job(rule, change.job, text);
            }
        }
    }
}

/// The changes of the jobs of each gate, in order.
pub(super) fn by_gate<'a>(evidence: &'a Evidence, gates: &Gates) -> BTreeMap<Gate, Vec<&'a Change>> {
    let rows = evidence.changes.iter().filter_map(Change::row);
    let mut all: BTreeMap<Gate, Vec<&Change>> =
        gates.of_rows(rows).into_iter().map(|gate| (gate, Vec::new())).collect();
    for change in &evidence.changes {
        for gate in change.row().map(Row::gates).unwrap_or_default() {
            if let Some(changes) = all.get_mut(&gate) {
                changes.push(change);
            }
        }
    }
    all
}

/// From when until when each gate was full, or may have been: a claim that counts what runs sees no end that is not
/// committed.
pub(super) fn full(gate: &Gate, changes: &[&Change], gates: &Gates, terms: &Terms) -> Vec<(Micros, Micros)> {
    let mut moments: Vec<(Micros, Option<&Change>)> = gates.moments(gate).into_iter().map(|at| (at, None)).collect();
    moments.extend(changes.iter().map(|change| {
        let is_end = !change.new.as_ref().is_some_and(Row::is_held);
        (if is_end { change.committed.unwrap_or(change.at) } else { change.at }, Some(*change))
    }));
    moments.sort_by_key(|(at, _)| *at);
    let mut running: BTreeMap<i64, Micros> = BTreeMap::new();
    let mut spans = Vec::new();
    let mut since: Option<Micros> = None;
    for (at, change) in moments {
        if let Some(change) = change {
            match change.new.as_ref().and_then(|row| row.locked_at) {
                Some(locked_at) => _ = running.insert(change.job, locked_at),
                None => _ = running.remove(&change.job),
            }
        }
        let live = running.values().filter(|locked_at| at.since(**locked_at) < terms.expiry).count();
        let is_full = gates.fewest_running(gate, at).is_some_and(|most| live >= most as usize);
        match (since, is_full) {
            (None, true) => since = Some(at),
            (Some(from), false) => {
                spans.push((from, at));
                since = None;
            }
            _ => {}
        }
    }
    spans.extend(since.map(|from| (from, Micros(i64::MAX))));
    merged(spans)
}

/// What runs behind a gate.
struct Running<'a> {
    terms: &'a Terms,
    /// The jobs that are held, and since when.
    held: BTreeMap<i64, Micros>,
    /// Ends of jobs: when the claim began, and the transaction that ended it.
    ended: Vec<(i64, Micros, u64)>,
    /// The jobs that each transaction ends.
    ends: BTreeMap<u64, BTreeSet<i64>>,
}

impl<'a> Running<'a> {
    fn of(changes: &[&Change], terms: &'a Terms) -> Self {
        let mut ends: BTreeMap<u64, BTreeSet<i64>> = BTreeMap::new();
        for change in changes {
            if held_since(change.old.as_ref()).is_some() && held_since(change.new.as_ref()).is_none() {
                ends.entry(change.xid).or_default().insert(change.job);
            }
        }
        Self { terms, held: BTreeMap::new(), ended: Vec::new(), ends }
    }

    fn follow(&mut self, change: &Change) {
        match held_since(change.new.as_ref()) {
            Some(locked_at) => _ = self.held.insert(change.job, locked_at),
            None => {
                if let Some(locked_at) = self.held.remove(&change.job) {
                    self.ended.push((change.job, locked_at, change.xid));
                }
            }
        }
    }

    /// The other jobs that ran when this one was claimed.
    fn beside(&mut self, claim: &Change) -> BTreeSet<i64> {
        let sees = |xid: u64| claim.snapshot.as_ref().is_none_or(|snapshot| snapshot.sees(xid));
        // What one claim sees, later ones do.
        self.ended.retain(|(_, _, xid)| !sees(*xid));
        let unseen = self.ended.iter().filter(|(_, _, xid)| *xid != claim.xid);
        let unseen = unseen.map(|(job, locked_at, _)| (*job, *locked_at));
        let own = self.ends.get(&claim.xid);
        let held = self.held.iter().map(|(job, locked_at)| (*job, *locked_at));
        let held = held.filter(|(job, _)| own.is_none_or(|own| !own.contains(job)));
        let live = held
            .chain(unseen)
            .filter(|(job, locked_at)| *job != claim.job && claim.now.since(*locked_at) < self.terms.expiry);
        live.map(|(job, _)| job).collect()
    }
}

fn held_since(row: Option<&Row>) -> Option<Micros> {
    row.and_then(|row| row.locked_at)
}
