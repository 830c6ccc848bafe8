#![doc = include_str!("../README.md")]

mod accept;
mod attempt;
mod cancelled;
mod claim;
pub mod config;
mod context;
#[cfg(feature = "dispatch")]
mod dispatch;
#[cfg(not(feature = "dispatch"))]
#[path = "no_dispatch.rs"]
mod dispatch;
mod drain;
mod handler;
mod heartbeat;
mod heartbeat_thread;
mod hook;
mod lane;
mod limits;
mod monitor;
mod outcome;
mod payload_memory;
mod poll_time;
mod release;
mod retry;
mod run;
mod slots;
mod succession;
pub mod testing;
mod uncounted_retries;
mod worker;

pub use crate::cancelled::Cancelled;
pub use crate::context::Context;
#[cfg(feature = "dispatch")]
#[doc(hidden)]
pub use crate::dispatch::CallbackProbe;
pub use crate::drain::Stopped;
pub use crate::handler::TaskOptions;
pub use crate::hook::{Hook, Next};
pub use crate::outcome::{BoxError, HandlerResult, IntoOutcome, JobError, Outcome};
pub use crate::retry::Retry;
pub use crate::run::WorkerError;
#[cfg(feature = "cli")]
pub use crate::run::run;
pub use crate::worker::{BuildError, Fault, Worker, WorkerBuilder};
// What an application needs beside the worker, so that one dependency is enough: each type that the API shows.
pub use crate::config::{ConfigError, PostgresConfig, ProcessEnv, SchemaName, Tasks, WorkerConfig};
pub use job_pg::migrate::{MigrateError, Migrated, migrate};
#[cfg(feature = "tls")]
pub use job_pg::rustls;
pub use job_pg::{
    AdminDb, CancelError, CancelledJobs, CompleteError, Db, DbBuilder, DbError, EnqueueClient, EnqueueError, Enqueued,
    Field, Gate, GateError, GateSettings, IntoJob, IntoTimestamp, IsolationLevel, Job, KeyMode, Limit, NewJob,
    NotReady, Rate, SqlState, Timestamp, Transaction, Uuid, deadpool_postgres, enqueue, enqueue_in, enqueue_many,
    enqueue_many_in, jiff, schedule, tokio_postgres,
};
pub use job_utils::events::{self, Event};
pub use job_utils::shutdown::Shutdown;
pub use job_utils::task::Task;
pub use job_utils::wire::signature::CallbackSecrets;
