//! How to reach Postgres: the variables, which are libpq's and a few of ours, and what they say.

mod connection;
pub mod libpq;
pub mod listen;
pub mod postgres;
mod schema_name;
mod tls;

pub use listen::{Endpoint, Listen};
pub use postgres::PostgresConfig;
pub use schema_name::SchemaName;
pub use tls::{ClientCertificate, SslMode};

use job_utils::config::{Known, Var};

/// The variables of a program that is connected to Postgres: those of Postgres, and its own.
pub fn known(own: &[&[&'static Var]]) -> Known {
    Known::new(&[&[postgres::VARS], own].concat()).but(libpq::is_variable)
}
