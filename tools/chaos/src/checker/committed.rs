//! Committed jobs: none is lost, all start, all end; and what was not committed does not run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::change::What;
use super::super::history::{Event, Micros};
use super::super::plan::{Kind, Target};
use super::cancels::concerns;
use super::timelines::{Run, Timeline, Timelines};
use super::{Evidence, Findings, Rule, story};

/// A claim is committed asynchronously: a crash of the server can take back those of about the last half second
/// (three times wal_writer_delay). A function may have been called by then.
const FORGOTTEN: Duration = Duration::from_secs(2);

/// A request can be held back for as long as its worker waits (JOBS_DISPATCH_TIMEOUT), and be received after the crash.
const UNDER_WAY: Duration = Duration::from_secs(8);

pub(super) fn check(evidence: &Evidence, timelines: &Timelines<'_>, findings: &mut Findings) {
    let rolled_back = enqueued(evidence, timelines, findings);
    for (job, timeline) in &timelines.jobs {
        ends(evidence, *job, timeline, findings);
        starts(*job, timeline, findings);
        for run in &timeline.runs {
            if run.n.is_some_and(|n| rolled_back.contains(&n)) {
                let text = format!("run {} is of n = {:?}, which was rolled back", run.run, run.n);
                findings.job(Rule::Uncommitted, *job, text);
            }
            if !is_claimed(timelines, timeline, run) {
                let text = format!("run {} was started for {}, which had not claimed it", run.run, run.worker);
                findings.job(Rule::Unclaimed, *job, text);
            }
        }
    }
    for job in evidence.rows.keys().filter(|job| !timelines.jobs.contains_key(job)) {
        findings.job(Rule::Unexplained, *job, "it is in the table, but no change of it was seen");
    }
}

/// Compares what producers were told with what is in the database. Returns what was rolled back.
fn enqueued(evidence: &Evidence, timelines: &Timelines<'_>, findings: &mut Findings) -> BTreeSet<u64> {
    let mut written = BTreeMap::new();
    for (job, timeline) in &timelines.jobs {
        for change in &timeline.changes {
            let n = change.new.as_ref().and_then(|row| row.n);
            if let (Some(n), What::Inserted | What::Replaced) = (n, change.what())
                && let Some(other) = written.insert(n, *job)
            {
                findings.job(Rule::Uncommitted, *job, format!("n = {n} is also job {other}, but was enqueued once"));
            }
        }
    }
    let mut rolled_back = BTreeSet::new();
    for entry in &evidence.entries {
        match entry.event {
            Event::Committed { n, job } if written.get(&n) != Some(&job) => {
                findings.job(Rule::Lost, job, format!("the commit of n = {n} was acknowledged, but it is not there"));
            }
            Event::RolledBack { n } => {
                rolled_back.insert(n);
                if let Some(job) = written.get(&n) {
                    findings.job(Rule::Uncommitted, *job, format!("n = {n} was rolled back, but it is there"));
                }
            }
            _ => {}
        }
    }
    rolled_back
}

fn ends(evidence: &Evidence, job: i64, timeline: &Timeline<'_>, findings: &mut Findings) {
    let last = timeline.last_row();
    if evidence.rows.contains_key(&job) != last.is_some() {
        let text = format!("the table {} it, its changes say otherwise", if last.is_some() { "lacks" } else { "has" });
        // A row that is gone without a change was removed behind the triggers' back.
        findings.job(if last.is_some() { Rule::Lost } else { Rule::Unexplained }, job, text);
    } else if !timeline.is_settled() {
        let story = story(evidence, job);
        let events: Vec<&str> = story.iter().rev().take(6).rev().map(|(_, line)| line.as_str()).collect();
        findings.job(Rule::Lost, job, format!("it has not ended; last: {}", events.join(" | ")));
    }
}

/// What was enqueued last under a job's id has to have started when the job was completed, and to have been tried when
/// it failed for good. What an operator has removed or failed need not.
fn starts(job: i64, timeline: &Timeline<'_>, findings: &mut Findings) {
    // A second call of an operator's may have changed nothing.
    let last = timeline.changes.iter().rfind(|change| change.what() != What::Placed);
    let Some(last) = last.filter(|change| change.what() != What::Operated) else { return };
    let Some(row) = last.row() else { return };
    if timeline.last_row().is_none() && !timeline.runs.iter().any(|run| run.n == row.n) {
        findings.job(Rule::Lost, job, "it was completed, but never started");
    }
    // A job that lost its key while it was claimed is not tried again, whatever became of the claim.
    if timeline.last_row().is_some_and(|row| row.is_exhausted() && !row.superseded) && timeline.claims.is_empty() {
        findings.job(Rule::Lost, job, "it has failed for good, but was never tried");
    }
}

/// Whether a function was called under a claim, be it one that had ended by then: a worker that was halted does not
/// know.
fn is_claimed(timelines: &Timelines<'_>, timeline: &Timeline<'_>, run: &Run) -> bool {
    let claimed = timeline.claims.iter().any(|claim| claim.at <= run.at && claim.owns(run));
    let crashed = |from: Micros, until: Micros| {
        timelines.disturbed(from, until, |fault| fault.target == Target::Postgres && fault.kind == Kind::Kill)
    };
    let from = run.at.minus(UNDER_WAY);
    claimed
        || crashed(run.at, run.at.plus(FORGOTTEN))
        || crashed(from, run.at) && timelines.disturbed(from, run.at, |fault| concerns(fault.target, run))
}
