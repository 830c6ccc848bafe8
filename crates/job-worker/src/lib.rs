#![doc = include_str!("../README.md")]

mod attempt;
mod claim;
mod dispatch;
mod drain;
mod handlers;
mod lane;
mod slots;
mod wake;

use std::sync::Arc;
use std::time::Duration;

use job_utils::backoff::Backoff;
use job_utils::config::WorkerConfig;
pub use job_utils::db::Job;
use job_utils::db::{Db, DbError, Identity, Listener, WorkerDb};
use job_utils::error::chain;
use job_utils::health;
use job_utils::shutdown::Shutdown;

use crate::attempt::Runner;
use crate::claim::Claimer;
use crate::dispatch::{Dispatcher, shown};
pub use crate::handlers::Handlers;
use crate::lane::lanes;
use crate::slots::Slots;

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
    /// Jobs that could not be given back, because Postgres was away: they wait for their lock to expire. Those that a
    /// function had accepted are counted as last seen.
    pub orphaned: usize,
}

/// Why a worker cannot run.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
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

/// Runs a worker alone, with health checks when a port is configured, until told to stop.
pub async fn run(config: WorkerConfig, shutdown: Shutdown) -> Result<Stopped, WorkerError> {
    config.tasks.warn_when_empty();
    let db = Db::new(&config.postgres)?;
    let (port, probed) = (config.health_port, db.clone());
    let ready = move || {
        let db = probed.clone();
        async move { db.ready().await }
    };
    // Health checks go on while the worker drains.
    let result = health::beside(port, ready, run_with(config, Handlers::new(), db, shutdown)).await;
    result.map_err(|source| WorkerError::Health { port: port.unwrap_or_default(), source })?
}

/// Runs a worker on a given pool until told to stop; then drains. Tasks with a handler run in this process, all others are
/// dispatched over HTTP.
pub async fn run_with(
    config: WorkerConfig,
    handlers: Handlers,
    db: Db,
    shutdown: Shutdown,
) -> Result<Stopped, WorkerError> {
    let dispatcher = Dispatcher::new(&config).map_err(WorkerError::Http)?;
    if !db.wait_until_ready(&shutdown).await? {
        return Ok(Stopped::default());
    }
    let worker_db = WorkerDb::new(db.clone(), config.worker_id.as_str());
    // The listener outlives the signal: it holds the id while jobs are drained.
    let listening = Shutdown::new();
    let listener = tokio::select! {
        () = shutdown.triggered() => None,
        listener = Listener::start(&db, CHANNELS, "worker", &config.worker_id, &listening) => listener,
    };
    let Some(listener) = listener else {
        listening.trigger();
        return Ok(Stopped::default());
    };
    if listener.identity == Identity::Shared {
        tracing::warn!(
            worker.id = config.worker_id,
            "another live process has this worker id: give each its own HOSTNAME"
        );
    } else {
        tokio::select! {
            () = shutdown.triggered() => {}
            () = take_back(&worker_db, &listener) => {}
        }
    }
    tracing::info!(
        worker.id = config.worker_id,
        concurrency = config.concurrency,
        database = db.place(),
        functions = shown(&config.gateway.base),
        callback = shown(&config.callback_url),
        "worker looks for jobs"
    );
    let limits = lanes(&config).into_iter().map(|(limit, _)| limit);
    let slots = Arc::new(Slots::new(config.concurrency, config.prefetch, limits));
    let runner =
        Runner::new(db, worker_db.worker_id().clone(), handlers, dispatcher, slots.clone(), config.dispatch_timeout);
    let claimer = Claimer::new(&config, worker_db, Arc::new(runner), slots, listener);
    let stopped = claimer.run(&shutdown).await;
    listening.trigger();
    Ok(stopped)
}

/// Releases what an earlier process under this id left locked. The jobs would wait for hours otherwise, so an outage of
/// the database only delays it.
async fn take_back(db: &WorkerDb, listener: &Listener) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    loop {
        // Another process with this id may have come during an outage.
        match listener.identity().await {
            Identity::Shared => return,
            Identity::Unknown => {}
            Identity::Sole => match db.release(None).await {
                Ok(0) => return,
                Ok(jobs) => {
                    tracing::info!(jobs, worker.id = &**db.worker_id(), "took back jobs of an earlier process");
                    return;
                }
                Err(error) => tracing::warn!("cannot take back jobs of an earlier process yet: {}", chain(&error)),
            },
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}
