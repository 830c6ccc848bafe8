//! Handler: run a task in this process, to an outcome in any case.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either, Map, Ready, ready};
use job_pg::Job;
use job_utils::config::in_words;
use job_utils::outcome::storable;
use job_utils::task::Task;
use tracing::Instrument;

use crate::context::Context;
use crate::hook::{DynHook, Next, Run};
use crate::outcome::{IntoOutcome, Outcome};
use crate::poll_time::Timed;
use crate::retry::Retry;
use crate::uncounted_retries::UncountedRetries;

/// How long a handler that asks whether it is to end has for that, once its time is up.
pub(crate) const CANCEL_GRACE: Duration = Duration::from_secs(1);

/// How a task is run, as far as it differs from what the worker does for all.
///
/// ```
/// use std::time::Duration;
/// use job_worker::{Retry, TaskOptions};
/// let options = TaskOptions::new().concurrency(4).timeout(Duration::from_secs(30)).retry(Retry::never());
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct TaskOptions {
    pub(crate) concurrency: Option<usize>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) retry: Retry,
}

impl TaskOptions {
    /// Nothing differs.
    pub fn new() -> Self {
        Self::default()
    }

    /// No more of the task's jobs at once than this, within what the worker runs.
    pub fn concurrency(mut self, jobs: usize) -> Self {
        self.concurrency = Some(jobs);
        self
    }

    /// How long the handler may take. Then [`Context::cancelled`] fires, and the attempt fails.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How failed attempts are tried again.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }
}

/// A task and how to run it.
pub(crate) struct Registered {
    run: Box<Run>,
    pub(crate) timeout: Duration,
    pub(crate) options: TaskOptions,
}

/// The tasks that run here, by identifier, and the hooks around all of them.
#[derive(Default)]
pub(crate) struct Registry {
    pub(crate) by_task: HashMap<String, Registered>,
    pub(crate) uncounted_retries: UncountedRetries,
    pub(crate) hooks: Vec<Box<dyn DynHook>>,
}

/// A handler as an object. What happens in it is an outcome: an error, a panic, and the end of its time.
pub(crate) fn registered<S, F, Fut>(options: TaskOptions, timeout: Duration, state: &Arc<S>, handler: F) -> Registered
where
    S: Send + Sync + 'static,
    F: Fn(Context<S>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send + 'static,
{
    let (state, handler) = (state.clone(), Arc::new(handler));
    let run = move |context: Context| -> BoxFuture<'static, Outcome> {
        let (state, handler) = (state.clone(), handler.clone());
        Box::pin(async move {
            context.begin(timeout);
            let given = context.clone().with_state(state);
            // The handler is called within the future: what it does before its first await may panic as well.
            let running = AssertUnwindSafe(async move { handler(given).await }).catch_unwind();
            let waits = context.pool_waits().clone();
            let running = async move { waits.of(running).await };
            let limited = limited(&context, timeout, running.instrument(context.span().clone()));
            // What panics beside the handler is the end of one whose time is up: what it held is dropped.
            let outcome = AssertUnwindSafe(limited).catch_unwind().await.unwrap_or_else(|panic| {
                let error = format!("{}, and {} when dropped", not_done(&context, timeout), panicked(&*panic));
                Outcome::Retry { error, after: None }
            });
            match outcome {
                // What kept it from its transaction is nothing that the job could be blamed for.
                Outcome::Retry { error, after: None } if context.has_not_begun() => Outcome::release(error),
                outcome => outcome,
            }
        })
    };
    Registered { run: Box::new(run), timeout, options }
}

/// Waits for a handler as long as it has time and its job is its own, and a little longer when it is about to end.
async fn limited(
    context: &Context,
    timeout: Duration,
    running: impl Future<Output = std::thread::Result<Outcome>>,
) -> Outcome {
    let running = std::pin::pin!(running);
    let mut running = Timed::new(running, context);
    // Whether it has asked whether it is to end.
    let about_to_end = tokio::select! {
        biased;
        ended = tokio::time::timeout(timeout, &mut running) => ended.map_err(|_| context.time_out()),
        taken = context.taken() => Err(context.take_away(taken)),
    };
    let ended = match about_to_end {
        Ok(ended) => Some(ended),
        Err(true) => tokio::time::timeout(CANCEL_GRACE, &mut running).await.ok(),
        Err(false) => None,
    };
    let end = context.deadline().map(|end| if context.observes_cancellation() { end + CANCEL_GRACE } else { end });
    let error = match ended {
        Some(Err(panic)) => panicked(&*panic),
        Some(Ok(outcome)) => match end.and_then(|end| running.held_beyond(end)) {
            None => return outcome,
            Some(held) => format!(
                "not done within {}: it held its thread for {} s, and what blocks belongs into spawn_blocking",
                in_words(timeout),
                held.as_secs()
            ),
        },
        None if context.taken_away().is_some() => "its job was taken away".to_owned(),
        None => not_done(context, timeout),
    };
    Outcome::Retry { error, after: None }
}

/// That a handler's time is up, and what it has done last as far as that is known.
fn not_done(context: &Context, timeout: Duration) -> String {
    let not_done = format!("not done within {}", in_words(timeout));
    match context.pool_waits().so_far() {
        None => not_done,
        Some(waited) => format!(
            "{not_done}: it has waited {} for a connection of the pool (pool_size of Db::builder, JOBS_POOL_SIZE)",
            in_words(Duration::from_millis(waited.as_millis() as u64))
        ),
    }
}

/// A typed handler's future, or that its payload cannot be read.
type Typed<Fut, R> = Either<Map<Fut, fn(R) -> Outcome>, Ready<Outcome>>;

/// What a handler of a type does: it reads the payload first.
pub(crate) fn typed<T, S, F, Fut, R>(handler: F) -> impl Fn(Context<S>) -> Typed<Fut, R> + Send + Sync
where
    T: Task,
    S: Send + Sync + 'static,
    F: Fn(T, Context<S>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = R> + Send + 'static,
    R: IntoOutcome + 'static,
{
    move |context| match serde_json::from_str(&context.job().payload) {
        Ok(payload) => handler(payload, context).map(R::into_outcome as fn(R) -> Outcome).left_future(),
        // Tried again: a newer worker may be able to read it.
        Err(error) => {
            let error = storable(&format!("payload: {error}"));
            ready(Outcome::Retry { error, after: None }).right_future()
        }
    }
}

impl Registry {
    /// Runs a job's handler within the hooks.
    pub(crate) async fn run(&self, task: &Registered, context: &Context) -> Outcome {
        if self.hooks.is_empty() {
            return (task.run)(context.clone()).await;
        }
        let next = Next { hooks: &self.hooks, context, run: &*task.run };
        let ended = AssertUnwindSafe(next.run().instrument(context.span().clone())).catch_unwind().await;
        ended.unwrap_or_else(|panic| Outcome::Retry { error: format!("a hook {}", panicked(&*panic)), after: None })
    }
}

impl Registry {
    /// How an attempt is stored: what is released waits a moment, and of another failure the task's retry policy says
    /// what follows.
    pub(crate) fn stored(&self, task: &Registered, job: &Job, outcome: Outcome) -> Outcome {
        let Outcome::Release { error, .. } = outcome else {
            self.uncounted_retries.reset(job.id);
            return task.stored(job, outcome);
        };
        // Who says that there is to be one attempt means it.
        let only_one = task.options.retry.is_last(1) || job.max_attempts <= 1;
        match if only_one { None } else { self.uncounted_retries.next_wait(job.id) } {
            Some(after) => Outcome::Snooze { after, error: Some(storable(&error)) },
            // What was released too often is any other failure.
            None => task.stored(job, Outcome::Retry { error, after: None }),
        }
    }
}

impl Registered {
    /// How the attempt is stored, by the task's retry policy.
    fn stored(&self, job: &Job, outcome: Outcome) -> Outcome {
        let retry = &self.options.retry;
        let stored = match outcome {
            Outcome::Retry { error, .. } if retry.is_last(job.attempts) => Outcome::Discard { error },
            // A policy of the application's own may panic: then the wait is the usual one.
            Outcome::Retry { error, after: None } => {
                match catch_unwind(AssertUnwindSafe(|| retry.wait(job.attempts))) {
                    Ok(after) => Outcome::Retry { error, after },
                    Err(panic) => {
                        let error = format!("{error} (the task's retry policy {})", panicked(&*panic));
                        Outcome::Retry { error, after: None }
                    }
                }
            }
            outcome => outcome,
        };
        // An outcome that a handler has made itself can have any text.
        stored.map_error(|error| storable(&error))
    }
}

/// What a panic said.
fn panicked(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    storable(&format!("panicked: {text}"))
}
