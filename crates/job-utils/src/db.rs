//! Everything that touches Postgres, and every SQL text there is: one operation a file, narrow handles for the services.
//!
//! ```text
//!            add_job                claim_jobs (attempts + 1, a new epoch)    complete
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
mod admin;
mod callback;
mod claim;
mod columns;
mod complete;
mod connect;
mod create_database;
mod enqueue;
mod error;
pub mod extension;
mod fail;
mod heartbeat;
mod inspect;
mod listen;
mod materialise;
pub mod migrate;
mod notify;
mod operation;
mod pool;
mod release;
mod schedule;
mod settle;
mod statement;
mod tls;
mod url;
mod worker;

pub use admin::{AddJobError, AdminDb, AdminJob, AdminSchedule};
pub use callback::CallbackDb;
pub use create_database::{CreateDatabaseError, create_database};
pub use enqueue::{EnqueueClient, NewJob, enqueue, enqueue_many};
pub use error::DbError;
pub use inspect::NotReady;
pub use listen::{Identity, Listener, Wake};
pub use materialise::{Fire, Materialised};
pub use notify::{Horizon, Waiting};
pub use pool::Db;
pub use schedule::{Block, Digest, Look, LookFor, Mark, ScheduledJob, SchedulerDb, SchedulerInstance};
pub use settle::{Results, SettleError, Settled, Settlement, Settler};
pub use worker::{Claim, Claimed, Found, Heartbeat, Instance, Job, Position, WorkerDb};
