//! The composed service as a process of its own: configuration, start, stop, outages, migration, PgBouncer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a helper of a test fails its test")]

mod it {
    mod callback_url;
    mod configuration;
    mod embedded;
    mod events;
    mod failover;
    mod logs;
    mod memory;
    mod migration;
    mod outages;
    mod pgbouncer;
    mod search_path;
    mod stop;
    mod strangers;
    mod support;
}
