//! The checker: proves from the history and the tables that the promise was kept, or says which job broke it. Pure.
//!
//! It trusts neither worker nor server. What happened to a row is what the database wrote down in the same transaction
//! ([`Change`]); what happened in a function is what the function told the harness before it told anybody else
//! ([`super::history::Event`]).

mod cancels;
mod committed;
mod gates;
mod hosts;
mod limits;
mod operators;
mod pauses;
mod queues;
mod rates;
mod rescues;
mod schedules;
mod settlements;
mod stops;
mod stuck;
#[cfg(test)]
mod tests;
mod timelines;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::change::{Change, ClosingAttempt, GateChange, Row};
use super::history::{Entry, Micros};
use gates::Gates;
pub(crate) use hosts::DOWN;
pub(crate) use rescues::worker_id;
pub(crate) use settlements::failure_of;
use timelines::Timelines;

/// Everything that is known about a run.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// In the order of time.
    pub(crate) entries: Vec<Entry>,
    /// In the order of `seq`.
    pub(crate) changes: Vec<Change>,
    /// What was set for gates, in the order of time.
    pub(crate) gates: Vec<GateChange>,
    /// Those that have closed hosts.
    pub(crate) closing: Vec<ClosingAttempt>,
    /// The jobs table at the end.
    pub(crate) rows: BTreeMap<i64, Row>,
}

/// What was agreed on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// For how long a silent worker keeps its jobs.
    pub(crate) lease: Duration,
    /// When a lock no longer counts, whoever has it (JOBS_JOB_EXPIRY).
    pub(crate) expiry: Duration,
    /// How long nothing may happen with a job that is due.
    pub(crate) stuck: Duration,
}

/// A sentence of the promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    /// A job that was committed starts at least once, and ends.
    Lost,
    /// What was not committed does not run.
    Uncommitted,
    /// An attempt is settled once, and only while it is the live one.
    DoubleSettle,
    /// It is settled by its own outcome, not by that of an earlier attempt.
    StaleSettle,
    /// A job has one live claim at a time, which can be told from every other.
    TwoClaims,
    /// A function is called only under a claim.
    Unclaimed,
    /// A job is taken only from a worker that is silent or whose lock has expired.
    Robbed,
    /// A named queue runs one job at a time.
    Overlap,
    /// It runs them in the order of priority, run_at and id.
    Order,
    /// No more jobs of a queue, task or tenant run at once than its limit says.
    Limit,
    /// No more start in a time than its rate gives.
    Rate,
    /// None starts while it is paused.
    Pause,
    /// An operator's call changes what waits, as asked, and nothing else.
    Operator,
    /// A host that has closed itself uses up no attempt.
    Host,
    /// A cancelled job neither ends otherwise nor starts.
    Cancel,
    /// A graceful stop repeats nothing and leaves nothing behind.
    Stop,
    /// A job that may start does not wait for long.
    Stuck,
    /// A schedule fires once at a time, and goes on.
    Schedule,
    /// A row changes as the queue changes it, and in no other way.
    Unexplained,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "lost job",
            Self::Uncommitted => "ran without a commit",
            Self::DoubleSettle => "double settle",
            Self::StaleSettle => "stale settle",
            Self::TwoClaims => "two claims at once",
            Self::Unclaimed => "started without a claim",
            Self::Robbed => "taken from a live worker",
            Self::Overlap => "overlap in a named queue",
            Self::Order => "wrong order in a named queue",
            Self::Limit => "limit exceeded",
            Self::Rate => "rate exceeded",
            Self::Pause => "started in a pause",
            Self::Operator => "operator's call",
            Self::Host => "attempt used up by a closed host",
            Self::Cancel => "after its cancellation",
            Self::Stop => "repeated by a graceful stop",
            Self::Stuck => "stuck",
            Self::Schedule => "schedule",
            Self::Unexplained => "unexplained change",
        })
    }
}

/// A sentence that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    pub(crate) job: Option<i64>,
    pub(crate) text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.rule)?;
        self.job.map_or(Ok(()), |job| write!(f, "job {job}: "))?;
        f.write_str(&self.text)
    }
}

/// Where violations are collected.
#[derive(Debug, Default)]
struct Findings(Vec<Violation>);

impl Findings {
    fn job(&mut self, rule: Rule, job: i64, text: impl Into<String>) {
        self.0.push(Violation { rule, job: Some(job), text: text.into() });
    }

    fn other(&mut self, rule: Rule, text: impl Into<String>) {
        self.0.push(Violation { rule, job: None, text: text.into() });
    }
}

/// Numbers for the summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Figures {
    /// Rows that there were, those of schedules included.
    pub(crate) jobs: usize,
    pub(crate) scheduled: usize,
    pub(crate) completed: usize,
    pub(crate) exhausted: usize,
    /// Runs of functions, and those beyond the first of their job.
    pub(crate) runs: usize,
    pub(crate) reruns: usize,
    /// Runs beyond the first without a failure recorded before: repeated because something died.
    pub(crate) repeats: usize,
    /// Claims that ended because their worker was silent, or their lock too old.
    pub(crate) rescued: usize,
    /// From the fault, or the claim after it, to the next start of a job that was taken: the median, and the longest.
    pub(crate) restarted: (Option<Duration>, Option<Duration>),
    pub(crate) released: usize,
    /// Runs that ended, but whose claim had ended otherwise by then: their outcomes changed nothing.
    pub(crate) stale: usize,
    /// Claims of named queues whose order was checked.
    pub(crate) ordered: usize,
    /// Claims behind a limit that has been set, and those that filled it.
    pub(crate) limited: usize,
    pub(crate) filled: usize,
    /// Claims that took a token.
    pub(crate) rated: usize,
    /// Changes of jobs by operators, and how many of them were cancels of jobs that ran.
    pub(crate) operated: usize,
    pub(crate) cancelled: usize,
    /// Times that a host has closed itself as it was down, and failed attempts that were given back.
    pub(crate) closed: usize,
    pub(crate) returned: usize,
    /// Graceful stops of workers, and the jobs that were in flight.
    pub(crate) stops: usize,
    pub(crate) in_flight: usize,
    /// The longest time that nothing happened with a job that was due.
    pub(crate) longest_stuck: Duration,
    pub(crate) stuck_job: Option<i64>,
}

/// What the checker says.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) violations: Vec<Violation>,
    pub(crate) figures: Figures,
}

/// Checks everything.
pub(crate) fn check(evidence: &Evidence, terms: &Terms) -> Verdict {
    let mut findings = Findings::default();
    let mut figures = Figures::default();
    let timelines = Timelines::of(evidence, &mut findings);
    timelines.count(&mut figures);
    committed::check(evidence, &timelines, &mut findings);
    settlements::check(&timelines, &mut findings, &mut figures);
    rescues::check(&timelines, terms, &mut findings, &mut figures);
    let gates = Gates::of(evidence);
    queues::check(evidence, &gates, &mut findings, &mut figures);
    limits::check(evidence, &gates, terms, &mut findings, &mut figures);
    rates::check(evidence, &gates, &mut findings, &mut figures);
    pauses::check(evidence, &gates, &mut findings);
    operators::check(evidence, &mut findings, &mut figures);
    hosts::check(evidence, &timelines, &mut findings, &mut figures);
    cancels::check(evidence, &timelines, &mut findings, &mut figures);
    stops::check(evidence, &timelines, &mut findings, &mut figures);
    stuck::check(evidence, &timelines, &gates, terms, &mut findings, &mut figures);
    schedules::check(evidence, &timelines, terms, &mut findings);
    Verdict { violations: findings.0, figures }
}

/// Everything that is known about one job, in the order of time, for a person.
pub(crate) fn story(evidence: &Evidence, job: i64) -> Vec<(Micros, String)> {
    let mut lines: Vec<(Micros, String)> = evidence
        .changes
        .iter()
        .filter(|change| change.job == job)
        .map(|change| (change.at, change.to_string()))
        .collect();
    let mut runs = Vec::new();
    for entry in &evidence.entries {
        let is_of_job = match &entry.event {
            super::history::Event::Started { run, .. } if entry.job() == Some(job) => {
                runs.push(*run);
                true
            }
            super::history::Event::Finished { run, .. } => runs.contains(run),
            _ => entry.job() == Some(job),
        };
        if is_of_job {
            lines.push((entry.at, entry.event.to_string()));
        }
    }
    lines.sort_by_key(|(at, _)| *at);
    lines
}
