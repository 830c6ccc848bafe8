//! What a caller is told when the database does not answer: what to do, nothing of the SQL.

use async_graphql::{Error, ErrorExtensions};
use job_pg::DbError;

/// A database error as the API tells it. It is logged here, once, with its causes.
pub(crate) fn database(error: &DbError) -> Error {
    let (code, message) = if error.is_transient() {
        ("DATABASE_UNAVAILABLE", "the database cannot be reached now, try again")
    } else {
        ("DATABASE_ERROR", "the database could not answer; the server's log says why")
    };
    tracing::error!(error = error as &dyn std::error::Error, code, "a request failed in the database");
    coded(code, message)
}

/// An error with a code for programs.
pub(crate) fn coded(code: &'static str, message: impl Into<String>) -> Error {
    Error::new(message).extend_with(|_, extensions| extensions.set("code", code))
}

/// An argument that cannot be used.
pub(crate) fn bad_input(message: impl Into<String>) -> Error {
    coded("BAD_USER_INPUT", message)
}
