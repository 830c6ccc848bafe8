//! Each job as the jobs table shows it: queued, claimed, perhaps failed, gone.

use std::collections::BTreeMap;

/// Where a job came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Enqueued,
    Scheduled,
}

/// A job's row at one look.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) email_type: String,
    pub(super) token: String,
    /// Seconds since the epoch, by the database's clock.
    pub(super) created_at: f64,
    pub(super) locked_by: Option<String>,
    pub(super) last_error: Option<String>,
    pub(super) attempts: i32,
    pub(super) max_attempts: i32,
}

/// What is known about one job.
#[derive(Debug, Clone)]
pub(super) struct TrackedJob {
    pub(super) row: Row,
    pub(super) origin: Origin,
    /// Seconds from enqueue to the row's end.
    pub(super) done_after: Option<f64>,
}

/// All jobs seen so far.
#[derive(Debug, Default)]
pub(super) struct TrackedJobs {
    jobs: BTreeMap<i64, TrackedJob>,
    /// The schedule whose end has passed, once it has.
    schedule_over: bool,
}

impl TrackedJobs {
    pub(super) fn all(&self) -> impl Iterator<Item = &TrackedJob> {
        self.jobs.values()
    }

    pub(super) fn count_done(&self, origin: Origin) -> usize {
        self.all().filter(|tracked| tracked.origin == origin && tracked.done_after.is_some()).count()
    }

    /// Whether the schedule's time is over and every job it made is done.
    pub(super) fn schedule_is_over(&self) -> bool {
        let mut scheduled = self.all().filter(|tracked| tracked.origin == Origin::Scheduled);
        self.schedule_over && scheduled.all(|tracked| tracked.done_after.is_some())
    }

    /// Takes one look at the table and returns a line for everything that changed.
    pub(super) fn look(&mut self, now: f64, rows: Vec<Row>, schedule_over: bool) -> Vec<String> {
        self.schedule_over = schedule_over;
        let mut lines = Vec::new();
        for (id, tracked) in &mut self.jobs {
            if tracked.done_after.is_none() && !rows.iter().any(|row| row.id == *id) {
                let seconds = now - tracked.row.created_at;
                if tracked.row.locked_by.is_none() {
                    lines.push(line(&tracked.row, "claimed (between two looks)"));
                }
                lines.push(line(&tracked.row, &format!("done after {seconds:.3} s")));
                tracked.done_after = Some(seconds);
            }
        }
        for row in rows {
            let before = self.jobs.get(&row.id).map(|tracked| tracked.row.clone());
            if before.is_none() {
                lines.push(line(&row, "queued"));
            }
            let error = row.last_error.as_ref().filter(|_| row.locked_by.is_none());
            if let Some(error) = error.filter(|_| {
                before.as_ref().is_none_or(|old| old.last_error != row.last_error || old.locked_by.is_some())
            }) {
                lines.push(line(&row, &format!("failed, attempt {} of {}: {error}", row.attempts, row.max_attempts)));
            }
            if let Some(worker) = &row.locked_by
                && before.as_ref().is_none_or(|old| old.locked_by.is_none())
            {
                lines.push(line(&row, &format!("claimed by {worker}")));
            }
            let origin = if row.token.starts_with("scheduled") { Origin::Scheduled } else { Origin::Enqueued };
            self.jobs.insert(row.id, TrackedJob { row, origin, done_after: None });
        }
        lines
    }
}

fn line(row: &Row, what: &str) -> String {
    format!("  job {:<4} {:<20} {what}", row.id, row.email_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(locked_by: Option<&str>, last_error: Option<&str>) -> Row {
        Row {
            id: 7,
            email_type: "invite_email".to_owned(),
            token: "invite-token-123".to_owned(),
            created_at: 100.0,
            locked_by: locked_by.map(str::to_owned),
            last_error: last_error.map(str::to_owned),
            attempts: 1,
            max_attempts: 25,
        }
    }

    fn told(tracked_jobs: &mut TrackedJobs, now: f64, rows: Vec<Row>) -> Vec<String> {
        let lines = tracked_jobs.look(now, rows, false);
        lines.iter().filter_map(|line| Some(line.split_once("invite_email")?.1.trim().to_owned())).collect()
    }

    #[test]
    fn a_job_is_queued_claimed_failed_claimed_again_and_done_each_told_once() {
        let mut tracked_jobs = TrackedJobs::default();
        assert_eq!(told(&mut tracked_jobs, 100.0, vec![row(None, None)]), ["queued"]);
        assert_eq!(told(&mut tracked_jobs, 100.1, vec![row(None, None)]), [""; 0]);
        assert_eq!(told(&mut tracked_jobs, 100.2, vec![row(Some("w"), None)]), ["claimed by w"]);
        assert_eq!(told(&mut tracked_jobs, 100.3, vec![row(None, Some("no"))]), ["failed, attempt 1 of 25: no"]);
        assert_eq!(told(&mut tracked_jobs, 100.4, vec![row(Some("w"), Some("no"))]), ["claimed by w"]);
        assert_eq!(tracked_jobs.count_done(Origin::Enqueued), 0);
        assert_eq!(told(&mut tracked_jobs, 100.5, vec![]), ["done after 0.500 s"]);
        assert_eq!(told(&mut tracked_jobs, 100.6, vec![]), [""; 0]);
        assert_eq!(tracked_jobs.count_done(Origin::Enqueued), 1);
    }

    #[test]
    fn a_job_that_was_claimed_between_two_looks_is_told_so() {
        let mut tracked_jobs = TrackedJobs::default();
        told(&mut tracked_jobs, 100.0, vec![row(None, None)]);
        assert_eq!(told(&mut tracked_jobs, 100.1, vec![]), ["claimed (between two looks)", "done after 0.100 s"]);
    }
}
