//! What is done to schedules: add one, hold it, and make the jobs of its fires.

mod add_schedule;
mod materialise;
mod schedule;

pub use add_schedule::schedule;
pub use materialise::{Fire, Materialised};
pub use schedule::{
    Block, Digest, LARGEST_SCHEDULE_INFO, Mark, ScheduledJob, SchedulerDb, SchedulerHeartbeat, SchedulerHeartbeatReply,
    SchedulerInstance,
};
