//! The connection that listens: it wakes a process, holds its identity, and registers it as one that waits.

mod listen;
mod notify;

pub use listen::{Identity, Listener, Wake};
pub use notify::{Horizon, WaiterState};
