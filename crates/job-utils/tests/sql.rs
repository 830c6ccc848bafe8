//! The SQL of `migrations/` on a real PostgreSQL: each function's result, edges and errors, what several sessions do to
//! each other, who may do what, and how the schema gets into a database.

#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod sql {
    mod administration;
    mod catalog;
    mod claim;
    mod concurrency;
    mod deadlock;
    mod derived;
    mod dump;
    mod enqueue;
    mod extension;
    mod forms;
    mod isolation;
    mod keys;
    mod materialise;
    mod migrate;
    mod notify;
    mod queues;
    mod rights;
    mod schedule;
    mod settle;
    mod support;
    mod triggers;
}
