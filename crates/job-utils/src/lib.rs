//! The core of the job system.
// Its example needs the feature.
#![cfg_attr(feature = "db", doc = include_str!("../README.md"))]

pub mod backoff;
pub mod config;
#[cfg(feature = "db")]
pub mod db;
pub mod error;
#[cfg(feature = "health")]
pub mod health;
#[cfg(feature = "http-server")]
pub mod http_server;
pub mod http_url;
pub mod probe;
#[cfg(feature = "service")]
pub mod service;
pub mod shutdown;
pub mod task;
pub mod telemetry;
pub mod wire;
