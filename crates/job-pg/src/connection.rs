//! Connections to Postgres: the pool and what is borrowed from it, statements with a bound and an end, TLS, and what
//! connection strings say.

pub(crate) mod any_pool;
mod bounded;
mod builder;
mod cancel;
pub(crate) mod connect;
mod create_database;
pub(crate) mod operation;
#[cfg(not(feature = "tls"))]
mod plain;
mod pool;
pub(crate) mod pool_wait;
mod settlers;
pub(crate) mod statement;
#[cfg(feature = "tls")]
mod tls;
mod url;

pub use bounded::ReadBudget;
pub use builder::DbBuilder;
pub use create_database::{CreateDatabaseError, create_database};
pub use pool::Db;
pub use pool_wait::PoolWaits;
pub(crate) use settlers::SettlerStatus;

#[cfg(not(feature = "tls"))]
use plain as tls;
