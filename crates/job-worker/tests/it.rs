//! The worker as a process of its own, on a real PostgreSQL, against real functions over HTTP.

mod it {
    mod configuration;
    mod endings;
    mod failures;
    mod health;
    mod outages;
    mod places;
    mod queues;
    mod requests;
    mod start;
    mod stop;
    mod support;
    mod tls;
    mod wakes;
}
