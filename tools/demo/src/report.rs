//! The demo's last word: job, e-mail type, subject, link, time from enqueue to done.

use anyhow::{Result, bail};

use super::stack::Mail;
use super::tracked_jobs::{Origin, TrackedJob, TrackedJobs};

/// The e-mail of a job. Another job's link in it would be a mix-up, so the job's own token has to be there.
fn mail_of<'a>(tracked: &TrackedJob, mails: &'a [Mail]) -> Option<&'a Mail> {
    mails.iter().find(|mail| mail.job_id == tracked.row.id && mail.link.contains(&tracked.row.token))
}

/// Every job with its e-mail, in columns.
pub(super) fn table(tracked_jobs: &TrackedJobs, mails: &[Mail]) -> String {
    let mut rows = vec![["job", "e-mail type", "subject", "link", "time"].map(str::to_owned)];
    for tracked in tracked_jobs.all() {
        let mail = mail_of(tracked, mails);
        rows.push([
            tracked.row.id.to_string(),
            tracked.row.email_type.clone(),
            mail.map_or_else(|| "-".to_owned(), |mail| mail.subject.clone()),
            mail.map_or_else(|| "-".to_owned(), |mail| mail.link.clone()),
            tracked.done_after.map_or_else(|| "not done".to_owned(), |seconds| format!("{seconds:.3} s")),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..5).map(width).collect();
    let line = |row: &[String; 5]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// An error unless the three jobs and at least three of the schedule's are done and each has an e-mail.
pub(super) fn verify(tracked_jobs: &TrackedJobs, mails: &[Mail]) -> Result<()> {
    let (enqueued, scheduled) = (tracked_jobs.count_done(Origin::Enqueued), tracked_jobs.count_done(Origin::Scheduled));
    if enqueued != 3 || scheduled < 3 {
        bail!("{enqueued} of 3 jobs are done, and {scheduled} of the schedule's (at least 3 were expected)");
    }
    for tracked in tracked_jobs.all() {
        if mail_of(tracked, mails).is_none() {
            bail!("job {} is done, but its e-mail is not in the function's log", tracked.row.id);
        }
    }
    Ok(())
}
