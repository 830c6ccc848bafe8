//! Run: start a worker's parts, and end with its drain.

use std::sync::Arc;

#[cfg(feature = "cli")]
use job_pg::Db;
use job_pg::{CANCEL_CHANNEL, DbError, GateError, Identity, Instance, Listener, WorkerDb};
use job_utils::config::{in_words, shown};
use job_utils::shutdown::Shutdown;
use uuid::Uuid;

use crate::attempt::Runner;
use crate::claim::Claimer;
#[cfg(feature = "cli")]
use crate::config::WorkerConfig;
use crate::context::WorkerContext;
use crate::dispatch::Dispatcher;
use crate::drain::Stopped;
use crate::heartbeat::register;
use crate::lane::lanes;
use crate::limits::set_limits;
use crate::payload_memory::{PayloadMemory, claimed_ahead};
use crate::slots::Slots;
use crate::succession::WorkerSuccession;
use crate::worker::{BuildError, Worker};

/// Notifications that there may be something to claim, and that attempts have been cancelled.
const CHANNELS: &[&str] = &["jobs:insert", CANCEL_CHANNEL];

/// Why a worker cannot run.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// It cannot be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The database settings are wrong or Postgres refuses them.
    #[error("the worker cannot use the database")]
    Db(#[from] DbError),
    /// JOBS_TASKS has a limit that cannot be set, so that it would not be kept.
    #[error("JOBS_TASKS: {task}.limit cannot be set")]
    Limit {
        /// The task.
        task: String,
        /// Why.
        #[source]
        source: GateError,
    },
    /// The HTTP client cannot be set up.
    #[error("the worker cannot set up its HTTP client")]
    Http(#[source] std::io::Error),
    /// The health port cannot be bound.
    #[error("the worker cannot serve health checks on port {port}")]
    Health {
        /// JOBS_HEALTH_PORT.
        port: u16,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

job_utils::debug_as_chain!(WorkerError);

/// Runs a worker alone, all of whose tasks are dispatched, with health checks when a port is configured, until told to
/// stop. With the feature `cli`.
#[cfg(feature = "cli")]
pub async fn run(config: WorkerConfig, shutdown: Shutdown) -> Result<Stopped, WorkerError> {
    config.tasks.warn_when_empty();
    let db = Db::new(&config.postgres)?;
    let (port, probed) = (config.health_port, db.clone());
    let ready = move || {
        let db = probed.clone();
        async move {
            db.ready().await?;
            db.settles()
        }
    };
    let worker = Worker::builder(db).config(config).dispatch_as_configured().build()?;
    // Health checks go on while the worker drains.
    let result = job_utils::health::beside(port, ready, worker.run(shutdown)).await;
    result.map_err(|source| WorkerError::Health { port: port.unwrap_or_default(), source })?
}

impl Worker {
    /// Runs until told to stop; then takes no more jobs, waits for those in flight as long as its grace lasts, gives
    /// back the rest, and says what it left behind. It waits for a database that is not there yet, and for the schema.
    ///
    /// Dropping the future is the hard way to stop, as safe as a crash: running handlers are dropped, and others take
    /// over their jobs when the lease is over, or the next worker with the same id at once.
    ///
    /// # Errors
    /// What waiting cannot mend, such as a wrong password.
    pub async fn run(self, shutdown: Shutdown) -> Result<Stopped, WorkerError> {
        run_to_end(self, shutdown).await
    }
}

async fn run_to_end(worker: Worker, shutdown: Shutdown) -> Result<Stopped, WorkerError> {
    let Worker { config, db, registry, dispatches, events } = worker;
    let dispatcher = if dispatches { Some(Dispatcher::new(&config).map_err(WorkerError::Http)?) } else { None };
    if !db.wait_until_ready(&shutdown).await? {
        return Ok(Stopped::default());
    }
    tokio::select! {
        () = shutdown.triggered() => return Ok(Stopped::default()),
        set = set_limits(&db, &config.task_settings) => {
            set.map_err(|(task, source)| WorkerError::Limit { task, source })?;
        }
    }
    let instance = Uuid::new_v4();
    let listener = tokio::select! {
        () = shutdown.triggered() => return Ok(Stopped::default()),
        listener = Listener::start(&db, CHANNELS, "worker", &config.worker_id, Some(instance)) => listener,
    };
    // It outlives the signal: it holds the id while jobs are drained.
    let _held = listener.clone();
    let instance = Instance {
        id: instance,
        lease: config.lease,
        listens: listener.is_listening(),
        overdue_message: format!("no callback within {}", in_words(config.callback_timeout)),
        job_expiry: config.job_expiry,
    };
    let worker_db = WorkerDb::new(db.clone(), config.worker_id.as_str(), instance);
    if listener.identity == Identity::Shared {
        tracing::warn!(
            worker.id = config.worker_id,
            "another live process has this worker id: give each one of its own (HOSTNAME, or `id` of the builder)"
        );
    }
    tokio::select! {
        () = shutdown.triggered() => {}
        () = register(&worker_db, &listener, &events) => {}
    }
    tracing::info!(
        worker.id = config.worker_id,
        concurrency = config.concurrency,
        database = db.place(),
        handlers = registry.by_task.len(),
        functions = dispatches.then(|| shown(&config.gateway.base)),
        callback = dispatches.then(|| shown(&config.callback_url)),
        "worker looks for jobs"
    );
    let limits = lanes(&config).into_iter().map(|lane| lane.limit);
    let slots = Arc::new(Slots::new(config.concurrency, config.prefetch, claimed_ahead(&config), limits));
    // Handlers are cancelled, and what they have spawned, also when this future is dropped.
    let stopping = shutdown.child();
    let _triggered = stopping.trigger_on_drop();
    let context = WorkerContext::new(db, stopping, events.clone());
    let memory = PayloadMemory::new(&config);
    if let Some(dispatcher) = &dispatcher {
        dispatcher.tell_by(worker_db.clone());
    }
    let succession = WorkerSuccession::new(&config, worker_db.clone(), slots.clone());
    let runner = Runner::new(context, worker_db.clone(), memory, registry, dispatcher, slots.clone(), succession);
    let claimer = Claimer::new(&config, worker_db, Arc::new(runner), slots, listener, &events);
    Ok(claimer.run(&shutdown).await)
}
