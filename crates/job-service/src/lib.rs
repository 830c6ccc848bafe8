#![doc = include_str!("../README.md")]

mod error;
mod schedule;
mod service;
mod supervise;

use job_utils::config::{Env, Known, Reader};

pub use error::ServiceError;
pub use schedule::{IntoRule, schedule};
pub use service::{Service, ServiceBuilder};
pub use supervise::Stopped;
// What an application needs beside the service, so that one dependency is enough: each type that the API shows.
pub use job_scheduler::SchedulerConfig;
pub use job_scheduler::{SchedulerError, Stopped as SchedulerStopped};
pub use job_server::ServerConfig;
pub use job_server::ServerError;
pub use job_worker::{
    AdminDb, BoxError, BuildError, CallbackSecrets, CancelError, Cancelled, CancelledJobs, CompleteError, ConfigError,
    Context, Db, DbBuilder, DbError, EnqueueClient, EnqueueError, Enqueued, Event, Fault, Field, Gate, GateError,
    GateSettings, HandlerResult, Hook, IntoJob, IntoOutcome, IntoTimestamp, IsolationLevel, Job, JobError, KeyMode,
    Limit, MigrateError, Migrated, NewJob, Next, NotReady, Outcome, PostgresConfig, ProcessEnv, Rate, Retry,
    SchemaName, Shutdown, SqlState, Stopped as WorkerStopped, Task, TaskOptions, Tasks, Timestamp, Transaction, Uuid,
    Worker, WorkerBuilder, WorkerConfig, WorkerError, config, deadpool_postgres, enqueue, enqueue_in, enqueue_many,
    enqueue_many_in, events, jiff, migrate, rustls, testing, tokio_postgres,
};

/// The variables that the service reads: those of its three parts.
pub fn known() -> Known {
    job_pg::config::known(&[job_worker::config::VARS, job_server::VARS, job_scheduler::VARS])
}

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

/// The page on gates: so are its.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/gates.md")]
struct Gates;

/// The page on cancelling: so are its.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/cancel.md")]
struct Cancel;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use job_utils::config::misspelt;

    use super::*;

    fn found(pairs: &[(&'static str, &'static str)]) -> Vec<(String, &'static str)> {
        misspelt(&pairs.iter().copied().collect::<BTreeMap<_, _>>(), &known())
    }

    #[test]
    fn a_misspelt_variable_is_told_with_the_one_that_was_meant() {
        for (written, meant) in [
            ("JOBS_CONCURENCY", "JOBS_CONCURRENCY"),
            ("JOB_CONCURRENCY", "JOBS_CONCURRENCY"),
            ("JOBS_SUPPORT", "JOBS_SUPPORTED"),
            ("JOBS_CALLBAKC_SECRET", "JOBS_CALLBACK_SECRET"),
            ("jobs_schema", "JOBS_SCHEMA"),
            ("KNATIVE_SERVICE_URI", "KNATIVE_SERVICE_URL"),
            ("INTERNAL_JOB_CALLBACK_URL", "INTERNAL_JOBS_CALLBACK_URL"),
            ("PGHSOT", "PGHOST"),
        ] {
            assert_eq!(found(&[(written, "x")]), [(written.to_owned(), meant)]);
        }
    }

    #[test]
    fn variables_of_others_are_left_alone() {
        for name in [
            "PATH",
            "HOME",
            "PORT2",
            "TZDIR",
            "PGDATA",
            "PGSSLCRL",
            "PGPASSFILE",
            "PGSERVICE",
            "NODE_OPTIONS",
            "JOBS_DASHBOARD",
            "JOBS_QUEUE",
            "JOBS_URL",
            "JOBS_TIMEOUT",
            "DATABASE_SSL",
            "DATABASE_USER",
            "DATABASE_HOST",
            "LOG_LEVEL",
            "RUST_BACKTRACE",
            "HOST",
            "HOSTTYPE",
            "SMTP_HOST",
            "GRAPHQL_URL",
            "ADMIN_TOKEN",
            "JOBS_CALLBACK_SERVICE_HOST",
            "JOBS_CALLBACK_SERVICE_PORT",
            "JOBS_CALLBACK_PORT_8080_TCP",
        ] {
            assert_eq!(found(&[(name, "x")]), [], "{name}");
        }
        assert_eq!(found(&[("JOBS_CALLBACK_PORT", "tcp://10.0.0.1:8080")]), []);
        // Whoever has set the right one has found out, or means something else by the other.
        assert_eq!(found(&[("JOBS_CONCURENCY", "x"), ("JOBS_CONCURRENCY", "4")]), []);
        for var in known().read() {
            assert_eq!(found(&[(var.name, "x")]), [], "{}", var.name);
        }
    }
}
