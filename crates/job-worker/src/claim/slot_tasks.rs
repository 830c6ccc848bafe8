//! Slot tasks: the tokio tasks of the slots in use.

use std::sync::Arc;

use job_pg::Job;
use tokio::task::{JoinError, JoinSet};

use crate::attempt::Runner;

pub(super) struct SlotTasks {
    runner: Arc<Runner>,
    running: JoinSet<()>,
}

impl SlotTasks {
    pub(super) fn new(runner: Arc<Runner>) -> Self {
        Self { runner, running: JoinSet::new() }
    }

    /// Runs a job in a slot of its own, and whatever waits for a slot after it.
    pub(super) fn start(&mut self, lane: usize, job: Job) {
        self.running.spawn(self.runner.clone().run_slot(lane, job));
    }

    /// Waits until slots have ended. They end in crowds, when jobs are quick.
    pub(super) async fn ended(&mut self) {
        let Some(ended) = self.running.join_next().await else { return std::future::pending().await };
        log_lost(ended);
        while let Some(ended) = self.running.try_join_next() {
            log_lost(ended);
        }
    }

    /// The tasks, for a worker that claims no more.
    pub(super) fn into_inner(self) -> JoinSet<()> {
        self.running
    }
}

fn log_lost(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        // A panic in our own code: the job's lock stays until it is released or expires.
        tracing::error!("a slot was lost: {error}");
    }
}
