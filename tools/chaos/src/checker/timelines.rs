//! The timeline of each job: its claims, how each ended, and the runs of functions. What a row cannot go through is
//! told here.

use std::collections::BTreeMap;

use super::super::change::{Change, Row, What};
use super::super::history::{Event, Micros};
use super::super::plan::{Kind, Target};
use super::{Evidence, Figures, Findings, Rule};

/// How a claim ended.
#[derive(Debug, Clone)]
pub(super) struct End {
    pub(super) what: What,
    pub(super) at: Micros,
    pub(super) error: Option<String>,
}

/// A claim of a job.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) at: Micros,
    /// As Postgres has it: what its expiry is counted from.
    pub(super) locked_at: Micros,
    pub(super) worker: String,
    pub(super) epoch: Option<i64>,
    pub(super) end: Option<End>,
}

impl Claim {
    /// Whether a run was started under this claim, or under a later one of the same worker when epochs are not known.
    pub(super) fn owns(&self, run: &Run) -> bool {
        match (self.epoch, run.epoch) {
            (Some(ours), Some(its)) => ours == its,
            _ => self.worker == run.worker && run.at >= self.at,
        }
    }

    /// Whether it was live at that time.
    pub(super) fn is_live(&self, at: Micros) -> bool {
        self.at < at && self.end.as_ref().is_none_or(|end| end.at > at)
    }
}

/// A run of a function.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) run: u64,
    pub(super) job: i64,
    pub(super) n: Option<u64>,
    pub(super) worker: String,
    pub(super) epoch: Option<i64>,
    pub(super) at: Micros,
    pub(super) function: usize,
    /// When it ended, and whether well.
    pub(super) finished: Option<(Micros, bool)>,
}

/// A job.
#[derive(Debug, Default)]
pub(super) struct Timeline<'a> {
    pub(super) changes: Vec<&'a Change>,
    pub(super) claims: Vec<Claim>,
    pub(super) runs: Vec<Run>,
}

impl<'a> Timeline<'a> {
    /// The row as the last change left it; None when it is gone.
    pub(super) fn last_row(&self) -> Option<&'a Row> {
        self.changes.last().and_then(|change| change.new.as_ref())
    }

    pub(super) fn is_settled(&self) -> bool {
        self.last_row().is_none_or(Row::is_exhausted)
    }
}

/// A fault while it lasted.
#[derive(Debug, Clone)]
pub(super) struct Disturbance {
    pub(super) target: Target,
    pub(super) kind: Kind,
    pub(super) from: Micros,
    pub(super) until: Micros,
}

/// The timelines of all jobs, and the faults beside them.
#[derive(Debug)]
pub(super) struct Timelines<'a> {
    pub(super) jobs: BTreeMap<i64, Timeline<'a>>,
    pub(super) disturbances: Vec<Disturbance>,
}

impl<'a> Timelines<'a> {
    pub(super) fn of(evidence: &'a Evidence, findings: &mut Findings) -> Self {
        let mut jobs: BTreeMap<i64, Timeline<'a>> = BTreeMap::new();
        for change in &evidence.changes {
            let timeline = jobs.entry(change.job).or_default();
            follow(timeline, change, findings);
            timeline.changes.push(change);
        }
        for run in runs(evidence) {
            match jobs.get_mut(&run.job) {
                Some(timeline) => timeline.runs.push(run),
                None => findings.job(Rule::Uncommitted, run.job, format!("run {} is of a job that never was", run.run)),
            }
        }
        Self { jobs, disturbances: disturbances(evidence) }
    }

    /// Whether a fault that `concerns` says yes to was there at some time between.
    pub(super) fn disturbed(&self, from: Micros, until: Micros, concerns: impl Fn(&Disturbance) -> bool) -> bool {
        self.disturbances.iter().any(|fault| fault.from <= until && fault.until >= from && concerns(fault))
    }

    pub(super) fn count(&self, figures: &mut Figures) {
        figures.jobs = self.jobs.len();
        for timeline in self.jobs.values() {
            let first = timeline.changes.first().and_then(|change| change.row());
            figures.scheduled += usize::from(first.is_some_and(|row| row.schedule.is_some()));
            figures.completed += usize::from(timeline.last_row().is_none());
            figures.exhausted += usize::from(timeline.last_row().is_some_and(Row::is_exhausted));
            figures.runs += timeline.runs.len();
            figures.reruns += timeline.runs.len().saturating_sub(1);
            for pair in timeline.runs.windows(2) {
                let failed = pair[0].finished.is_some_and(|(_, success)| !success);
                figures.repeats += usize::from(!failed);
            }
            for end in timeline.claims.iter().filter_map(|claim| claim.end.as_ref()) {
                figures.rescued += usize::from(matches!(end.what, What::Rescued | What::Reclaimed));
                figures.released += usize::from(end.what == What::Released);
            }
        }
    }
}

/// Follows one change of a job's row, and tells what cannot be.
fn follow(timeline: &mut Timeline<'_>, change: &Change, findings: &mut Findings) {
    let (job, what) = (change.job, change.what());
    if let Some(last) = timeline.changes.last()
        && last.new.is_none()
    {
        let rule = if matches!(what, What::Completed | What::Failed) { Rule::DoubleSettle } else { Rule::Unexplained };
        findings.job(rule, job, format!("{change}, after its row was gone"));
        return;
    }
    let live = timeline.claims.last_mut().filter(|claim| claim.end.is_none());
    match what {
        What::Inserted if !timeline.changes.is_empty() => findings.job(Rule::Unexplained, job, "inserted twice"),
        What::Inserted | What::Replaced | What::Touched | What::Placed | What::Returned => {}
        // Whether an operator may have done it is another question.
        What::Operated => {
            if let Some(live) = live {
                live.end = Some(End { what, at: change.at, error: None });
            }
        }
        What::Claimed | What::Reclaimed => {
            if let Some(live) = live {
                if what == What::Claimed {
                    findings.job(Rule::TwoClaims, job, format!("claimed while {} held it", live.worker));
                }
                live.end = Some(End { what: What::Reclaimed, at: change.at, error: None });
            }
            let Some(row) = &change.new else { return };
            if row.epoch.is_some() && timeline.claims.iter().any(|claim| claim.epoch == row.epoch) {
                findings.job(Rule::TwoClaims, job, format!("two claims have the epoch {:?}", row.epoch));
            }
            timeline.claims.push(Claim {
                at: change.at,
                locked_at: row.locked_at.unwrap_or(change.at),
                worker: row.holder.clone().unwrap_or_default(),
                epoch: row.epoch,
                end: None,
            });
        }
        What::Completed | What::Failed | What::Released | What::Rescued => match live {
            Some(live) => {
                let error = change.new.as_ref().and_then(|row| row.error.clone());
                live.end = Some(End { what, at: change.at, error });
            }
            None if what.is_settlement() => {
                findings.job(Rule::DoubleSettle, job, format!("{change}, but its attempt had ended before"));
            }
            None => findings.job(Rule::Unexplained, job, format!("{change}, but nobody held it")),
        },
        What::Removed | What::FailedUnheld => {
            findings.job(Rule::StaleSettle, job, format!("{change}, while nobody held it"));
        }
        What::Unexplained => findings.job(Rule::Unexplained, job, format!("{:?} became {:?}", change.old, change.new)),
    }
}

fn runs(evidence: &Evidence) -> Vec<Run> {
    let mut runs: BTreeMap<u64, Run> = BTreeMap::new();
    for entry in &evidence.entries {
        match &entry.event {
            Event::Started { run, job, n, worker, epoch, function } => {
                let (run, job, n, epoch, function) = (*run, *job, *n, *epoch, *function);
                let (worker, at) = (worker.clone(), entry.at);
                runs.insert(run, Run { run, job, n, worker, epoch, at, function, finished: None });
            }
            Event::Finished { run, success } => {
                if let Some(run) = runs.get_mut(run) {
                    run.finished = Some((entry.at, *success));
                }
            }
            _ => {}
        }
    }
    runs.into_values().collect()
}

fn disturbances(evidence: &Evidence) -> Vec<Disturbance> {
    let mut all: BTreeMap<usize, Disturbance> = BTreeMap::new();
    for entry in &evidence.entries {
        match entry.event {
            Event::FaultBegan { fault, target, kind } => {
                // One that does not end lasts.
                let until = Micros(i64::MAX);
                all.insert(fault, Disturbance { target, kind, from: entry.at, until });
            }
            Event::FaultEnded { fault } => {
                if let Some(fault) = all.get_mut(&fault) {
                    fault.until = entry.at;
                }
            }
            _ => {}
        }
    }
    all.into_values().collect()
}
