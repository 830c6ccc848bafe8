//! Everything that touches Postgres, and every SQL text there is: one operation a file, narrow handles for the services.
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

mod accept;
mod add_schedule;
mod admin;
mod bounded;
mod builder;
mod callback;
mod cancel;
mod claim;
mod columns;
mod complete;
mod complete_in_transaction;
mod connect;
mod create_database;
mod enqueue;
mod error;
pub mod extension;
mod fail;
mod heartbeat;
mod inspect;
mod lend;
mod listen;
mod materialise;
pub mod migrate;
mod new_job;
mod notify;
mod operation;
mod payload;
mod pool;
mod release;
mod schedule;
mod settle;
mod statement;
pub mod testing;
mod tls;
mod url;
mod waits;
mod worker;

pub use add_schedule::schedule;
pub use admin::{AddJobError, AdminDb, AdminJob, AdminSchedule, Wanted};
pub use bounded::ReadBudget;
pub use builder::DbBuilder;
pub use callback::CallbackDb;
pub use complete_in_transaction::{CompleteError, Work, attempt_token, complete_in_transaction};
pub use create_database::{CreateDatabaseError, create_database};
// The clients and the library of times whose types are in the API, in the versions that fit.
pub use deadpool_postgres;
pub use enqueue::{EnqueueClient, EnqueueError, Enqueued, Field, enqueue, enqueue_in, enqueue_many, enqueue_many_in};
pub use error::{DbError, is_conflict};
pub use inspect::NotReady;
pub use jiff::{self, Timestamp};
pub use listen::{Identity, Listener, Wake};
pub use materialise::{Fire, Materialised};
pub use new_job::{IntoJob, IntoTimestamp, KeyMode, NewJob};
pub use notify::{Horizon, Waiting};
pub use pool::Db;
pub use rustls;
pub use schedule::{
    Block, Digest, LARGEST_SCHEDULE_INFO, Look, LookFor, Mark, ScheduledJob, SchedulerDb, SchedulerInstance,
};
pub use settle::{Results, SettleError, Settled, Settlement, Settler};
pub use tokio_postgres::error::SqlState;
pub use tokio_postgres::{self, IsolationLevel, Transaction};
pub use uuid::Uuid;
pub use waits::Waits;
pub use worker::{Claim, Claimed, Found, Heartbeat, Instance, Job, Position, Running, WorkerDb};
