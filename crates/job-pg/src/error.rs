//! What can go wrong between us and Postgres.

use std::time::Duration;

use deadpool_postgres::{PoolError, TimeoutType};
use tokio_postgres::error::{Severity, SqlState};

use job_utils::config::{ConfigError, Fault, Var, in_words};
use job_utils::error::chain;

/// An operation that Postgres did not carry out. Of a connection that could not be had the message itself says why; of
/// a statement its causes do, which `Debug` shows.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum DbError {
    /// No connection could be had.
    #[error("no connection to Postgres: {}", no_connection(_0))]
    Connect(PoolError),
    /// The statement failed.
    #[error("{operation} failed")]
    Query {
        /// What was being done, such as `claim`.
        operation: &'static str,
        /// Postgres's answer, or the broken connection.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The statement failed, on a client of sqlx.
    #[cfg(feature = "sqlx")]
    #[error("{operation} failed")]
    Sqlx {
        /// What was being done, such as `enqueue`.
        operation: &'static str,
        /// The SQLSTATE, when Postgres answered with an error.
        state: Option<SqlState>,
        /// Postgres's answer, the broken connection, or the pool. In a box, since it is large.
        #[source]
        source: Box<sqlx::Error>,
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

    /// [`DbError::query`] for sqlx.
    #[cfg(feature = "sqlx")]
    pub(crate) fn sqlx(operation: &'static str) -> impl Fn(sqlx::Error) -> Self + Copy {
        move |source| {
            let code = source.as_database_error().and_then(sqlx::error::DatabaseError::code);
            Self::Sqlx { operation, state: code.map(|code| SqlState::from_code(&code)), source: Box::new(source) }
        }
    }

    /// Postgres's answer, when it answered with an error.
    pub(crate) fn answer(&self) -> Option<Answer<'_>> {
        match self {
            Self::Query { source, .. } => source.as_db_error().map(Answer::of),
            #[cfg(feature = "sqlx")]
            Self::Sqlx { state, source, .. } => {
                let answer = source.as_database_error()?;
                Some(Answer { state: state.as_ref()?, message: answer.message(), constraint: answer.constraint() })
            }
            _ => None,
        }
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
            #[cfg(feature = "sqlx")]
            Self::Sqlx { state, source, .. } => match state {
                None => matches!(**source, sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut),
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
            #[cfg(feature = "sqlx")]
            Self::Sqlx { state, source, .. } => state.is_none() && !matches!(**source, sqlx::Error::PoolTimedOut),
            Self::Timeout { .. } => true,
            Self::Connect(_) | Self::NoDatabase { .. } | Self::Config(_) => false,
        }
    }

    /// Whether the connection is of no use after this: it is broken, its server stops, or its server is a standby,
    /// which the primary may have become.
    pub(crate) fn is_of_the_connection(&self) -> bool {
        match self {
            Self::Query { source, .. } => source.code().map_or_else(
                || is_broken(source),
                |code| {
                    let ends = ["08", "57P"].iter().any(|class| code.code().starts_with(class));
                    ends && !self.is_answer() || code.code() == STANDBY
                },
            ),
            // A connection of somebody else's is not ours to give up.
            _ => false,
        }
    }

    /// Whether Postgres has answered the statement with an error and its connection goes on. An error that ends the
    /// connection, as a shutdown does, is FATAL and no answer. A trigger of the application's can give an answer any
    /// SQLSTATE.
    pub(crate) fn is_answer(&self) -> bool {
        let Self::Query { source, .. } = self else { return false };
        source.as_db_error().is_some_and(|error| match error.parsed_severity() {
            Some(severity) => severity == Severity::Error,
            None => error.severity() == "ERROR",
        })
    }

    /// Whether Postgres refuses the statement for what it does: a trigger, a constraint or a domain of the
    /// application's. Not because of the server, of another transaction, or of a time that is over.
    pub fn is_refusal(&self) -> bool {
        let passing = |code: &str| {
            ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class))
                || code == STANDBY
                || matches!(code, "55P03" | "55006")
        };
        self.is_answer() && self.sql_state().is_some_and(|state| !passing(state.code()))
    }

    /// Whether another transaction holds a row that the statement would have had to wait for.
    pub fn is_blocked(&self) -> bool {
        self.sql_state() == Some(&SqlState::LOCK_NOT_AVAILABLE)
    }

    /// The SQLSTATE, when Postgres answered with an error.
    pub fn sql_state(&self) -> Option<&SqlState> {
        match self {
            Self::Query { source, .. } => source.code(),
            #[cfg(feature = "sqlx")]
            Self::Sqlx { state, .. } => state.as_ref(),
            _ => None,
        }
    }
}

/// An error of the application's own statements, so that one type does for all of its transaction.
impl From<tokio_postgres::Error> for DbError {
    fn from(source: tokio_postgres::Error) -> Self {
        Self::Query { operation: "a statement", source }
    }
}

job_utils::debug_as_chain!(DbError);

/// An error that Postgres has answered with, by whatever client.
pub(crate) struct Answer<'a> {
    pub(crate) state: &'a SqlState,
    pub(crate) message: &'a str,
    pub(crate) constraint: Option<&'a str>,
}

impl<'a> Answer<'a> {
    pub(crate) fn of(answer: &'a tokio_postgres::error::DbError) -> Self {
        Self { state: answer.code(), message: answer.message(), constraint: answer.constraint() }
    }
}

/// Why a pool gave no connection, in the reader's words.
fn no_connection(error: &PoolError) -> String {
    match error {
        PoolError::Timeout(TimeoutType::Wait) => {
            "all of the pool's are in use, and none has become free in time (pool_size \
                                                  of Db::builder, JOBS_POOL_SIZE)"
                .to_owned()
        }
        PoolError::Timeout(_) => "the server gave none in time".to_owned(),
        PoolError::Backend(error) => refused(error),
        other => chain(other),
    }
}

/// Why there is no connection: what Postgres answered, or what is wrong on the way to it.
pub(crate) fn refused(error: &tokio_postgres::Error) -> String {
    // "db error" says nothing.
    error.as_db_error().map_or_else(|| chain(error), ToString::to_string)
}

/// A standby does not take writes.
const STANDBY: &str = "25006";

/// Whether the connection has ended.
fn is_broken(error: &tokio_postgres::Error) -> bool {
    error.is_closed() || std::error::Error::source(error).is_some_and(|cause| cause.is::<std::io::Error>())
}

/// Whether an error is Postgres's answer that two transactions stood in each other's way and this one was undone: a
/// deadlock, or a serialization failure. The other one got on; the same again will do as a rule. Its causes are not
/// looked at.
pub fn is_conflict(error: &(dyn std::error::Error + 'static)) -> bool {
    let conflicts = [SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE];
    #[cfg(feature = "sqlx")]
    let in_a_box = || error.downcast_ref::<Box<sqlx::Error>>().map(|error| &**error);
    #[cfg(feature = "sqlx")]
    if let Some(error) = error.downcast_ref::<sqlx::Error>().or_else(in_a_box) {
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        return code.is_some_and(|code| conflicts.iter().any(|conflict| conflict.code() == code));
    }
    let answer = error.downcast_ref::<tokio_postgres::error::DbError>();
    answer.is_some_and(|answer| conflicts.contains(answer.code()))
}

/// Classes 08 (connection), 53 (resources), 57P (shutdown, crash), 40 (serialization, deadlock); a standby that does
/// not take writes (25006); a statement or a wait for a lock that took too long (57014, 55P03); objects in use or not
/// there at this moment, as during a restore (55006, 42P01, 3F000, 42883).
pub(crate) fn is_transient_state(code: &SqlState) -> bool {
    let code = code.code();
    ["08", "53", "57P", "40"].iter().any(|class| code.starts_with(class))
        || code == STANDBY
        || matches!(code, "57014" | "55P03" | "55006" | "42P01" | "3F000" | "42883")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_cannot_be_had_says_why_and_says_it_once() {
        let timeout = DbError::Connect(PoolError::Timeout(TimeoutType::Wait));
        let said = "no connection to Postgres: all of the pool's are in use, and none has become free in time (pool_size of \
                    Db::builder, JOBS_POOL_SIZE)";
        assert_eq!((timeout.to_string().as_str(), format!("{timeout:?}").as_str()), (said, said));
        assert_eq!(chain(&timeout), said);
        let refused = tokio_postgres::Error::__private_api_timeout();
        let refused = DbError::Connect(PoolError::Backend(refused));
        assert_eq!(format!("{refused:?}"), "no connection to Postgres: timeout waiting for server");
    }
}
