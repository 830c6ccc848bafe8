//! Succession: when a job of a queue, or of a task with a limit, has been completed, the next one takes its place,
//! claimed in the same statement.
//!
//! Only while the worker has slots to spare. When all are in use, the one that gets free is for the first job of all.

use std::sync::Arc;
use std::time::Duration;

use job_pg::{Claimant, Job, Succession, Wanted, WorkerDb};

use crate::config::WorkerConfig;
use crate::release::release;
use crate::slots::Slots;

/// What is left of an attempt when its outcome is on its way.
pub(crate) struct EndedAttempt {
    pub(crate) lane: usize,
    /// Without the payload, which can be large.
    pub(crate) job: Arc<Job>,
    /// Those of the job, or fewer by its task's policy.
    pub(crate) max_attempts: i32,
    pub(crate) duration: Duration,
    /// The job waits because the attempt could not do its work.
    pub(crate) released: bool,
    /// The next job of its queue or task has taken its place.
    pub(crate) succeeded: bool,
}

/// What a worker's settler needs to know for it.
pub(crate) struct WorkerSuccession {
    db: WorkerDb,
    slots: Arc<Slots>,
    /// The worker's tasks; None: any.
    tasks: Option<Vec<String>>,
    /// Those of them that have a lane of their own.
    limited: Vec<String>,
}

impl WorkerSuccession {
    pub(crate) fn new(config: &WorkerConfig, db: WorkerDb, slots: Arc<Slots>) -> Self {
        let tasks = config.tasks.as_filter().map(<[String]>::to_vec);
        Self { db, slots, tasks, limited: config.task_concurrency.keys().cloned().collect() }
    }
}

impl Succession<EndedAttempt> for WorkerSuccession {
    fn may_follow(&self, ended: &EndedAttempt) -> bool {
        // Other gates of the job are written before these, and its queue behind its task.
        let gate = ended.job.gate.as_deref();
        match ended.job.queue {
            Some(_) => gate.is_some_and(|gate| gate.starts_with("queue")),
            None => gate.is_some_and(|gate| gate.starts_with("task")),
        }
    }

    fn reserve<'a>(&'a self, ended: &'a EndedAttempt, epoch: i64) -> Option<Wanted<'a>> {
        let queue = ended.job.queue.as_deref();
        let own_task = self.limited.contains(&ended.job.task).then_some(ended.job.task.as_str());
        self.slots.reserve(ended.lane, epoch).then_some(Wanted { queue, task: &ended.job.task, own_task })
    }

    fn ended(&self, ended: &mut EndedAttempt, epoch: i64, job: Option<Job>) {
        ended.succeeded = job.is_some();
        let Some(claim) = self.slots.reservation_ended(ended.lane, epoch, job) else { return };
        // It came after the worker had been told to stop. It is held until it has been given back.
        let (db, slots) = (self.db.clone(), self.slots.clone());
        tokio::spawn(async move {
            release(db, vec![claim]).await;
            slots.forget(&[claim]);
        });
    }

    fn lost(&self) {
        self.slots.request_reconcile();
    }

    fn claimant(&self) -> Claimant<'_> {
        // Claims beside this one need a share, too.
        let payload_bytes = self.slots.payload_room(0) / 4;
        Claimant { instance: self.db.instance(), tasks: self.tasks.as_deref(), excluded: &self.limited, payload_bytes }
    }
}
