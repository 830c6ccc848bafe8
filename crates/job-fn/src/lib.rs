#![doc = include_str!("../README.md")]

mod app;
mod callback;
mod context;
mod error;
mod extend;
mod handler;
mod headers;
mod origins;
#[cfg(feature = "main")]
mod program;

pub use app::{App, Config, PORT, Stopped, VARS, health_target};
pub use context::Context;
pub use error::FunctionError;
pub use extend::{ExtendError, Extended, HeartbeatGuard};
pub use origins::{CallbackOrigins, JOBS_CALLBACK_ORIGINS};
#[cfg(feature = "main")]
pub use program::main;
