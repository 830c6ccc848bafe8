//! Refusals: jobs that cannot be claimed, because a trigger, a constraint or a domain of the application's refuses the
//! change of their rows. One of them makes a claim fail, and everything behind it would wait. So claims are careful for
//! a while: they try the jobs, leave out those that are refused, and take the others. Here those are told in the log.

use std::collections::HashSet;
use std::time::Duration;

use job_pg::{DbError, RefusedJob, WorkerDb};
use job_utils::error::chain;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long claims stay careful after one was refused. As long as a refused job is left out.
const CAREFUL: Duration = Duration::from_secs(60);

/// How many ids a line of the log names.
const SHOWN: usize = 10;

/// How many ids are remembered as told.
const MOST_TOLD: usize = 10_000;

pub(super) struct Refusals {
    db: WorkerDb,
    careful_until: Option<Instant>,
    /// Jobs that the log has named.
    told: HashSet<i64>,
    asking: JoinSet<Result<Vec<RefusedJob>, DbError>>,
}

impl Refusals {
    pub(super) fn new(db: WorkerDb) -> Self {
        Self { db, careful_until: None, told: HashSet::new(), asking: JoinSet::new() }
    }

    /// Whether a claim that begins now is to be careful.
    pub(super) fn is_careful(&self, now: Instant) -> bool {
        self.careful_until.is_some_and(|until| now < until)
    }

    /// A claim failed.
    pub(super) fn claim_failed(&mut self, error: &DbError) {
        if error.is_refusal() {
            self.careful_until = Some(Instant::now() + CAREFUL);
        }
    }

    /// A careful claim has succeeded, and may have found such jobs.
    pub(super) fn ask(&mut self) {
        if self.asking.is_empty() {
            let db = self.db.clone();
            self.asking.spawn(async move { db.refused_jobs().await });
        }
    }

    /// Tells of jobs that were found, for good.
    pub(super) async fn tell(&mut self) {
        loop {
            let Some(answer) = self.asking.join_next().await else { return std::future::pending().await };
            match answer {
                Ok(Ok(refused)) => self.tell_of(&refused),
                Ok(Err(error)) => tracing::debug!("cannot list refused jobs: {}", chain(&error)),
                Err(error) => tracing::error!("a look for refused jobs was lost: {error}"),
            }
        }
    }

    fn tell_of(&mut self, refused: &[RefusedJob]) {
        if self.told.len() > MOST_TOLD {
            self.told.clear();
        }
        let new: Vec<&RefusedJob> = refused.iter().filter(|job| self.told.insert(job.id)).collect();
        let Some(last) = new.last() else { return };
        let ids: Vec<String> = new.iter().take(SHOWN).map(|job| job.id.to_string()).collect();
        tracing::warn!(
            jobs = new.len(),
            ids = ids.join(", "),
            "jobs that cannot be claimed are left out, and tried again every minute: {}",
            last.error
        );
    }
}
