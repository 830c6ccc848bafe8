//! What was set for gates, and from when that was promised: from the moment the operator's call returned.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::change::{Row, Setting};
use super::super::history::{Event, Micros};
use super::super::operations::{Gate, GateKind, Rate};
use super::Evidence;

/// A job of a named queue runs alone unless somebody has set a limit.
const QUEUE_LIMIT: u32 = 1;

/// When what a worker has found out of a host is known to all.
const EFFECT: Duration = Duration::from_secs(1);

/// What somebody has set, until the next one is set.
#[derive(Debug, Clone, Copy)]
struct Set {
    /// When it was written: nobody knows of it before.
    written: Micros,
    /// When the call had returned: everybody knows of it.
    promised: Micros,
    /// None: the row is gone.
    setting: Option<Setting>,
}

/// What was set for every gate.
#[derive(Debug)]
pub(super) struct Gates {
    sets: BTreeMap<Gate, Vec<Set>>,
}

impl Gates {
    pub(super) fn of(evidence: &Evidence) -> Self {
        let mut returns: BTreeMap<usize, Vec<Micros>> = BTreeMap::new();
        for entry in &evidence.entries {
            if let Event::CallEnded { call, .. } = entry.event {
                returns.entry(call).or_default().push(entry.at);
            }
        }
        let mut sets: BTreeMap<Gate, Vec<Set>> = BTreeMap::new();
        for change in &evidence.gates {
            let promised = match change.call {
                // One that has not returned promises nothing.
                Some(call) => returns.get(&call).and_then(|all| all.iter().find(|at| **at >= change.at)).copied(),
                None => Some(change.at.plus(EFFECT)),
            };
            let promised = promised.unwrap_or(Micros(i64::MAX));
            let set = Set { written: change.at, promised, setting: change.new };
            sets.entry(change.gate.clone()).or_default().push(set);
        }
        Self { sets }
    }

    /// What a claim may have taken for set for one row: what was written by `until`, and not replaced by what was
    /// promised by `from`.
    fn of_row(&self, gate: &Gate, from: Micros, until: Micros) -> Vec<Option<Setting>> {
        let sets = self.sets.get(gate).map_or(&[][..], Vec::as_slice);
        let mut possible: Vec<Option<Setting>> = Vec::new();
        for set in sets.iter().take_while(|set| set.written <= until) {
            if set.promised <= from {
                possible.clear();
                possible.push(set.setting);
            } else {
                if possible.is_empty() {
                    possible.push(None);
                }
                possible.push(set.setting);
            }
        }
        if possible.is_empty() {
            possible.push(None);
        }
        possible
    }

    /// What a claim may have taken for set for a gate: its own row, or that of `*` when its own says nothing at `now`.
    pub(super) fn possible(&self, gate: &Gate, from: Micros, until: Micros, now: Micros) -> Vec<Option<Setting>> {
        let of_each = self.of_row(&Gate::new(gate.kind, "*"), from, until);
        let mut possible: Vec<Option<Setting>> = Vec::new();
        for own in self.of_row(gate, from, until) {
            match own.filter(|own| own.says(now)) {
                Some(own) => possible.push(Some(own)),
                None => possible.extend(of_each.iter().map(|each| each.filter(|each| each.says(now)))),
            }
        }
        possible
    }

    /// How many may run at a time: the most that was allowed. None is any number.
    pub(super) fn most_running(&self, gate: &Gate, at: Micros, now: Micros) -> Option<u32> {
        let queue = (gate.kind == GateKind::Queue).then_some(QUEUE_LIMIT);
        let possible = self.possible(gate, at, at, now);
        let limits = possible.iter().map(|setting| setting.and_then(|setting| setting.limit.max_running).or(queue));
        limits.reduce(|most, limit| most.zip(limit).map(|(most, limit)| most.max(limit))).flatten()
    }

    /// How many may run at a time: the fewest that somebody may have taken for set. None is any number.
    pub(super) fn fewest_running(&self, gate: &Gate, at: Micros) -> Option<u32> {
        let queue = (gate.kind == GateKind::Queue).then_some(QUEUE_LIMIT);
        let possible = self.possible(gate, at, at, at);
        possible.iter().filter_map(|setting| setting.and_then(|setting| setting.limit.max_running).or(queue)).min()
    }

    /// The rate at a time; None when there is none, or when it is changing.
    pub(super) fn rate(&self, gate: &Gate, at: Micros) -> Option<Rate> {
        let possible = self.possible(gate, at, at, at);
        let mut rates = possible.iter().map(|setting| setting.and_then(|setting| setting.limit.rate));
        let first = rates.next().flatten();
        rates.all(|rate| rate == first).then_some(first).flatten()
    }

    /// Whether a claim that began at `from` and was made at `until` had to find the gate paused, or closed by itself.
    pub(super) fn is_shut(&self, gate: &Gate, from: Micros, until: Micros, now: Micros) -> bool {
        let possible = self.possible(gate, from, until, now);
        possible.iter().all(|setting| setting.is_some_and(|setting| setting.is_shut(now)))
    }

    /// Whether something may be set for the gate between the two times.
    pub(super) fn is_set(&self, gate: &Gate, from: Micros, until: Micros) -> bool {
        self.possible(gate, from, until, from).iter().any(Option::is_some)
    }

    /// Every gate that jobs pass and for which something was set, by itself or for each one of its kind, and named
    /// queues.
    pub(super) fn of_rows<'a>(&self, rows: impl Iterator<Item = &'a Row>) -> Vec<Gate> {
        let mut gates: Vec<Gate> = rows.flat_map(Row::gates).collect();
        gates.sort();
        gates.dedup();
        gates.retain(|gate| {
            gate.kind == GateKind::Queue
                || self.sets.contains_key(gate)
                || self.sets.contains_key(&Gate::new(gate.kind, "*"))
        });
        gates
    }

    /// The times at which what is possible for a gate changes, in order.
    pub(super) fn moments(&self, gate: &Gate) -> Vec<Micros> {
        let rows = [gate.clone(), Gate::new(gate.kind, "*")];
        let sets = rows.iter().filter_map(|row| self.sets.get(row)).flatten();
        let mut moments: Vec<Micros> = sets
            .flat_map(|set| {
                let ends = set.setting.map(|setting| [setting.paused_until, setting.closed_until]);
                let ends = ends.into_iter().flatten();
                [Some(set.written), Some(set.promised)].into_iter().chain(ends).flatten()
            })
            .collect();
        moments.sort_unstable();
        moments.dedup();
        moments
    }

    /// From when until when a gate may be paused, or a host that is down closed.
    pub(super) fn closings(&self, gate: &Gate) -> Vec<(Micros, Micros)> {
        let mut moments = self.moments(gate);
        moments.push(Micros(i64::MAX));
        let closed = |at: Micros| {
            let possible = self.possible(gate, at, at, at);
            possible.iter().any(|setting| setting.is_some_and(|setting| setting.is_shut(at) || setting.probed))
        };
        let spans = moments.windows(2).filter_map(|pair| match pair {
            [from, until] if closed(*from) => Some((*from, *until)),
            _ => None,
        });
        spans.collect()
    }
}

/// How much of the time between two moments lies within spans that are in order and apart.
pub(super) fn within(spans: &[(Micros, Micros)], from: Micros, until: Micros) -> Duration {
    let first = spans.partition_point(|(_, end)| *end <= from);
    let beside = spans[first..].iter().take_while(|(start, _)| *start < until);
    beside.map(|(start, end)| (*end).min(until).since((*start).max(from))).sum()
}

/// Spans in order and apart.
pub(super) fn merged(mut spans: Vec<(Micros, Micros)>) -> Vec<(Micros, Micros)> {
    spans.sort_unstable();
    let mut merged: Vec<(Micros, Micros)> = Vec::new();
    for (from, until) in spans {
        match merged.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(until),
            _ => merged.push((from, until)),
        }
    }
    merged
}
