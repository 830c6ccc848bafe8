//! The worker as a process of its own, on a real PostgreSQL, against real functions over HTTP.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a helper of a test fails its test")]

mod it {
    mod answers;
    mod blocking;
    mod buffer;
    mod builder;
    mod cancel;
    mod configuration;
    mod connections;
    mod descriptors;
    mod endings;
    mod events;
    mod failures;
    mod fair;
    mod handlers;
    mod health;
    mod hosts;
    mod keep_alive;
    mod leases;
    mod library;
    mod messages;
    mod misbehaviour;
    mod network;
    mod outages;
    mod payloads;
    mod places;
    mod pools;
    mod queues;
    mod refused;
    mod requests;
    mod retry_after;
    mod settling;
    mod start;
    mod stop;
    mod succession;
    mod support;
    mod taken;
    mod tasks;
    mod testing;
    mod tls;
    mod told;
    mod transactions;
    mod undone;
    mod wakes;
}
