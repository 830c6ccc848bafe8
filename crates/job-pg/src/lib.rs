//! Everything that touches Postgres, and every SQL text there is: one operation a file, narrow handles for the
//! services.
//!
//! ```text
//!            add_job                claim (attempts + 1, a new epoch)         complete
//!  producer ─────────▶  waiting  ─────────────────────────────▶  running ───────────▶  (row gone)
//!                       ▲  ▲  ▲                                 │ │ │ │ │                  ▲
//!                       │  │  └────────── release ──────────────┘ │ │ │ └─ accept ▶ accepted ┤ deadline, extend
//!                       │  │                                      │ │ │                  │
//!                       │  └──────── fail (run_at later) ─────────┘ │ │ ◀── fail ────────┘ callback, or its deadline
//!                       ├─────────── interrupt ─────────────────────┘ │   any worker: the one that ran it is gone
//!                       └──────── lock older than job_expiry ─────────┘   any worker, by claiming it
//!  release: a worker that stops, attempts - 1. Complete and fail: worker, or callback server, for the live claim only.
//!  waiting with attempts = max_attempts is exhausted: it stays until an operator reschedules or completes it.
//! ```
//!
//! A module uses those above it in this list, and none below: `error` and `config`, `connection`, `schema`, `jobs`,
//! `schedules`, `listener`, `handles`, `testing`.
#![doc = include_str!("../README.md")]

pub mod config;
mod connection;
mod error;
mod handles;
mod jobs;
mod listener;
mod schedules;
mod schema;
pub mod testing;

pub use connection::{CreateDatabaseError, Db, DbBuilder, PoolWaits, ReadBudget, create_database};
pub use error::{DbError, is_conflict};
pub use handles::{
    AddJobError, AdminDb, AdminJob, AdminSchedule, CallbackDb, CancelError, CancelledJobs, Gate, GateError,
    GateSettings, Limit, ListFilter, Rate, WorkerDb,
};
pub use jobs::{
    CANCEL_CHANNEL, CancelledAttempt, ClaimId, ClaimReply, ClaimRequest, Claimant, Claimed, CompleteError, Cursor,
    EnqueueClient, EnqueueError, Enqueued, ExhaustedJob, Field, Heartbeat, HostFailure, HostNews, HostState,
    HostVerdict, Instance, Interrupted, IntoJob, IntoTimestamp, Job, KeyMode, NewJob, RefusedJob, Running, SettleError,
    SettleResults, Settled, Settlement, Settler, Succession, TransactionOptions, Wanted, attempt_token,
    complete_in_transaction, enqueue, enqueue_in, enqueue_many, enqueue_many_in,
};
pub use listener::{Horizon, Identity, Listener, WaiterState, Wake};
pub use schedules::{
    Block, Digest, Fire, LARGEST_SCHEDULE_INFO, Mark, Materialised, ScheduledJob, SchedulerDb, SchedulerHeartbeat,
    SchedulerHeartbeatReply, SchedulerInstance, schedule,
};
pub use schema::{NotReady, extension, migrate};
// What an application that only makes jobs needs beside this crate: the type of its jobs, and the clients and the
// library of times whose types are in the API, in the versions that fit.
pub use deadpool_postgres;
pub use jiff::{self, Timestamp};
pub use job_utils::task::Task;
#[cfg(feature = "tls")]
pub use rustls;
pub use tokio_postgres::error::SqlState;
pub use tokio_postgres::{self, IsolationLevel, Transaction};
pub use uuid::Uuid;
