//! The callback server as a process of its own, on a real PostgreSQL.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a helper of a test fails its test")]

mod it {
    mod attempts;
    mod bodies;
    mod lifecycle;
    mod malformed;
    mod network;
    mod outages;
    mod outcomes;
    mod strangers;
    mod support;
}
