//! admin-server over real HTTP on a real PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

mod it {
    mod budget;
    mod guard;
    mod limits;
    mod migration;
    mod process;
    mod queue;
    mod seed;
    mod sites;
    mod support;
}
