//! Connections to Postgres: the pool and what is borrowed from it, statements with a bound and an end, TLS, and what
//! connection strings say.

mod bounded;
mod builder;
mod cancel;
pub(crate) mod connect;
mod create_database;
pub(crate) mod lend;
pub(crate) mod operation;
#[cfg(not(feature = "tls"))]
mod plain;
mod pool;
pub(crate) mod statement;
#[cfg(feature = "tls")]
mod tls;
mod url;
pub(crate) mod waits;

pub use bounded::ReadBudget;
pub use builder::DbBuilder;
pub use create_database::{CreateDatabaseError, create_database};
pub use pool::Db;
pub use waits::Waits;

#[cfg(not(feature = "tls"))]
use plain as tls;
