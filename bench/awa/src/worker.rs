//! The handler in this process.

use std::sync::Arc;

use async_trait::async_trait;
use awa::{JobArgs, JobContext, JobError, JobResult, Worker};
use rivalkit::Probe;
use serde::{Deserialize, Serialize};

/// The job.
#[derive(Debug, Deserialize, JobArgs, Serialize)]
pub(crate) struct Noop {
    pub(crate) n: u64,
    pub(crate) pad: String,
}

/// Does nothing but tell the probe.
pub(crate) struct Counting(pub(crate) Arc<Probe>);

#[async_trait]
impl Worker for Counting {
    fn kind(&self) -> &'static str {
        "noop"
    }

    async fn perform(&self, context: &JobContext) -> Result<JobResult, JobError> {
        self.0.hit(context.job.args["n"].as_u64().unwrap_or_default());
        Ok(JobResult::Completed)
    }
}
