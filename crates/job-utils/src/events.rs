//! Events: what happens to jobs, attempts, callbacks and schedules, told in one place to whoever listens.
//!
//! Worker, callback server and scheduler have an [`Events`] and [emit](Events::emit) an [`Event`] where something has
//! happened; each variant is emitted by those alone who know of it, in one way for handlers and HTTP functions. The log
//! is the first listener and is always there (`events/log.rs`); an application adds its own when it builds a worker or
//! a service (`on_event`). Metrics, history and traces are listeners as well.
//!
//! A listener is called synchronously, in the task that emits, and borrows everything: emitting allocates nothing,
//! clones nothing and locks nothing. So it must be quick and must not block: what takes time goes into a channel. When
//! it panics, that is caught and logged once, and the others are called all the same.
//!
//! - **To add an event**: a variant of [`Event`] with a doc comment in the words of ARCHITECTURE.md's glossary, what it
//!   says as borrowed fields, a line (or none) in `events/log.rs`, and one `emit` where it is certain that it has
//!   happened: what is stored is told after it is stored.
//! - **To add a listener**: a closure or function that takes `&Event<'_>` and matches what it is about; the enum and
//!   its structs are `non_exhaustive`, so new events and fields break none.

mod log;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;

use crate::outcome::Outcome;

/// Which process part an event of an attempt comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// The worker that runs the attempt.
    Worker,
    /// The callback server: the function has called back.
    Callback,
    /// A worker that ends what nobody runs any more: attempts of workers that went silent, of earlier processes and of
    /// its own that it has lost track of, and accepted jobs whose callback did not come.
    Rescue,
}

/// The attempt that an event is about. What the emitter does not know is None.
///
/// A callback names a job and a worker alone, and the statement that stores it answers with what changed nothing, as a
/// rule with no row. So events of [`Source::Callback`] have no task, queue, number and duration: they would cost a row
/// a job, or another statement. [`Event::JobAccepted`] of the same job has told them, in the worker.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Attempt<'a> {
    /// Who tells.
    pub source: Source,
    /// Which job.
    pub job_id: i64,
    /// Which worker holds it; for [`Source::Rescue`] the one that has ended it.
    pub worker_id: &'a str,
    /// Its task.
    pub task: Option<&'a str>,
    /// Its named queue, when it has one.
    pub queue: Option<&'a str>,
    /// Which attempt this is, from 1.
    pub number: Option<i32>,
    /// How many attempts there are, by the job and its task's policy.
    pub max_attempts: Option<i32>,
    /// How long it took, once it has ended.
    pub duration: Option<Duration>,
}

impl<'a> Attempt<'a> {
    /// An attempt of which no more is known.
    pub fn new(source: Source, job_id: i64, worker_id: &'a str) -> Self {
        Self { source, job_id, worker_id, task: None, queue: None, number: None, max_attempts: None, duration: None }
    }
}

/// Why a fire made no job although nothing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Skipped<'a> {
    /// The job of the fire before still waits or runs.
    PreviousJob,
    /// A trigger of the application kept the job out; its reason.
    KeptOut(&'a str),
}

/// What has happened.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// An attempt starts: its handler is about to be called, or its function to be sent the job.
    AttemptStarted(Attempt<'a>),
    /// An attempt has ended here, after its `duration`: the handler has returned, the function has answered, or the
    /// attempt was stopped. It is told once for each that has started in this process, also of those that a stop or a
    /// panic ends. What becomes of its job is told by another event, at the latest by the worker that rescues it.
    AttemptEnded(Attempt<'a>),
    /// A function has taken the job and will call back.
    JobAccepted(Attempt<'a>),
    /// The job is done, and its row is gone.
    JobCompleted(Attempt<'a>),
    /// The attempt failed, and another follows. A callback server does not know how many attempts the job itself has:
    /// it tells this of the last of them as well.
    JobRetrying {
        /// Which attempt.
        attempt: Attempt<'a>,
        /// What went wrong.
        error: &'a str,
        /// The wait before the next one; None: the usual one.
        after: Option<Duration>,
    },
    /// The job has failed for good: its attempts are used up, or another would fail as well. A job that nobody ran any
    /// more has had its last attempt: [`Source::Rescue`] tells.
    JobFailed {
        /// Which attempt.
        attempt: Attempt<'a>,
        /// What went wrong.
        error: &'a str,
    },
    /// Somebody has cancelled the job while this attempt ran: it is gone, and no attempt follows. Told by the worker
    /// that ran the attempt. Of jobs that waited, or that a function had accepted, nothing is told.
    JobCancelled {
        /// Which attempt.
        attempt: Attempt<'a>,
        /// Why, when somebody has said so.
        reason: Option<&'a str>,
    },
    /// The job waits, and no attempt is used up.
    JobSnoozed {
        /// Which attempt.
        attempt: Attempt<'a>,
        /// How long it waits.
        after: Duration,
        /// Why, when somebody has said so.
        error: Option<&'a str>,
    },
    /// The attempt could not do its work through no fault of the job's. It is made again, and no attempt is used up.
    JobReleased {
        /// Which attempt.
        attempt: Attempt<'a>,
        /// How long the job waits.
        after: Duration,
        /// What was in the way.
        error: &'a str,
    },
    /// Postgres refuses an outcome of the worker's, and nothing was changed: the job is interrupted, and starts again.
    OutcomeRefused {
        /// Which attempt.
        attempt: Attempt<'a>,
        /// Why.
        error: &'a str,
    },
    /// An outcome came too late and changed nothing: a callback was faster, or the job was taken away or cancelled.
    OutcomeStale(Attempt<'a>),
    /// Attempts were ended here because their jobs were taken away: deleted, unlocked, claimed anew, or ended by
    /// somebody else.
    JobsTakenAway {
        /// Which jobs.
        jobs: &'a [i64],
    },
    /// Jobs of workers that went silent are free to be claimed again. Of those that have no attempt left
    /// [`Event::JobFailed`] follows.
    JobsRescued {
        /// Which jobs.
        jobs: &'a [i64],
        /// Which workers.
        workers: &'a [String],
    },
    /// A worker has taken back what an earlier process with its id ran. [`Event::JobFailed`] follows as for those.
    JobsTakenBack {
        /// Which jobs.
        jobs: &'a [i64],
        /// Which worker.
        worker_id: &'a str,
    },
    /// The callback of an accepted job has not come in time: the attempt failed. When it was the job's last one,
    /// [`Event::JobFailed`] follows.
    CallbackOverdue {
        /// Which job.
        job_id: i64,
    },
    /// The outcome of a callback is stored. What became of the job is told as well.
    CallbackSettled(Attempt<'a>),
    /// A callback came too late or twice, and changed nothing.
    CallbackStale {
        /// Which attempt it names.
        attempt: Attempt<'a>,
        /// How many there have been in this process.
        total: u64,
    },
    /// A callback was refused, and nothing was changed.
    CallbackRefused {
        /// Which job it names, when that is a job's id.
        job_id: Option<i64>,
        /// What its sender was answered.
        status: u16,
        /// The beginning of its path.
        path: &'a str,
        /// Why.
        reason: &'a (dyn std::error::Error + 'static),
        /// For the log, which has one line a second: how many refusals it has left out since the last line. None: it
        /// leaves this one out.
        left_out: Option<u64>,
    },
    /// A schedule has made a job.
    ScheduleFired {
        /// Which schedule.
        schedule_id: i64,
        /// The instant of its rule.
        at: Timestamp,
        /// The job.
        job_id: i64,
    },
    /// A schedule was due and made no job, as it should be.
    FireSkipped {
        /// Which schedule.
        schedule_id: i64,
        /// The instant of its rule.
        at: Timestamp,
        /// Why.
        reason: Skipped<'a>,
    },
    /// A schedule was due, and the database refused its job.
    FireRefused {
        /// Which schedule.
        schedule_id: i64,
        /// The instant of its rule.
        at: Timestamp,
        /// Why.
        error: &'a str,
    },
    /// Fires of a schedule were missed while the scheduler or its database was away, and are not made up for. Told once
    /// the schedule's row says so.
    FiresMissed {
        /// Which schedule.
        schedule_id: i64,
        /// The instant of the last of them.
        last: Timestamp,
    },
    /// A schedule cannot be used until it is changed.
    ScheduleInvalid {
        /// Which schedule.
        schedule_id: i64,
        /// Its task.
        task: &'a str,
        /// What is wrong with it.
        error: &'a str,
    },
    /// A schedule has no fire left. Told once its row says so.
    ScheduleEnded {
        /// Which schedule.
        schedule_id: i64,
    },
    /// A schedule is held no longer by this scheduler, or has changed.
    ScheduleTakenAway {
        /// Which schedule.
        schedule_id: i64,
    },
}

impl<'a> Event<'a> {
    /// What has become of a job by an outcome that is stored.
    pub fn settled(attempt: Attempt<'a>, outcome: &'a Outcome) -> Self {
        match outcome {
            Outcome::Complete => Self::JobCompleted(attempt),
            Outcome::Retry { error, after } => match (attempt.number, attempt.max_attempts) {
                (Some(number), Some(most)) if number >= most => Self::JobFailed { attempt, error },
                _ => Self::JobRetrying { attempt, error, after: *after },
            },
            Outcome::Discard { error } => Self::JobFailed { attempt, error },
            Outcome::Snooze { after, error } => Self::JobSnoozed { attempt, after: *after, error: error.as_deref() },
            Outcome::Release { error } => Self::JobReleased { attempt, after: Duration::ZERO, error },
        }
    }
}

/// Who listens, beside the log.
struct Listener {
    call: Box<dyn Fn(&Event<'_>) + Send + Sync>,
    /// It has panicked, and that was logged.
    panicked: AtomicBool,
}

/// Tells events to the log and to the listeners that were added. Clones share them.
#[derive(Clone, Default)]
pub struct Events {
    listeners: Option<Arc<[Arc<Listener>]>>,
}

impl Events {
    /// With one listener more.
    pub fn with(self, listener: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        let listener = Listener { call: Box::new(listener), panicked: AtomicBool::new(false) };
        self.and(&Self { listeners: Some([Arc::new(listener)].into()) })
    }

    /// With the listeners of another, which follow.
    pub fn and(self, other: &Self) -> Self {
        let all: Vec<_> = [&self.listeners, &other.listeners].into_iter().flatten().flat_map(|some| &**some).collect();
        let listeners = (!all.is_empty()).then(|| all.into_iter().cloned().collect());
        Self { listeners }
    }

    /// Tells the log and all listeners, in the order in which they were added.
    #[inline]
    pub fn emit(&self, event: &Event<'_>) {
        log::write(event);
        if let Some(listeners) = &self.listeners {
            tell(listeners, event);
        }
    }
}

/// A listener is the application's code: its panic is not to end what emits.
fn tell(listeners: &[Arc<Listener>], event: &Event<'_>) {
    for listener in listeners {
        let told = catch_unwind(AssertUnwindSafe(|| (listener.call)(event)));
        let Err(payload) = told else { continue };
        // A text is dropped. What else an application panics with might panic again as it is dropped.
        if !payload.is::<String>() && !payload.is::<&str>() {
            std::mem::forget(payload);
        }
        if !listener.panicked.swap(true, Ordering::Relaxed) {
            tracing::error!(?event, "a listener of events panicked; it is called again, and told of no more");
        }
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Events").field(&self.listeners.as_ref().map_or(0, |listeners| listeners.len())).finish()
    }
}

#[cfg(test)]
mod tests;
