//! Stuck jobs: how long nothing happens with a job that is due.
//!
//! What happens is: a function starts it, the function's work ends, the attempt ends by an outcome. That it is claimed,
//! given back or rescued is no progress. While it waits, progress is also what happens to the job before it in its
//! named queue, and the start of a job of a more urgent priority.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::change::{Change, Row, What};
use super::super::history::Micros;
use super::timelines::{Timeline, Timelines};
use super::{Figures, Findings, Rule, Terms};

pub(super) fn check(timelines: &Timelines<'_>, terms: &Terms, findings: &mut Findings, figures: &mut Figures) {
    let (queues, starts) = (queues(timelines), starts(timelines));
    for (job, timeline) in &timelines.jobs {
        let Some(row) = timeline.changes.first().and_then(|change| change.row()) else { continue };
        let queue = row.queue.as_deref().and_then(|queue| queues.get(queue)).map_or(&[][..], Vec::as_slice);
        let alive = |at: Micros| {
            timeline
                .changes
                .first()
                .zip(timeline.changes.last())
                .is_some_and(|(first, last)| (first.at..=last.at).contains(&at))
        };
        let urgent = starts.range(..row.priority).flat_map(|(_, starts)| starts);
        let beside = queue.iter().chain(urgent).copied().filter(|at| alive(*at));
        let longest = longest(timeline, beside);
        if longest > figures.longest_stuck {
            figures.longest_stuck = longest;
            figures.stuck_job = Some(*job);
        }
        if longest > terms.stuck {
            findings.job(Rule::Stuck, *job, format!("nothing happened for {:.1} s", longest.as_secs_f64()));
        }
    }
}

/// When something happened in each named queue.
fn queues<'a>(timelines: &Timelines<'a>) -> BTreeMap<&'a str, Vec<Micros>> {
    let mut queues: BTreeMap<&str, Vec<Micros>> = BTreeMap::new();
    for timeline in timelines.jobs.values() {
        let Some(queue) = timeline.changes.first().and_then(|change| change.row()).and_then(|row| row.queue.as_deref())
        else {
            continue;
        };
        let moments = queues.entry(queue).or_default();
        moments.extend(timeline.runs.iter().map(|run| run.at));
        moments.extend(timeline.changes.iter().filter(|change| change.what().is_settlement()).map(|change| change.at));
    }
    for moments in queues.values_mut() {
        moments.sort_unstable();
    }
    queues
}

/// When jobs of each priority were started.
fn starts(timelines: &Timelines<'_>) -> BTreeMap<i32, Vec<Micros>> {
    let mut starts: BTreeMap<i32, Vec<Micros>> = BTreeMap::new();
    for timeline in timelines.jobs.values() {
        if let Some(row) = timeline.changes.first().and_then(|change| change.row()) {
            starts.entry(row.priority).or_default().extend(timeline.runs.iter().map(|run| run.at));
        }
    }
    starts
}

/// What happens to a job, or beside it.
enum Moment<'a> {
    Change(&'a Change),
    Run,
    Beside,
}

fn longest(timeline: &Timeline<'_>, beside: impl Iterator<Item = Micros>) -> Duration {
    let mut moments: Vec<(Micros, Moment<'_>)> =
        timeline.changes.iter().map(|change| (change.at, Moment::Change(change))).collect();
    for run in &timeline.runs {
        moments.push((run.at, Moment::Run));
        moments.extend(run.finished.map(|(at, _)| (at, Moment::Run)));
    }
    moments.extend(beside.map(|at| (at, Moment::Beside)));
    moments.sort_by_key(|(at, _)| *at);

    let mut stuck = Watch::default();
    let mut held = false;
    for (at, moment) in moments {
        match moment {
            Moment::Run => stuck.progress(at),
            Moment::Beside if held => {}
            Moment::Beside => stuck.progress(at),
            Moment::Change(change) => {
                let what = change.what();
                held = change.new.as_ref().is_some_and(Row::is_held);
                if what.is_settlement() || matches!(what, What::Inserted | What::Replaced) {
                    stuck.progress(at);
                }
                match &change.new {
                    Some(row) if held || row.waits() => stuck.due(at, row.run_at, what == What::Inserted),
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
    longest: Duration,
}

impl Watch {
    fn progress(&mut self, at: Micros) {
        let Some(since) = self.since else { return };
        self.longest = self.longest.max(at.since(since));
        self.since = Some(since.max(at));
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
