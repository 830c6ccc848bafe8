#![doc = include_str!("../README.md")]

mod agenda;
mod claim;
mod clock;
mod config;
mod drain;
mod materialise;
#[cfg(feature = "cli")]
pub mod preview;
mod scheduler;
pub mod timetable;

use job_pg::{Db, DbError, Identity, Listener, SchedulerDb, SchedulerInstance};
use job_utils::config::ConfigError;
use job_utils::events::Events;
use job_utils::shutdown::Shutdown;
use uuid::Uuid;

pub use crate::config::{JOBS_FIRES_RETENTION, JOBS_SCHEDULER_LEASE, SchedulerConfig, TZ, VARS, read_time_zone};

use crate::scheduler::Scheduler;

pub use crate::drain::Stopped;

/// Notifications that there is a schedule to take, or that one has changed or is gone.
const CHANNELS: &[&str] = &["scheduled_jobs:insert", "scheduled_jobs:change"];

/// Why a scheduler cannot run.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum SchedulerError {
    /// Settings cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The database settings are wrong or Postgres refuses them.
    #[error("the scheduler cannot use the database")]
    Db(#[from] DbError),
    /// The health port cannot be bound.
    #[error("the scheduler cannot serve health checks on port {port}")]
    Health {
        /// JOBS_HEALTH_PORT.
        port: u16,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

job_utils::debug_as_chain!(SchedulerError);

/// Runs a scheduler alone, with health checks when a port is configured, until told to stop. With the feature `cli`.
#[cfg(feature = "cli")]
pub async fn run(config: SchedulerConfig, shutdown: Shutdown) -> Result<Stopped, SchedulerError> {
    config.tasks.warn_when_empty();
    let db = Db::new(&config.postgres)?;
    let (port, probed) = (config.health_port, db.clone());
    let ready = move || {
        let db = probed.clone();
        async move { db.ready().await }
    };
    // Health checks go on while the scheduler drains.
    let result = job_utils::health::beside(port, ready, run_with(config, db, Events::default(), shutdown)).await;
    result.map_err(|source| SchedulerError::Health { port: port.unwrap_or_default(), source })?
}

/// Runs a scheduler on a given pool until told to stop; then gives its schedules back. `events` is told of each fire.
///
/// # Errors
/// A setting cannot be used, or Postgres refuses what waiting cannot mend.
pub async fn run_with(
    config: SchedulerConfig,
    db: Db,
    events: Events,
    shutdown: Shutdown,
) -> Result<Stopped, SchedulerError> {
    ConfigError::none_of(config.problems())?;
    if !db.wait_until_ready(&shutdown).await? {
        return Ok(Stopped::default());
    }
    let instance = Uuid::new_v4();
    let listener = tokio::select! {
        () = shutdown.triggered() => return Ok(Stopped::default()),
        listener = Listener::start(&db, CHANNELS, "scheduler", &config.scheduler_id, Some(instance)) => listener,
    };
    // It outlives the signal: it holds the id until the schedules are given back.
    let _held = listener.clone();
    if listener.identity == Identity::Shared {
        tracing::warn!(
            scheduler.id = config.scheduler_id,
            "another live process has this scheduler id: give each one of its own (HOSTNAME, or `scheduler_id` of its settings)"
        );
    }
    tracing::info!(scheduler.id = config.scheduler_id, "scheduler looks for schedules");
    let instance = SchedulerInstance { id: instance, lease: config.lease, listens: listener.is_listening() };
    let scheduler_db = SchedulerDb::new(db, &config.scheduler_id, instance);
    let grace = config.shutdown_grace / 2;
    let held = Scheduler::new(config, scheduler_db.clone(), listener, events).run(&shutdown).await;
    Ok(drain::drain(&scheduler_db, held, grace).await)
}
