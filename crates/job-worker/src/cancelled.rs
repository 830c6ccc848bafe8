//! Cancelled: why a handler is to end.

use crate::monitor::Taken;

/// Why a handler is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cancelled {
    /// The worker stops. It waits for its grace; what has not ended then is given back and starts anew elsewhere.
    Stopping,
    /// The task's time is up. A handler that has looked has a second more to say how the attempt ends.
    TimedOut,
    /// The job is no longer this attempt's: it was deleted or unlocked, or somebody else has it. What the handler
    /// returns does nothing; one that has looked has a second more to clean up.
    TakenAway,
    /// Somebody has cancelled the job: [`Context::cancel_reason`](crate::Context::cancel_reason) may say why. Otherwise
    /// as `TakenAway`.
    Requested,
}

impl From<&Taken> for Cancelled {
    fn from(taken: &Taken) -> Self {
        match taken {
            Taken::Away => Self::TakenAway,
            Taken::Cancelled(_) => Self::Requested,
        }
    }
}
