//! Stuck jobs: how long nothing happens with a job that may start.
//!
//! What happens is: a function starts it, the function's work ends, the attempt ends by an outcome. That it is claimed,
//! given back or rescued is no progress. While it waits, progress is also the start of a job before it in the order of
//! claiming. The time in which one of its gates is closed does not count: a pause, as many that run as may, no token,
//! or a host that is down.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::change::{Change, Row, What};
use super::super::history::Micros;
use super::super::operations::Gate;
use super::gates::{Gates, merged, within};
use super::limits::{by_gate, full};
use super::rates::empty;
use super::timelines::{Timeline, Timelines};
use super::{Evidence, Figures, Findings, Rule, Terms};

/// A place in the order of claiming.
type Place = (i32, Micros, i64);

pub(super) fn check(
    evidence: &Evidence,
    timelines: &Timelines<'_>,
    gates: &Gates,
    terms: &Terms,
    findings: &mut Findings,
    figures: &mut Figures,
) {
    let (closed, starts) = (closed(evidence, gates, terms), starts(timelines));
    for (job, timeline) in &timelines.jobs {
        let (Some(first), Some(last)) = (timeline.changes.first(), timeline.changes.last()) else { continue };
        let rows = timeline.changes.iter().filter_map(|change| change.row());
        let passed: BTreeSet<Gate> = rows.flat_map(Row::gates).collect();
        let spans = passed.iter().filter_map(|gate| closed.get(gate)).flatten().copied();
        let spans = merged(spans.filter(|(from, until)| *from < last.at && *until > first.at).collect());
        let from = starts.partition_point(|(at, _)| *at < first.at);
        let beside = starts[from..].iter().take_while(|(at, _)| *at <= last.at);
        let longest = longest(timeline, *job, beside, &spans);
        if longest > figures.longest_stuck {
            figures.longest_stuck = longest;
            figures.stuck_job = Some(*job);
        }
        if longest > terms.stuck {
            findings.job(Rule::Stuck, *job, format!("nothing happened for {:.1} s", longest.as_secs_f64()));
        }
    }
}

/// From when until when each gate was closed.
fn closed(evidence: &Evidence, gates: &Gates, terms: &Terms) -> BTreeMap<Gate, Vec<(Micros, Micros)>> {
    let mut closed = BTreeMap::new();
    for (gate, changes) in by_gate(evidence, gates) {
        let mut spans = gates.closings(&gate);
        spans.extend(full(&gate, &changes, gates, terms));
        spans.extend(empty(&gate, &changes, gates));
        closed.insert(gate, merged(spans));
    }
    closed
}

/// When jobs were started, and the place of each when it was claimed.
fn starts(timelines: &Timelines<'_>) -> Vec<(Micros, Place)> {
    let mut starts = Vec::new();
    for (job, timeline) in &timelines.jobs {
        let claims: Vec<&&Change> = timeline.changes.iter().filter(|change| change.is_claim()).collect();
        for run in &timeline.runs {
            let claim = claims.iter().rfind(|claim| claim.at <= run.at);
            let row = claim.and_then(|claim| claim.old.as_ref());
            starts.extend(row.map(|row| (run.at, row.order(*job))));
        }
    }
    starts.sort_unstable();
    starts
}

/// What happens to a job, or beside it.
enum Moment<'a> {
    Change(&'a Change),
    Run,
    /// Another job is started.
    Beside(Place),
}

fn longest<'a>(
    timeline: &Timeline<'a>,
    job: i64,
    beside: impl Iterator<Item = &'a (Micros, Place)>,
    closed: &[(Micros, Micros)],
) -> Duration {
    let mut moments: Vec<(Micros, Moment<'_>)> =
        timeline.changes.iter().map(|change| (change.at, Moment::Change(change))).collect();
    for run in &timeline.runs {
        moments.push((run.at, Moment::Run));
        moments.extend(run.finished.map(|(at, _)| (at, Moment::Run)));
    }
    moments.extend(beside.map(|(at, place)| (*at, Moment::Beside(*place))));
    moments.sort_by_key(|(at, _)| *at);

    let mut stuck = Watch::default();
    let (mut held, mut order, mut last) = (false, None, Micros::default());
    for (at, moment) in moments {
        if !held {
            stuck.excuse(closed, last, at);
        }
        last = at;
        match moment {
            Moment::Run => stuck.progress(at),
            Moment::Beside(other) => {
                if !held && order.is_some_and(|order| other < order) {
                    stuck.progress(at);
                }
            }
            Moment::Change(change) => {
                let what = change.what();
                held = change.new.as_ref().is_some_and(Row::is_held);
                order = change.new.as_ref().map(|row| row.order(job));
                let is_new = matches!(what, What::Inserted | What::Operated);
                if what.is_settlement() || is_new || what == What::Replaced {
                    stuck.progress(at);
                }
                match &change.new {
                    Some(row) if held || row.waits() => stuck.due(at, row.run_at, is_new),
                    _ => stuck.over(at),
                }
            }
        }
    }
    stuck.longest
}

/// Measures the time since something happened.
#[derive(Default)]
struct Watch {
    /// None while there is nothing to wait for.
    since: Option<Micros>,
    /// How much of the time since then does not count.
    excused: Duration,
    longest: Duration,
}

impl Watch {
    fn excuse(&mut self, closed: &[(Micros, Micros)], from: Micros, until: Micros) {
        let Some(since) = self.since else { return };
        self.excused += within(closed, from.max(since), until);
    }

    fn progress(&mut self, at: Micros) {
        let Some(since) = self.since else { return };
        self.longest = self.longest.max(at.since(since).saturating_sub(self.excused));
        self.since = Some(since.max(at));
        self.excused = Duration::ZERO;
    }

    /// The job is to be done, but not before `run_at`.
    fn due(&mut self, at: Micros, run_at: Micros, is_new: bool) {
        let since = if is_new { at } else { self.since.unwrap_or(at) };
        self.since = Some(since.max(run_at));
    }

    fn over(&mut self, at: Micros) {
        self.progress(at);
        self.since = None;
    }
}
