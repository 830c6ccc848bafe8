#![doc = include_str!("../README.md")]

mod schedule;
mod service;
mod supervise;

use job_utils::config::{Env, Reader};

pub use schedule::{IntoRule, schedule};
pub use service::{Service, ServiceBuilder};
pub use supervise::Stopped;
// What an application needs beside the service, so that one dependency is enough: each type that the API shows.
pub use job_scheduler::{SchedulerError, Stopped as SchedulerStopped};
pub use job_server::ServerError;
pub use job_utils::config::{SchedulerConfig, ServerConfig};
pub use job_worker::{
    BoxError, BuildError, CallbackSecrets, Cancelled, CompleteError, ConfigError, Context, Db, DbBuilder, DbError,
    EnqueueClient, EnqueueError, Enqueued, Fault, Field, HandlerResult, Hook, IntoJob, IntoOutcome, IntoTimestamp,
    IsolationLevel, Job, JobError, KeyMode, MigrateError, Migrated, NewJob, Next, NotReady, Outcome, PostgresConfig,
    ProcessEnv, Retry, SchemaName, Shutdown, SqlState, Stopped as WorkerStopped, Task, TaskOptions, Tasks, Timestamp,
    Transaction, Uuid, Worker, WorkerBuilder, WorkerConfig, WorkerError, config, deadpool_postgres, enqueue,
    enqueue_in, enqueue_many, enqueue_many_in, jiff, migrate, rustls, testing, tokio_postgres,
};

/// The settings of all three parts, read together.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServiceConfig {
    /// The worker's settings.
    pub worker: WorkerConfig,
    /// The callback server's settings.
    pub server: ServerConfig,
    /// The scheduler's settings.
    pub scheduler: SchedulerConfig,
}

impl ServiceConfig {
    /// Reads and checks every variable; one error names every fault.
    pub fn from_env(env: &dyn Env) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(env);
        let config = Self {
            worker: WorkerConfig::read(&mut reader),
            server: ServerConfig::read(&mut reader),
            scheduler: SchedulerConfig::read(&mut reader),
        };
        reader.finish(config)
    }
}

/// Why the service cannot go on. The other parts have been stopped in order.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// Settings of a part cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The jobs schema cannot be made.
    #[error("the jobs schema cannot be made")]
    Migrate(#[from] MigrateError),
    /// The database settings cannot be used.
    #[error("the database settings cannot be used")]
    Db(#[from] DbError),
    /// The worker failed.
    #[error(transparent)]
    Worker(#[from] job_worker::WorkerError),
    /// The callback server failed.
    #[error(transparent)]
    Server(#[from] job_server::ServerError),
    /// The scheduler failed.
    #[error(transparent)]
    Scheduler(#[from] job_scheduler::SchedulerError),
}

job_utils::debug_as_chain!(ServiceError);

/// Runs worker, callback server and scheduler on one pool until told to stop, or until one of them fails.
///
/// A stop ends the scheduler and the worker first and the callback server last, so that functions can still report the
/// jobs they have accepted.
pub async fn run(config: ServiceConfig, shutdown: Shutdown) -> Result<Stopped, ServiceError> {
    // Worker and scheduler have the same tasks.
    config.worker.tasks.warn_when_empty();
    let db = Db::new(&config.worker.postgres)?;
    // Before anything else: a port that is taken is no reason to claim jobs.
    let listener = job_server::bind(config.server.port).await?;
    let worker = Worker::builder(db.clone()).config(config.worker).dispatch_as_configured();
    let service = Service::builder(db).worker(worker.build().map_err(WorkerError::from)?);
    service.server_on(config.server, listener).scheduler(config.scheduler).build().run(shutdown).await
}

/// The workspace's README: its Rust examples are compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// The page on the library: so are its.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/library.md")]
struct Library;

/// The page on functions: so are its.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/functions.md")]
struct Functions;
