//! The core of the job system.
#![doc = include_str!("../README.md")]

pub mod backoff;
pub mod config;
pub mod error;
pub mod events;
#[cfg(feature = "health")]
pub mod health;
#[cfg(feature = "http-server")]
pub mod http_server;
pub mod http_url;
pub mod outcome;
pub mod probe;
pub mod secret;
#[cfg(feature = "service")]
pub mod service;
pub mod shutdown;
pub mod task;
pub mod telemetry;
pub mod wire;
