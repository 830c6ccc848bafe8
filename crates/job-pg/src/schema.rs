//! The jobs schema in a database: made, brought up to date, packed as an extension, and looked for.

pub mod extension;
pub mod migrate;
pub(crate) mod ready;
mod wait;

pub use ready::NotReady;
