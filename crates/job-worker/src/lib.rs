#![doc = include_str!("../README.md")]

mod accept;
mod attempt;
mod claim;
pub mod config;
mod context;
#[cfg(feature = "dispatch")]
mod dispatch;
#[cfg(not(feature = "dispatch"))]
#[path = "no_dispatch.rs"]
mod dispatch;
mod drain;
mod given_back;
mod handler;
mod heartbeat;
mod hook;
mod lane;
mod memory;
mod outcome;
mod place;
mod retry;
mod slots;
mod stand_in;
pub mod testing;
mod thread;
mod wake;
mod worker;

use std::sync::Arc;

use job_pg::{Identity, Instance, Listener, WorkerDb};
use job_utils::config::{in_words, shown};

use crate::attempt::Runner;
use crate::claim::Claimer;
use crate::dispatch::Dispatcher;
use crate::heartbeat::register;
use crate::lane::lanes;
use crate::memory::{Memory, claimed_ahead};
use crate::slots::Slots;

pub use crate::context::{Cancelled, Context};
#[cfg(feature = "dispatch")]
#[doc(hidden)]
pub use crate::dispatch::CallbackProbe;
pub use crate::handler::TaskOptions;
pub use crate::hook::{Hook, Next};
pub use crate::outcome::{BoxError, HandlerResult, IntoOutcome, JobError, Outcome};
pub use crate::retry::Retry;
pub use crate::worker::{BuildError, Fault, Worker, WorkerBuilder};
// What an application needs beside the worker, so that one dependency is enough: each type that the API shows.
pub use crate::config::{ConfigError, PostgresConfig, ProcessEnv, SchemaName, Tasks, WorkerConfig};
pub use job_pg::migrate::{MigrateError, Migrated, migrate};
pub use job_pg::{
    CompleteError, Db, DbBuilder, DbError, EnqueueClient, EnqueueError, Enqueued, Field, IntoJob, IntoTimestamp,
    IsolationLevel, Job, KeyMode, NewJob, NotReady, SqlState, Timestamp, Transaction, Uuid, deadpool_postgres, enqueue,
    enqueue_in, enqueue_many, enqueue_many_in, jiff, rustls, schedule, tokio_postgres,
};
pub use job_utils::shutdown::Shutdown;
pub use job_utils::task::Task;
pub use job_utils::wire::signature::CallbackSecrets;

/// Notifications that there may be something to claim.
const CHANNELS: &[&str] = &["jobs:insert"];

/// What a worker left behind when it stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stopped {
    /// Jobs that were in flight when the stop began and ended by themselves.
    pub finished: usize,
    /// Jobs given back to be claimed anew.
    pub released: usize,
    /// Jobs that functions have accepted and not called back for, as last seen: a callback server takes their callbacks, and any
    /// worker sees to their deadlines.
    pub accepted: usize,
    /// Jobs that could not be given back, because Postgres was away: others take them over when the lease has passed.
    pub orphaned: usize,
}

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

/// Runs a worker alone, all of whose tasks are dispatched, with health checks when a port is configured, until told to stop. With the
/// feature `cli`.
#[cfg(feature = "cli")]
pub async fn run(config: WorkerConfig, shutdown: Shutdown) -> Result<Stopped, WorkerError> {
    config.tasks.warn_when_empty();
    let db = Db::new(&config.postgres)?;
    let (port, probed) = (config.health_port, db.clone());
    let ready = move || {
        let db = probed.clone();
        async move { db.ready().await }
    };
    let worker = Worker::builder(db).config(config).dispatch_as_configured().build()?;
    // Health checks go on while the worker drains.
    let result = job_utils::health::beside(port, ready, worker.run(shutdown)).await;
    result.map_err(|source| WorkerError::Health { port: port.unwrap_or_default(), source })?
}

/// Runs a worker until told to stop; then drains.
async fn run_to_end(worker: Worker, shutdown: Shutdown) -> Result<Stopped, WorkerError> {
    let Worker { config, db, registry, dispatches } = worker;
    let dispatcher = if dispatches { Some(Dispatcher::new(&config).map_err(WorkerError::Http)?) } else { None };
    if !db.wait_until_ready(&shutdown).await? {
        return Ok(Stopped::default());
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
        listens: !listener.is_deaf(),
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
        () = register(&worker_db, &listener) => {}
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
    let limits = lanes(&config).into_iter().map(|(limit, _)| limit);
    let slots = Arc::new(Slots::new(config.concurrency, config.prefetch, claimed_ahead(&config), limits));
    // Handlers are told, and what they have spawned, also when this future is dropped.
    let stopping = shutdown.child();
    let _told = stopping.trigger_on_drop();
    let runner =
        Runner::new(db, worker_db.clone(), Memory::new(&config), registry, dispatcher, slots.clone(), stopping);
    let claimer = Claimer::new(&config, worker_db, Arc::new(runner), slots, listener);
    Ok(claimer.run(&shutdown).await)
}
