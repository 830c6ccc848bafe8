#![doc = include_str!("../README.md")]

pub mod backoff;
pub mod config;
pub mod service;
pub mod shutdown;
pub mod telemetry;
pub mod wire;
