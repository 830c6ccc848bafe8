//! The scheduler on a real PostgreSQL, in this process and as a process of its own; and `job-scheduler next`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper of a test fails its test")]

mod it {
    mod blocked;
    mod bounds;
    mod changes;
    mod dates;
    mod fires;
    mod high_availability;
    mod idle;
    mod ledger;
    mod missed;
    mod network;
    mod next;
    mod outage;
    mod rule_check;
    mod stop;
    mod support;
    mod take_over;
    mod untaken;
}
