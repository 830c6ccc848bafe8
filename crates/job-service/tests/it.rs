//! The composed service as a process of its own: configuration, start, stop, outages, migration, PgBouncer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a helper of a test fails its test")]

mod it {
    mod configuration;
    mod embedded;
    mod failover;
    mod memory;
    mod migration;
    mod outages;
    mod pgbouncer;
    mod stop;
    mod support;
}
