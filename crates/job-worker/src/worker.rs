//! Worker: a worker as a value, put together by its builder.

#[cfg(feature = "dispatch")]
mod dispatch;

use std::sync::Arc;
use std::time::Duration;

use crate::config::WorkerConfig;
use job_pg::Db;
use job_utils::config::{Tasks, Var, in_words};
use job_utils::events::{Event, Events};
use job_utils::task::Task;

use crate::context::Context;
use crate::handler::{Registry, TaskOptions, registered, typed};
use crate::hook::Hook;
use crate::outcome::IntoOutcome;

/// A worker: tasks with their handlers, and how to run them. It does nothing until it runs.
///
/// ```no_run
/// # use serde::{Deserialize, Serialize};
/// use job_worker::{Context, Db, HandlerResult, Shutdown, Task, Worker};
///
/// #[derive(Serialize, Deserialize)]
/// struct Greet {
///     name: String,
/// }
///
/// impl Task for Greet {
///     const IDENTIFIER: &'static str = "greet";
/// }
///
/// async fn greet(job: Greet, _context: Context) -> HandlerResult {
///     println!("hello {}", job.name);
///     Ok(())
/// }
///
/// # async fn example(db: Db, shutdown: Shutdown) -> Result<(), Box<dyn std::error::Error>> {
/// let worker = Worker::builder(db).task(greet).build()?;
/// worker.run(shutdown).await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "it does nothing until it runs"]
pub struct Worker {
    pub(crate) config: WorkerConfig,
    pub(crate) db: Db,
    pub(crate) registry: Arc<Registry>,
    /// Whether tasks without a handler are dispatched over HTTP.
    pub(crate) dispatches: bool,
    pub(crate) events: Events,
}

impl Worker {
    /// Begins a worker on a pool. It takes the tasks that it has handlers for, and leaves all others alone, unless it
    /// dispatches them (`dispatch`).
    pub fn builder(db: Db) -> WorkerBuilder {
        WorkerBuilder {
            config: WorkerConfig::default(),
            db,
            state: Arc::new(()),
            registry: Registry::default(),
            events: Events::default(),
            tasks: Vec::new(),
            dispatches: false,
            said: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// Tells those listeners as well.
    #[doc(hidden)]
    pub fn also_telling(mut self, events: &Events) -> Self {
        self.events = self.events.and(events);
        self
    }

    /// The worker's id.
    pub fn id(&self) -> &str {
        &self.config.worker_id
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut tasks: Vec<&String> = self.registry.by_task.keys().collect();
        tasks.sort();
        f.debug_struct("Worker").field("id", &self.id()).field("tasks", &tasks).finish_non_exhaustive()
    }
}

/// A worker that is being put together. `S` is the state that handlers get.
#[must_use = "build it"]
pub struct WorkerBuilder<S = ()> {
    config: WorkerConfig,
    db: Db,
    state: Arc<S>,
    registry: Registry,
    events: Events,
    /// Limits and timeouts are known when all is said.
    tasks: Vec<Pending>,
    dispatches: bool,
    /// Settings that have been said one by one.
    said: Vec<&'static str>,
    faults: Vec<Fault>,
}

/// A task that is to be registered once the worker's timeout is known.
type Pending = Box<dyn FnOnce(&mut Registry, &WorkerConfig) -> Option<Fault> + Send>;

/// A setting that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// The builder's method, or the task.
    pub setting: String,
    /// What is wrong.
    pub message: String,
}

/// A worker that cannot be built: everything that is wrong with it.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("the worker cannot be built{}", faults.iter().map(|fault| format!("\n  {}: {}", fault.setting, fault.message)).collect::<String>())]
#[non_exhaustive]
pub struct BuildError {
    /// Every fault.
    pub faults: Vec<Fault>,
}

job_utils::debug_as_chain!(BuildError);

fn fault(setting: impl Into<String>, message: impl Into<String>) -> Fault {
    Fault { setting: setting.into(), message: message.into() }
}

/// The builder's method for a setting, where it has one.
fn setting(var: &Var) -> &'static str {
    match var.name {
        "HOSTNAME" => "id",
        "JOBS_CONCURRENCY" => "concurrency",
        "JOBS_PREFETCH" => "prefetch",
        "JOBS_DISPATCH_TIMEOUT" => "timeout",
        "JOBS_POLL_INTERVAL" => "poll_interval",
        "JOBS_SHUTDOWN_GRACE" => "shutdown_grace",
        "JOBS_LEASE" => "lease",
        "JOBS_JOB_EXPIRY" => "job_expiry",
        name => name,
    }
}

impl<S: Send + Sync + 'static> WorkerBuilder<S> {
    /// The application's own state, for the handlers of tasks that are added after this: those take a `Context<T>`.
    /// What all workers share goes into an `Arc`.
    ///
    /// ```
    /// # use job_worker::{BuildError, Context, Db, Task, Worker};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Plain {}
    /// # impl Task for Plain { const IDENTIFIER: &'static str = "plain"; }
    /// # #[derive(Serialize, Deserialize)] struct Report {}
    /// # impl Task for Report { const IDENTIFIER: &'static str = "report"; }
    /// # #[derive(Serialize, Deserialize)] struct CleanUp {}
    /// # impl Task for CleanUp { const IDENTIFIER: &'static str = "clean_up"; }
    /// struct App {
    ///     name: String,
    /// }
    ///
    /// async fn plain(_: Plain, _: Context) {}
    ///
    /// async fn report(_: Report, context: Context<App>) {
    ///     println!("{}", context.state().name);
    /// }
    ///
    /// // With any state, or none.
    /// async fn clean_up<S>(_: CleanUp, _: Context<S>) {}
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), BuildError> {
    /// # let db = Db::from_url("postgres://localhost/shop").unwrap();
    /// // `report` before `.state(…)` does not compile, nor does `plain` after it.
    /// let worker = Worker::builder(db).task(plain).state(App { name: "shop".into() }).task(report).task(clean_up).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn state<T: Send + Sync + 'static>(self, state: T) -> WorkerBuilder<T> {
        let Self { config, db, registry, events, tasks, dispatches, said, faults, .. } = self;
        WorkerBuilder { config, db, state: Arc::new(state), registry, events, tasks, dispatches, said, faults }
    }

    /// Runs jobs of type `T` here. The type says the task's identifier. The handler's context has the state that was
    /// given before this ([`WorkerBuilder::state`]).
    ///
    /// A handler shares its threads with the worker: work that blocks belongs into `tokio::task::spawn_blocking`.
    pub fn task<T, F, Fut, R>(self, handler: F) -> Self
    where
        T: Task,
        F: Fn(T, Context<S>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = R> + Send + 'static,
        R: IntoOutcome + 'static,
    {
        self.task_with(TaskOptions::new(), handler)
    }

    /// [`WorkerBuilder::task`] with options.
    pub fn task_with<T, F, Fut, R>(self, options: TaskOptions, handler: F) -> Self
    where
        T: Task,
        F: Fn(T, Context<S>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = R> + Send + 'static,
        R: IntoOutcome + 'static,
    {
        self.add(T::IDENTIFIER.to_owned(), options, typed(handler))
    }

    /// Runs a task here that has no type: its name is known only when the program runs, or its payload is not to be
    /// read. The handler finds the payload in [`Context::job`].
    pub fn raw_task<F, Fut, R>(self, identifier: impl Into<String>, options: TaskOptions, handler: F) -> Self
    where
        F: Fn(Context<S>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = R> + Send + 'static,
        R: IntoOutcome + 'static,
    {
        self.add(identifier.into(), options, move |context| {
            let running = handler(context);
            async { running.await.into_outcome() }
        })
    }

    fn add<F, Fut>(mut self, identifier: String, options: TaskOptions, handler: F) -> Self
    where
        F: Fn(Context<S>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = crate::Outcome> + Send + 'static,
    {
        let state = self.state.clone();
        self.tasks.push(Box::new(move |registry, config| {
            let timeout = options.timeout.unwrap_or(config.dispatch_timeout);
            let length = identifier.chars().count();
            let problem = match options.concurrency {
                _ if !(1..=126).contains(&length) => Some("a task identifier has 1 to 126 characters".to_owned()),
                _ if registry.by_task.contains_key(&identifier) => Some("the task has a handler already".to_owned()),
                Some(0) => Some("concurrency must be at least 1".to_owned()),
                // Past its expiry a job is claimed anew, so no attempt may legitimately last longer.
                _ if timeout > config.job_expiry => {
                    let expiry = in_words(config.job_expiry);
                    Some(format!("timeout must not exceed job_expiry (JOBS_JOB_EXPIRY), which is {expiry}"))
                }
                _ if timeout.is_zero() => Some("timeout must not be 0".to_owned()),
                _ => None,
            };
            let problem = problem.map(|message| fault(format!("task {identifier:?}"), message));
            if config.tasks.include(&identifier) {
                registry.by_task.insert(identifier, registered(options, timeout, &state, handler));
            } else {
                tracing::info!(task = identifier, "the task is left to other workers: JOBS_SUPPORTED leaves it out");
            }
            problem
        }));
        self
    }

    /// Does something around every handler, in the order of adding: the first is outermost.
    pub fn hook(mut self, hook: impl Hook) -> Self {
        self.registry.hooks.push(Box::new(hook));
        self
    }

    /// Tells a listener what happens to jobs and attempts, of handlers and of functions alike: see [`Event`]. It is
    /// called where it happens, and must be quick. The log has its lines all the same. `run_due` tells nothing.
    ///
    /// ```
    /// # use job_worker::{Db, Event, Worker};
    /// # fn example(db: Db) {
    /// let worker = Worker::builder(db).on_event(|event| match event {
    ///     Event::JobFailed { attempt, error } => eprintln!("job {} has failed for good: {error}", attempt.job_id),
    ///     _ => {}
    /// });
    /// # }
    /// ```
    pub fn on_event(mut self, listener: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        self.events = self.events.with(listener);
        self
    }

    /// The worker's id, at least 4 visible ASCII characters, for `locked_by`. Two live workers need two; the next
    /// worker with the same id takes back at once what a killed one ran. A random one unless given.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.said.push("id");
        self.config.worker_id = id.into();
        self
    }

    /// How many jobs run at once; 16 unless given.
    pub fn concurrency(mut self, jobs: usize) -> Self {
        self.said.push("concurrency");
        self.config.concurrency = jobs;
        self
    }

    /// How many quick jobs may be claimed ahead; 1000 unless given, 0 for none.
    pub fn prefetch(mut self, jobs: usize) -> Self {
        self.said.push("prefetch");
        self.config.prefetch = jobs;
        self
    }

    /// How long a handler may take whose task does not say; 15 minutes unless given.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.said.push("timeout");
        self.config.dispatch_timeout = timeout;
        self
    }

    /// How often to poll, without a notification; 5 s unless given.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.said.push("poll_interval");
        self.config.poll_interval = interval;
        self
    }

    /// How long a stop waits for jobs in flight; 25 s unless given.
    pub fn shutdown_grace(mut self, grace: Duration) -> Self {
        self.said.push("shutdown_grace");
        self.config.shutdown_grace = grace;
        self
    }

    /// How long the worker may be silent before others take over its jobs; 30 s unless given.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.said.push("lease");
        self.config.lease = lease;
        self
    }

    /// How old a job's lock may get before it no longer counts, whoever holds it; 4 hours unless given. All workers of
    /// a database have the same. No attempt may last longer.
    pub fn job_expiry(mut self, expiry: Duration) -> Self {
        self.said.push("job_expiry");
        self.config.job_expiry = expiry;
        self
    }

    /// All settings at once, as those of the environment: `WorkerConfig::from_env(&ProcessEnv)?`. The pool is that of
    /// the builder. It comes before single settings, which it would undo. Of the tasks that have handlers it runs those
    /// that `tasks` includes: one program can be started several times, each with tasks of its own
    /// (JOBS_SUPPORT_ANY=false, JOBS_SUPPORTED).
    pub fn config(mut self, config: WorkerConfig) -> Self {
        if !self.said.is_empty() {
            let message = format!("comes after {}, and would undo it: give it first", self.said.join(", "));
            self.faults.push(fault("config", message));
        }
        self.config = config;
        self
    }

    /// The worker.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn build(self) -> Result<Worker, BuildError> {
        let Self { mut config, db, mut registry, events, tasks, dispatches, mut faults, .. } = self;
        let count = tasks.len();
        faults.extend(tasks.into_iter().filter_map(|task| task(&mut registry, &config)));
        faults.extend(config.problems().into_iter().map(|(var, message)| fault(setting(var), message)));
        if registry.by_task.is_empty() && !dispatches {
            let message = match count {
                0 => "there is none, and nothing is dispatched: the worker would do nothing",
                _ => "tasks (JOBS_SUPPORTED) leaves out all that have handlers: the worker would do nothing",
            };
            faults.push(fault("task", message));
        }
        if !faults.is_empty() {
            return Err(BuildError { faults });
        }
        for (task, registered) in &registry.by_task {
            if let Some(jobs) = registered.options.concurrency {
                config.task_concurrency.insert(task.clone(), jobs);
            }
        }
        if !dispatches {
            config.tasks = Tasks::Only(registry.by_task.keys().cloned().collect());
        }
        Ok(Worker { config, db, registry: Arc::new(registry), dispatches, events })
    }
}

impl<S> std::fmt::Debug for WorkerBuilder<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerBuilder").field("tasks", &self.tasks.len()).finish_non_exhaustive()
    }
}
