//! What a run says: a summary, and for a broken promise everything that is known about the jobs that broke it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use job_testkit::env;

use super::checker::{Evidence, Figures, Violation, story};
use super::history::{Event, Micros};
use super::operations::{Act, Call, Limit};
use super::plan::{Fault, Kind, Target};

/// How many violations, and how many stories of jobs, go to the terminal.
const SHOWN: usize = 20;
const STORIES: usize = 3;

/// A run and what the checker said.
pub(crate) struct Report<'a> {
    pub(crate) seed: u64,
    pub(crate) options: &'a super::Options,
    pub(crate) faults: &'a [Fault],
    pub(crate) calls: &'a [Call],
    pub(crate) evidence: &'a Evidence,
    pub(crate) figures: Figures,
    pub(crate) violations: Vec<Violation>,
}

impl Report<'_> {
    /// A few lines for everybody.
    pub(crate) fn summary(&self) -> String {
        let Figures { jobs, scheduled, completed, exhausted, runs, reruns, repeats, .. } = self.figures;
        let Figures {
            rescued, restarted, released, stale, ordered, stops, in_flight, longest_stuck, stuck_job, ..
        } = self.figures;
        let count = |is: fn(&Event) -> bool| self.evidence.entries.iter().filter(|entry| is(&entry.event)).count();
        let cut_off = count(|event| matches!(event, Event::Unresolved { .. }));
        let rolled_back = count(|event| matches!(event, Event::RolledBack { .. }));
        let serialization = count(|event| matches!(event, Event::SerializationFailed { .. }));
        let Figures { limited, filled, rated, operated, cancelled, closed, returned, .. } = self.figures;
        let held = self.held().as_secs_f64();
        let seconds = self.seconds();
        let stuck = match stuck_job {
            Some(job) => format!("{:.1} s (job {job})", longest_stuck.as_secs_f64()),
            None => "never".to_owned(),
        };
        let restarted = match restarted {
            (Some(median), Some(longest)) => {
                let (median, longest) = (median.as_secs_f64(), longest.as_secs_f64());
                format!(" (started again after {median:.1} s, {longest:.1} s at the longest)")
            }
            _ => String::new(),
        };
        let verdict = match self.violations.len() {
            0 => "nothing lost, nothing settled twice".to_owned(),
            count => format!("{count} violations"),
        };
        format!(
            "jobs      {jobs} ({scheduled} by schedules): {completed} completed, {exhausted} failed for good; \
             {rolled_back} rolled back, {cut_off} commits cut off, {serialization} errors of serialization\n\
             faults    {}\n\
             runs      {runs}, of which {reruns} again ({repeats} without a failure before); {stale} outcomes came too late\n\
             claims    {rescued} taken from silent or dead workers{restarted}, {released} given back; {ordered} checked for their order\n\
             stops     {stops} in order, with {in_flight} jobs in flight\n\
             gates     {}; {limited} claims behind limits, {filled} of which filled them, {rated} tokens; \
             {closed} hosts closed, {returned} attempts given back\n\
             operators {}, {operated} jobs changed, {cancelled} running ones cancelled; a snapshot held for {held:.0} s\n\
             stuck     {stuck} at the longest\n\
             seed {}   {verdict}, after {seconds:.0} s",
            self.struck(),
            self.set(),
            self.operated(),
            self.seed,
        )
    }

    /// What was set for gates.
    fn set(&self) -> String {
        count(self.calls.iter().filter_map(|call| match &call.act {
            Act::SetLimit { limit, .. } if *limit == Limit::default() => None,
            Act::SetLimit { limit: Limit { rate: Some(_), .. }, .. } => Some("rates"),
            Act::SetLimit { .. } => Some("limits"),
            Act::Pause { .. } => Some("pauses"),
            Act::SetFair { on: true } => Some("times of fairness"),
            _ => None,
        }))
    }

    /// Calls on many jobs.
    fn operated(&self) -> String {
        count(self.calls.iter().filter_map(|call| match &call.act {
            Act::Reschedule { .. } => Some("reschedules"),
            Act::Fail { .. } => Some("failures for good"),
            Act::Complete { .. } => Some("completions"),
            Act::Cancel { .. } => Some("cancels"),
            _ => None,
        }))
    }

    /// For how long a snapshot was held.
    fn held(&self) -> Duration {
        let mut since: BTreeMap<usize, Micros> = BTreeMap::new();
        let mut held = Duration::ZERO;
        for entry in &self.evidence.entries {
            match &entry.event {
                Event::CallBegan { call, act: Act::HoldSnapshot { .. } } => _ = since.insert(*call, entry.at),
                Event::CallEnded { call, .. } => {
                    held += since.remove(call).map(|from| entry.at.since(from)).unwrap_or_default()
                }
                _ => {}
            }
        }
        held
    }

    /// Faults by kind.
    fn struck(&self) -> String {
        count(self.faults.iter().map(|fault| match (fault.target, fault.kind) {
            (Target::Postgres, Kind::Kill) => "Postgres crashes",
            (Target::Postgres, _) => "Postgres restarts",
            (_, Kind::Kill) => "kills",
            (_, Kind::Halt) => "halts",
            (_, Kind::Down) => "functions down",
            (_, Kind::Stop | Kind::Restart) => "graceful stops",
            (_, Kind::Cut) => "cut connections",
            (_, Kind::Blackhole) => "silent connections",
            (_, Kind::Delay(_)) => "slow connections",
            (_, Kind::Lose(_)) => "lost answers",
        }))
    }

    fn seconds(&self) -> f64 {
        let entries = &self.evidence.entries;
        let (first, last) = (entries.first().map(|entry| entry.at), entries.last().map(|entry| entry.at));
        last.unwrap_or_default().since(first.unwrap_or_default()).as_secs_f64()
    }

    /// The first violations, and the stories of their first jobs.
    pub(crate) fn worst(&self) -> String {
        let mut text = String::new();
        for violation in self.violations.iter().take(SHOWN) {
            _ = writeln!(text, "{violation}");
        }
        if self.violations.len() > SHOWN {
            _ = writeln!(text, "… and {} more", self.violations.len() - SHOWN);
        }
        let jobs: BTreeSet<i64> = self.violations.iter().filter_map(|violation| violation.job).collect();
        for job in jobs.into_iter().take(STORIES) {
            _ = writeln!(text, "\njob {job}:");
            self.lines(&mut text, story(self.evidence, job));
        }
        text
    }

    /// Writes plan, violations, history, changes and logs below the target directory.
    pub(crate) fn write(&self, logs: &str) -> Result<PathBuf> {
        let directory = env::target_dir().join(format!("chaos-{}", self.seed));
        std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let options = self.options;
        let mut text = format!("seed {}, {} s, {} jobs\n\n", self.seed, options.seconds, options.jobs);
        for line in super::lines(self.faults, self.calls) {
            _ = writeln!(text, "{line}");
        }
        _ = writeln!(text, "\n{}\n", self.summary());
        for violation in &self.violations {
            _ = writeln!(text, "{violation}");
        }
        let jobs: BTreeSet<i64> = self.violations.iter().filter_map(|violation| violation.job).collect();
        for job in jobs {
            _ = writeln!(text, "\njob {job}:");
            self.lines(&mut text, story(self.evidence, job));
        }
        let mut all: Vec<(Micros, String)> = Vec::new();
        all.extend(self.evidence.entries.iter().map(|entry| (entry.at, entry.event.to_string())));
        let gates = self.evidence.gates.iter();
        all.extend(gates.map(|change| (change.at, format!("{}: {:?}", change.gate, change.new))));
        let changes = self.evidence.changes.iter();
        all.extend(changes.map(|change| (change.at, format!("job {}: {change}", change.job))));
        all.sort_by_key(|(at, _)| *at);
        let mut history = String::new();
        self.lines(&mut history, all);
        for (name, text) in [("report.txt", text.as_str()), ("history.txt", &history), ("logs.txt", logs)] {
            std::fs::write(directory.join(name), text).with_context(|| format!("cannot write {name}"))?;
        }
        Ok(directory)
    }

    /// Lines with the seconds since the beginning.
    fn lines(&self, text: &mut String, lines: Vec<(Micros, String)>) {
        let start = self.evidence.entries.first().map(|entry| entry.at).unwrap_or_default();
        for (at, line) in lines {
            _ = writeln!(text, "{:8.3}  {line}", at.since(start).as_secs_f64());
        }
    }
}

/// How many there are of each kind.
fn count<'a>(kinds: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    kinds.for_each(|kind| *counts.entry(kind).or_default() += 1);
    counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ")
}
