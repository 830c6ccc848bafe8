//! What can go wrong between us and Postgres.

use std::time::Duration;

use deadpool_postgres::PoolError;
use tokio_postgres::error::SqlState;

use crate::config::{ConfigError, Fault, Var, in_words};

/// An operation that Postgres did not carry out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DbError {
    /// No connection could be had.
    #[error("no connection to Postgres")]
    Connect(#[source] PoolError),
    /// The statement failed.
    #[error("{operation} failed")]
    Query {
        /// What was being done, such as `claim`.
        operation: &'static str,
        /// Postgres's answer, or the broken connection.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The statement got no answer in time. Whether it was carried out is not known.
    #[error("{operation} got no answer within {} (JOBS_STATEMENT_TIMEOUT at most)", in_words(*limit))]
    Timeout {
        /// What was being done.
        operation: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The database that is configured does not exist, and has not come into being for a while.
    #[error(
        "the database {database} does not exist ({place}): create it first (CREATE DATABASE), or correct the setting"
    )]
    NoDatabase {
        /// The database's name.
        database: String,
        /// Hosts and ports, and the database.
        place: String,
    },
    /// A setting cannot be used: the error names it.
    #[error("a setting cannot be used")]
    Config(#[from] ConfigError),
}

impl DbError {
    /// For `map_err`: names the operation that failed.
    pub(crate) fn query(operation: &'static str) -> impl Fn(tokio_postgres::Error) -> Self + Copy {
        move |source| Self::Query { operation, source }
    }

    /// A setting that cannot be used.
    pub(crate) fn config(var: &Var, message: impl Into<String>) -> Self {
        Self::Config(ConfigError { faults: vec![Fault { name: var.name, message: message.into() }] })
    }

    /// Whether the same call may succeed a little later: the server is away, restarting, full, or chose us as the
    /// victim of a deadlock.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Timeout { .. } => true,
            Self::Config(_) | Self::NoDatabase { .. } => false,
            Self::Query { source, .. } => match source.code() {
                None => is_broken(source),
                Some(code) => is_transient_state(code),
            },
        }
    }

    /// Whether the statement took longer than we, or Postgres, let it.
    pub fn took_too_long(&self) -> bool {
        matches!(self, Self::Timeout { .. }) || self.sql_state() == Some(&SqlState::QUERY_CANCELED)
    }

    /// Whether the statement may have been carried out all the same: it was sent, and its answer did not come.
    pub fn is_ambiguous(&self) -> bool {
        match self {
            Self::Query { source, .. } => source.code().is_none(),
            Self::Timeout { .. } => true,
            Self::Connect(_) | Self::NoDatabase { .. } | Self::Config(_) => false,
        }
    }

    /// Whether the connection is of no use after this: it is broken, its server stops, or its server is a standby, which the
    /// primary may have become.
    pub(crate) fn is_of_the_connection(&self) -> bool {
        match self {
            Self::Query { source, .. } => source.code().map_or_else(
                || is_broken(source),
                |code| ["08", "57P"].iter().any(|class| code.code().starts_with(class)) || code.code() == STANDBY,
            ),
            Self::Connect(_) | Self::Timeout { .. } | Self::NoDatabase { .. } | Self::Config(_) => false,
        }
    }

    /// Whether another transaction holds a row that the statement would have had to wait for.
    pub fn is_blocked(&self) -> bool {
        self.sql_state() == Some(&SqlState::LOCK_NOT_AVAILABLE)
    }

    /// The SQLSTATE, when Postgres answered with an error.
    pub fn sql_state(&self) -> Option<&SqlState> {
        match self {
            Self::Query { source, .. } => source.code(),
            _ => None,
        }
    }
}

/// A standby does not take writes.
const STANDBY: &str = "25006";

/// Whether the connection has ended.
fn is_broken(error: &tokio_postgres::Error) -> bool {
    error.is_closed() || std::error::Error::source(error).is_some_and(|cause| cause.is::<std::io::Error>())
}

/// Whether an error is Postgres's answer that two transactions stood in each other's way and this one was undone: a deadlock, or a
/// serialization failure. The other one got on; the same again will do as a rule. Its causes are not looked at.
pub fn is_conflict(error: &(dyn std::error::Error + 'static)) -> bool {
    let answer = error.downcast_ref::<tokio_postgres::error::DbError>();
    answer.is_some_and(|answer| {
        [SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE].contains(answer.code())
    })
}

/// Classes 08 (connection), 53 (resources), 57P (shutdown, crash), 40 (serialization, deadlock); a standby that does not
/// take writes (25006); a statement or a wait for a lock that took too long (57014, 55P03); objects in use or not there at
/// this moment, as during a restore (55006, 42P01, 3F000, 42883).
pub(crate) fn is_transient_state(code: &SqlState) -> bool {
    let code = code.code();
    ["08", "53", "57P", "40"].iter().any(|class| code.starts_with(class))
        || code == STANDBY
        || matches!(code, "57014" | "55P03" | "55006" | "42P01" | "3F000" | "42883")
}
