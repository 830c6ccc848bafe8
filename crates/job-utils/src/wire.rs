//! The HTTP contract between worker, function and callback server, spelled once.
//!
//! A worker dispatches a job as a POST with its payload ([`dispatch`]); the function's answer or a later POST to the
//! callback URL ([`callback`]) says how the attempt ended.

mod body;
pub mod callback;
pub mod dispatch;
pub mod encoding;
pub mod headers;
pub mod signature;
