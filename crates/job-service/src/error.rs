//! Why the service cannot go on.

use job_pg::DbError;
use job_pg::migrate::MigrateError;
use job_utils::config::ConfigError;

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
