//! The SQL of `migrations/` on a real PostgreSQL: each function's result, edges and errors, what several sessions do to
//! each other, who may do what, and how the schema gets into a database.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests: a failure ends the test, with the statement that failed"
)]

mod sql {
    mod administration;
    mod attacks;
    mod blocked;
    mod borrowed_pool;
    mod bounds;
    mod cancel;
    mod carried_over;
    mod catalog;
    mod claim;
    mod concurrency;
    mod continued;
    mod deadlock;
    mod derived;
    mod dump;
    mod encoding;
    mod enqueue;
    mod epochs;
    mod extension;
    mod fair;
    mod fair_order;
    mod fires;
    mod forms;
    mod functions;
    mod gate_keys;
    mod gate_limits;
    mod gate_plans;
    mod gate_rates;
    mod gates;
    mod gates_by_hand;
    mod held;
    mod hosts;
    mod internal;
    mod isolation;
    mod kept_out;
    mod keys;
    mod leases;
    mod library;
    mod many;
    mod materialise;
    mod migrate;
    mod modes;
    mod more_forms;
    mod neighbours;
    mod notify;
    mod operation;
    mod organizations;
    mod queues;
    mod rights;
    mod roles;
    mod schedule;
    mod settle;
    mod succession;
    mod support;
    mod task_succession;
    mod tenants;
    mod transactional;
    mod triggers;
    mod trust;
    mod waiters;
}
