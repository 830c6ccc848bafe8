#![doc = include_str!("../README.md")]
#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test's helper fails its test, or says on standard error what it could not tidy up"
)]

pub mod cluster;
pub mod env;
pub mod function;
pub mod mailgun;
pub mod pgbouncer;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod smtp;
pub mod wait;

pub use cluster::{Cluster, ClusterOptions};
pub use function::{Answer, FakeFunction, Gate, Recorded};
pub use pgbouncer::PgBouncer;
pub use postgres::TestDb;
pub use process::{Process, Program, Signal};
pub use proxy::Proxy;
pub use wait::{eventually, eventually_some, throughout};
