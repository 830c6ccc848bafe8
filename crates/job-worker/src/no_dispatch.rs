//! No dispatch: without the feature there is no dispatcher, and no way to get one.

use crate::config::WorkerConfig;
use job_pg::Job;
use job_utils::outcome::Outcome;

use crate::payload_memory::MemoryPermit;

/// Sends jobs to functions: there is none.
pub(crate) enum Dispatcher {}

impl Dispatcher {
    /// # Errors
    /// Always.
    pub(crate) fn new(_: &WorkerConfig) -> std::io::Result<Self> {
        Err(std::io::Error::new(std::io::ErrorKind::Unsupported, "without the feature `dispatch`"))
    }

    pub(crate) async fn dispatch(&self, _: &Job, _: String, _: Option<MemoryPermit>) -> Option<Outcome> {
        match *self {}
    }
}
