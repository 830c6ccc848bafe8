//! No dispatch: without the feature there is no dispatcher, and no way to get one.

use crate::config::WorkerConfig;
use job_pg::{HostNews, Job, WorkerDb};
use job_utils::outcome::Outcome;
use tokio::time::Instant;

use crate::payload_memory::MemoryPermit;

/// Sends jobs to functions: there is none.
pub(crate) enum Dispatcher {}

impl Dispatcher {
    /// # Errors
    /// Always.
    pub(crate) fn new(_: &WorkerConfig) -> std::io::Result<Self> {
        Err(std::io::Error::new(std::io::ErrorKind::Unsupported, "without the feature `dispatch`"))
    }

    pub(crate) fn tell_by(&self, _: WorkerDb) {
        match *self {}
    }

    pub(crate) fn claimed(&self, _: &[HostNews], _: bool, _: Instant, _: &[Job]) {
        match *self {}
    }

    pub(crate) fn left_tasks(&self) -> Vec<String> {
        match *self {}
    }

    pub(crate) fn pass(&self, _: &Job) -> Result<Pass, NoPass> {
        match *self {}
    }

    pub(crate) async fn admit<T>(&self, _: &Job, _: NoPass, _: impl Future<Output = T>) -> Option<Pass> {
        match *self {}
    }

    pub(crate) async fn dispatch(&self, _: &Job, _: String, _: Option<MemoryPermit>, _: Pass) -> Option<Outcome> {
        match *self {}
    }
}

/// What lets a job be sent: there is none.
pub(crate) enum Pass {}

/// A job that cannot be sent now: there is none.
pub(crate) enum NoPass {}
