//! The history: what happened outside of the tables, in the order of the one clock that everybody here shares.
//!
//! Times are microseconds since 1970 by this machine's clock, which is Postgres's as well: so an event and a change of
//! a row can be compared.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::operations::Act;
use super::plan::{Kind, Target};

/// An instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Micros(pub(crate) i64);

impl Micros {
    pub(crate) fn now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// How much later this is; nothing when it is earlier.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or_default())
    }

    pub(crate) fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    pub(crate) fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}

/// What came of an operator's call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    /// The jobs that it says it has changed.
    Changed(BTreeSet<i64>),
    /// The connection was lost: it may have had its effect.
    Unknown,
    /// Postgres refused it.
    Refused(String),
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// Postgres has acknowledged the commit of job `n`, which has this id.
    Committed { n: u64, job: i64 },
    /// The connection was lost while `n` was committed.
    Unresolved { n: u64 },
    /// The transaction with job `n` was rolled back.
    RolledBack { n: u64 },
    /// A producer's transaction met an error of serialization, and is tried again.
    SerializationFailed { serializable: bool },
    /// A function received a job. `run` names this run and no other.
    Started {
        run: u64,
        job: i64,
        /// None for a schedule's job.
        n: Option<u64>,
        worker: String,
        /// From X-Callback-Url; None when it has none or the function does not see it.
        epoch: Option<i64>,
        function: usize,
    },
    /// A function has done its work, and has not yet said so to anybody else.
    Finished { run: u64, success: bool },
    /// A fault of the plan begins.
    FaultBegan { fault: usize, target: Target, kind: Kind },
    /// It has ended: the process is back, bytes pass again.
    FaultEnded { fault: usize },
    /// A worker is told to stop.
    StopAsked { worker: String },
    /// It has.
    StopDone { worker: String, code: Option<i32> },
    /// From now on, a schedule fires every second.
    ScheduleAdded { schedule: u32 },
    /// From now on it does not.
    ScheduleRemoved { schedule: u32 },
    /// An operator makes a call of the plan, perhaps once more.
    CallBegan { call: usize, act: Act },
    /// It has returned.
    CallEnded { call: usize, answer: Answer },
}

/// An event and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) at: Micros,
    pub(crate) event: Event,
}

impl Entry {
    /// The job that an event names.
    pub(crate) fn job(&self) -> Option<i64> {
        match self.event {
            Event::Committed { job, .. } | Event::Started { job, .. } => Some(job),
            _ => None,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Committed { n, job } => write!(f, "enqueued as n = {n}: job {job}"),
            Self::Unresolved { n } => write!(f, "the commit of n = {n} was cut off"),
            Self::SerializationFailed { serializable } => {
                let level = if *serializable { "SERIALIZABLE" } else { "REPEATABLE READ" };
                write!(f, "an error of serialization for a producer in {level}")
            }
            Self::RolledBack { n } => write!(f, "n = {n} was rolled back"),
            Self::Started { run, job, worker, epoch, function, .. } => {
                write!(f, "function-{function} starts run {run} of job {job} for {worker}")?;
                epoch.map_or(Ok(()), |epoch| write!(f, ", epoch {epoch}"))
            }
            Self::Finished { run, success } => {
                write!(f, "run {run} ends {}", if *success { "well" } else { "in failure" })
            }
            Self::FaultBegan { fault, target, kind } => write!(f, "fault {fault} begins: {target} {kind:?}"),
            Self::FaultEnded { fault } => write!(f, "fault {fault} ends"),
            Self::StopAsked { worker } => write!(f, "{worker} is told to stop"),
            Self::StopDone { worker, code } => write!(f, "{worker} has stopped with {code:?}"),
            Self::ScheduleAdded { schedule } => write!(f, "schedule {schedule} is there"),
            Self::ScheduleRemoved { schedule } => write!(f, "schedule {schedule} is gone"),
            Self::CallBegan { call, act } => write!(f, "call {call} begins: {act}"),
            Self::CallEnded { call, answer: Answer::Done } => write!(f, "call {call} returns"),
            Self::CallEnded { call, answer: Answer::Changed(jobs) } => {
                write!(f, "call {call} returns: {} jobs", jobs.len())
            }
            Self::CallEnded { call, answer: Answer::Unknown } => write!(f, "call {call}: the connection is lost"),
            Self::CallEnded { call, answer: Answer::Refused(error) } => write!(f, "call {call} is refused: {error}"),
        }
    }
}

/// Where everybody writes. Clones write to the same history.
#[derive(Debug, Clone, Default)]
pub(crate) struct History(Arc<Mutex<Written>>);

#[derive(Debug, Default)]
struct Written {
    entries: Vec<Entry>,
    runs: u64,
    /// The job of a run, and as what it was enqueued.
    jobs: HashMap<u64, (i64, Option<u64>)>,
    failures: HashMap<(i64, Option<u64>), u32>,
}

impl History {
    fn written(&self) -> MutexGuard<'_, Written> {
        // A list of entries is whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event that happens now.
    pub(crate) fn add(&self, event: Event) {
        let mut written = self.written();
        // Under the lock, so that the order of entries is that of their times.
        let at = Micros::now();
        written.entries.push(Entry { at, event });
    }

    /// A run begins: gives it its number, and says how many runs of the job have failed before.
    pub(crate) fn start(
        &self,
        job: i64,
        n: Option<u64>,
        worker: String,
        epoch: Option<i64>,
        function: usize,
    ) -> (u64, u32) {
        let mut written = self.written();
        written.runs += 1;
        let run = written.runs;
        written.jobs.insert(run, (job, n));
        let failures = written.failures.get(&(job, n)).copied().unwrap_or_default();
        let event = Event::Started { run, job, n, worker, epoch, function };
        written.entries.push(Entry { at: Micros::now(), event });
        (run, failures)
    }

    /// A run ends.
    pub(crate) fn finish(&self, run: u64, success: bool) {
        let mut written = self.written();
        if let (false, Some(job)) = (success, written.jobs.get(&run).copied()) {
            *written.failures.entry(job).or_default() += 1;
        }
        written.entries.push(Entry { at: Micros::now(), event: Event::Finished { run, success } });
    }

    /// Everything so far.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.written().entries.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_told_how_many_of_its_job_have_failed() {
        let history = History::default();
        let start = |job| history.start(job, None, "worker".to_owned(), None, 1);
        assert_eq!(start(7), (1, 0));
        history.finish(1, false);
        assert_eq!(start(7), (2, 1));
        history.finish(2, true);
        assert_eq!(start(7), (3, 1));
        assert_eq!(start(8), (4, 0));
        assert_eq!(history.entries().len(), 6);
    }
}
