//! What is done to jobs, one operation a file: enqueue, claim, load a payload, accept, settle, release, and the
//! heartbeat of those who run them.

mod accept;
mod cancelled;
pub(crate) mod claim;
pub(crate) mod columns;
mod complete;
mod complete_in_transaction;
mod cursor;
mod end;
pub(crate) mod enqueue;
pub(crate) mod heartbeat;
pub(crate) mod hosts;
mod new_job;
mod payload;
mod release;
mod settle;
mod succession;

pub use cancelled::{CANCEL_CHANNEL, CancelledAttempt};
pub use claim::{ClaimId, ClaimReply, ClaimRequest, Claimed, Job, RefusedJob};
pub use complete_in_transaction::{CompleteError, TransactionOptions, attempt_token, complete_in_transaction};
pub use cursor::Cursor;
pub use enqueue::{EnqueueClient, EnqueueError, Enqueued, Field, enqueue, enqueue_in, enqueue_many, enqueue_many_in};
pub use heartbeat::{ExhaustedJob, Heartbeat, Instance, Interrupted, Running};
pub use hosts::{HostFailure, HostNews, HostState, HostVerdict};
pub use new_job::{IntoJob, IntoTimestamp, KeyMode, NewJob};
pub use settle::{SettleError, SettleResults, Settled, Settlement, Settler};
pub use succession::{Claimant, Succession, Wanted};
