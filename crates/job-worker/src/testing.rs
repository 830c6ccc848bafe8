//! For the tests of applications: run what is due now, in the test itself, and see how each attempt ended.
//!
//! ```no_run
//! # use job_worker::{Context, Db, HandlerResult, Outcome, Task, Worker, enqueue, testing};
//! # use serde::{Deserialize, Serialize};
//! # #[derive(Debug, Serialize, Deserialize)] struct Greet { name: String }
//! # impl Task for Greet { const IDENTIFIER: &'static str = "greet"; }
//! # async fn greet(_: Greet, _: Context) -> HandlerResult { Ok(()) }
//! # async fn example(db: Db) -> Result<(), Box<dyn std::error::Error>> {
//! let worker = Worker::builder(db.clone()).task(greet).build()?;
//! enqueue(&db, Greet { name: "Ada".into() }).await?;
//! let ran = worker.run_due().await?;
//! assert_eq!(ran[0].outcome, Outcome::Complete);
//! # Ok(())
//! # }
//! ```

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use job_pg::{CallbackDb, ClaimRequest, Claimed, Cursor, DbError, Instance, Job, WorkerDb};
use job_utils::outcome::Outcome;
use job_utils::shutdown::Shutdown;
use uuid::Uuid;

use crate::context::{Context, WorkerContext};
use crate::payload_memory::claimed_ahead;
use crate::slots;
use crate::worker::Worker;

pub use job_pg::SettleError;
pub use job_pg::testing::{InQueue, TestingError, advance, assert_enqueued, blocked, enqueued, migrate_url};

/// An attempt that was run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Ran {
    /// The job as it was claimed.
    pub job: Job,
    /// How the attempt ended: as the handler returned, or done by a transaction of its own.
    pub outcome: Outcome,
}

/// What kept due jobs from being run.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum RunDueError {
    /// The database did not do it.
    #[error("due jobs cannot be run")]
    Db(#[from] DbError),
    /// An outcome could not be stored.
    #[error("an outcome cannot be stored")]
    Settle(#[from] SettleError),
}

job_utils::debug_as_chain!(RunDueError);

impl Worker {
    /// For tests: runs all jobs that are due now and have a handler here, those that they enqueue as well, one after
    /// the other in order, with hooks, timeouts and retry policies; stores how they end; and returns that. A job runs
    /// once: one that is due again at once, after a retry without a wait, is left for the next call. Nothing is
    /// dispatched over HTTP.
    ///
    /// One after the other, whatever the worker's `concurrency`: jobs that wait for each other would wait for their
    /// timeouts. What is to run at once is run by the worker itself:
    ///
    /// ```no_run
    /// # use job_worker::{Shutdown, Worker};
    /// # async fn example(worker: Worker) -> Result<(), Box<dyn std::error::Error>> {
    /// let shutdown = Shutdown::new();
    /// let running = tokio::spawn(worker.run(shutdown.clone()));
    /// // … wait for what the jobs are to bring about …
    /// shutdown.trigger();
    /// running.await??;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The database did not do it.
    pub async fn run_due(&self) -> Result<Vec<Ran>, RunDueError> {
        let instance = Instance {
            id: Uuid::new_v4(),
            lease: self.config.lease,
            listens: false,
            overdue_message: String::new(),
            job_expiry: self.config.job_expiry,
        };
        let worker_db = WorkerDb::new(self.db.clone(), self.config.worker_id.as_str(), instance);
        let settler = CallbackDb::new(self.db.clone());
        let tasks: Vec<String> = self.registry.by_task.keys().cloned().collect();
        // Also when this is dropped in the middle.
        let stopping = Shutdown::new();
        let _triggered = stopping.trigger_on_drop();
        let worker_context = WorkerContext::new(self.db.clone(), stopping, self.events.clone());
        let (mut ran, mut known) = (Vec::new(), HashSet::new());
        loop {
            let claim = ClaimRequest {
                tasks: Some(&tasks),
                excluded: &[],
                limit: slots::BATCH,
                from_start: true,
                cursor: &Cursor::default(),
                freed: &[],
                horizon: Duration::ZERO,
                heartbeat: None,
                careful: false,
                payload_bytes: claimed_ahead(&self.config),
            };
            let Claimed::Jobs(jobs) = worker_db.claim(claim).await?.claimed else { return Ok(ran) };
            let (again, new): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| known.contains(&job.id));
            for job in &new {
                known.insert(job.id);
            }
            if !again.is_empty() {
                worker_db.release(&again.iter().map(Job::claim_id).collect::<Vec<_>>()).await?;
            }
            if new.is_empty() {
                return Ok(ran);
            }
            for mut job in new {
                if job.is_deferred() {
                    let size = worker_db.payload_size(&job).await?.unwrap_or_default();
                    worker_db.load_payload(&mut job, size).await?;
                }
                let outcome = self.run_now(&settler, &job, &worker_context).await?;
                ran.push(Ran { job, outcome });
            }
        }
    }

    async fn run_now(
        &self,
        settler: &CallbackDb,
        job: &Job,
        worker_context: &Arc<WorkerContext>,
    ) -> Result<Outcome, RunDueError> {
        // Claimed by its task.
        let Some(task) = self.registry.by_task.get(&job.task) else {
            return Ok(Outcome::snooze(Duration::ZERO));
        };
        let context = Context::new(
            Arc::new(job.clone()),
            task.options.retry.most(job.max_attempts),
            worker_context.clone(),
            None,
        );
        let outcome = self.registry.run(task, &context).await;
        if context.is_completed() {
            self.registry.uncounted_retries.reset(job.id);
            // Whatever it returned afterwards.
            return Ok(Outcome::Complete);
        }
        let stored = self.registry.stored(task, job, outcome.clone());
        let _stale_too = settler.settle(&self.config.worker_id, job.id, Some(job.epoch), stored).await?;
        Ok(outcome)
    }
}
