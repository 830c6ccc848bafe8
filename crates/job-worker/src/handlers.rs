//! Handlers: tasks that run in this process instead of being dispatched over HTTP.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use job_utils::config::in_words;
use job_utils::db::Job;
use job_utils::wire::callback::{Outcome, storable};

type Running = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
type Handler = dyn Fn(Job) -> Running + Send + Sync;

/// Handlers by task identifier. A task without one is dispatched over HTTP.
///
/// ```
/// use job_worker::{Handlers, Job};
/// let handlers = Handlers::new().add("greet", |job: Job| async move {
///     println!("hello, {}", job.payload);
///     Ok(())
/// });
/// ```
#[derive(Clone, Default)]
pub struct Handlers {
    by_task: HashMap<String, Arc<Handler>>,
}

impl Handlers {
    /// No handlers: everything is dispatched.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a task here. `Ok` completes the job; the text of `Err` becomes its `last_error`, and it is tried again as any
    /// failed attempt is. A panic is a failure with its message, and so is what takes longer than JOBS_DISPATCH_TIMEOUT.
    ///
    /// A handler shares its threads with the worker: work that blocks belongs into `tokio::task::spawn_blocking`.
    #[must_use]
    pub fn add<F, R>(mut self, task: impl Into<String>, handler: F) -> Self
    where
        F: Fn(Job) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.by_task.insert(task.into(), Arc::new(move |job| Box::pin(handler(job))));
        self
    }

    /// Runs a job's handler to its end; gives the job back when there is none.
    pub(crate) async fn run(&self, job: &mut Job, limit: Duration) -> Option<Outcome> {
        let handler = self.by_task.get(&job.task_identifier)?;
        // The attempt's own record keeps everything but the payload, which can be large.
        let mut handed = job.clone_without_payload();
        handed.payload = std::mem::take(&mut job.payload);
        // The handler is called within the future: what it does before its first await may panic as well.
        let running = AssertUnwindSafe(async { handler(handed).await }).catch_unwind();
        let Ok(ended) = tokio::time::timeout(limit, running).await else {
            return Some(Outcome::Fail(format!("not done within {} (JOBS_DISPATCH_TIMEOUT)", in_words(limit))));
        };
        Some(match ended {
            Ok(Ok(())) => Outcome::Complete,
            Ok(Err(message)) => Outcome::Fail(storable(&message)),
            Err(panic) => Outcome::Fail(storable(&format!("panicked: {}", panic_message(&*panic)))),
        })
    }
}

/// What a panic said.
fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

impl std::fmt::Debug for Handlers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.by_task.keys()).finish()
    }
}
