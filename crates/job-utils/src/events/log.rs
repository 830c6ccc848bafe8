//! The log: the first listener of all events. Each event has one line here, or none. The target of a line is the crate
//! of the service that it comes from, so that RUST_LOG can name it.

use super::{Attempt, Event, Skipped, Source};
use crate::config::in_words;
use crate::outcome::usual_wait;
use crate::telemetry::milliseconds;

/// How many ids a line names.
const SHOWN_IDS: usize = 20;

/// A line of a worker, or, where a callback has brought it about, of a callback server. What is not known is left out.
macro_rules! line {
    ($level:ident, $message:literal, $attempt:expr $(, $($field:ident).+ = $value:expr)*) => {{
        let attempt: &Attempt<'_> = $attempt;
        match attempt.source {
            Source::Worker | Source::Rescue => tracing::$level!(
                target: "job_worker",
                { job.id = attempt.job_id, job.task = attempt.task, $($($field).+ = $value,)* },
                $message
            ),
            Source::Callback => tracing::$level!(
                target: "job_server",
                { job.id = attempt.job_id, worker.id = attempt.worker_id, $($($field).+ = $value,)* },
                concat!($message, " by callback")
            ),
        }
    }};
}

#[inline]
pub(super) fn write(event: &Event<'_>) {
    match event {
        // Another event tells of the job; of a refusal the settler has told.
        Event::AttemptStarted(_)
        | Event::AttemptEnded(_)
        | Event::CallbackSettled(_)
        | Event::OutcomeRefused { .. } => {}
        Event::JobAccepted(attempt) => line!(info, "job accepted", attempt, duration_ms = duration_ms(attempt)),
        Event::JobCompleted(attempt) => line!(info, "job completed", attempt, duration_ms = duration_ms(attempt)),
        Event::JobRetrying { attempt, error, after } => line!(
            warn,
            "attempt failed",
            attempt,
            job.attempts = attempt.number,
            job.max_attempts = attempt.max_attempts,
            duration_ms = duration_ms(attempt),
            retry_after = after.or_else(|| attempt.number.map(usual_wait)).map(in_words),
            error = error
        ),
        Event::JobFailed { attempt, error } => line!(
            error,
            "job failed",
            attempt,
            job.attempts = attempt.number,
            duration_ms = duration_ms(attempt),
            error = error
        ),
        Event::JobSnoozed { attempt, after, error } => line!(
            info,
            "job snoozed",
            attempt,
            duration_ms = duration_ms(attempt),
            after = in_words(*after),
            error = error
        ),
        Event::JobReleased { attempt, after, error } => line!(
            info,
            "job released",
            attempt,
            duration_ms = duration_ms(attempt),
            after = in_words(*after),
            error = error
        ),
        Event::JobCancelled { attempt, reason } => {
            line!(info, "job cancelled", attempt, duration_ms = duration_ms(attempt), reason = reason);
        }
        Event::OutcomeStale(attempt) => line!(debug, "job already settled", attempt),
        _ => write_seldom(event),
    }
}

/// The lines that are not of every job.
fn write_seldom(event: &Event<'_>) {
    match event {
        Event::JobsTakenAway { jobs } => tracing::warn!(
            target: "job_worker",
            { jobs = ?jobs },
            "ended attempts whose jobs were taken away: deleted, unlocked, claimed anew, or ended by somebody else"
        ),
        Event::JobsRescued { jobs, workers } => tracing::warn!(
            target: "job_worker",
            { jobs = jobs.len(), ids = some_of(jobs), workers = workers.join(", ") },
            "rescued jobs of workers that went silent"
        ),
        Event::JobsTakenBack { jobs, worker_id } => tracing::info!(
            target: "job_worker",
            { jobs = jobs.len(), ids = some_of(jobs), worker.id = worker_id },
            "took back jobs of an earlier process"
        ),
        Event::CallbackOverdue { job_id } => tracing::warn!(
            target: "job_worker",
            { job.id = job_id },
            "attempt failed: its callback did not come in time"
        ),
        // Functions that say all in their answer call back as well.
        Event::CallbackStale { attempt, total } => tracing::debug!(
            target: "job_server",
            { job.id = attempt.job_id, worker.id = attempt.worker_id, stale = total },
            "stale callback changed nothing"
        ),
        Event::CallbackRefused { left_out: None, .. } => {}
        Event::CallbackRefused { job_id, status, path, reason, left_out } => tracing::warn!(
            target: "job_server",
            { job.id = job_id, status = status, path = path, left_out = left_out },
            "callback refused: {reason}"
        ),
        Event::ScheduleFired { schedule_id, at, job_id } => tracing::debug!(
            target: "job_scheduler",
            { schedule.id = schedule_id, job.id = job_id, at = %at },
            "a schedule fired"
        ),
        Event::FireSkipped { schedule_id, at, reason: Skipped::PreviousJob } => tracing::debug!(
            target: "job_scheduler",
            { schedule.id = schedule_id, at = %at },
            "a fire is skipped: the previous job still waits or runs"
        ),
        Event::FireSkipped { schedule_id, at, reason: Skipped::KeptOut(reason) } => tracing::info!(
            target: "job_scheduler",
            { schedule.id = schedule_id, at = %at },
            "a fire is skipped: {reason}"
        ),
        Event::FireRefused { schedule_id, at, error } => tracing::error!(
            target: "job_scheduler",
            { schedule.id = schedule_id, at = %at },
            "a fire made no job: {error}"
        ),
        Event::ScheduleInvalid { schedule_id, task, error } => tracing::warn!(
            target: "job_scheduler",
            { schedule.id = schedule_id, job.task = task },
            "a schedule cannot be used until it is changed: {error}"
        ),
        Event::ScheduleTakenAway { schedule_id } => tracing::debug!(
            target: "job_scheduler",
            { schedule.id = schedule_id },
            "a schedule is held no longer, or has changed"
        ),
        // The scheduler has one line for all schedules that missed fires together; an end stands in the schedule's row.
        Event::FiresMissed { .. } | Event::ScheduleEnded { .. } => {}
        // Written above.
        _ => {}
    }
}

fn duration_ms(attempt: &Attempt<'_>) -> Option<u64> {
    attempt.duration.map(milliseconds)
}

/// The first of some ids.
fn some_of(ids: &[i64]) -> String {
    let mut shown: Vec<String> = ids.iter().take(SHOWN_IDS).map(ToString::to_string).collect();
    if ids.len() > SHOWN_IDS {
        shown.push("…".to_owned());
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_some_ids_and_says_that_there_are_more() {
        assert_eq!(some_of(&[7, 8]), "7, 8");
        let many: Vec<i64> = (1..=1000).collect();
        assert!(some_of(&many).starts_with("1, 2, 3, ") && some_of(&many).ends_with(", 20, …"), "{}", some_of(&many));
    }
}
