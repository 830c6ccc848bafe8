//! Why a migration did not happen.

use std::error::Error;

use tokio_postgres::error::SqlState;

use crate::connection::Db;
use crate::error::DbError;
use crate::error::refused;

/// A migration that did not happen; the database is unchanged.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// No connection.
    #[error("no connection to Postgres at {place}: {}", refused(error))]
    Connect {
        /// Host, port and database.
        place: String,
        /// Why, which the message says.
        error: tokio_postgres::Error,
    },
    /// A pooler is in between.
    #[error(
        "a pooler is in between at {place}, and a migration needs a session of its own; nothing was changed. Set JOBS_MIGRATE_URL to a connection past the pooler"
    )]
    Pooled {
        /// Host, port and database.
        place: String,
    },
    /// The schema belongs to something else.
    #[error(
        "schema {0} already has a table \"jobs\" that these migrations did not make (the original system's, perhaps); nothing was changed. Set JOBS_SCHEMA to another name, or rename that schema first"
    )]
    Foreign(String),
    /// The schema was made by a version from before the first release, and is not its last.
    #[error(
        "schema {schema} is of an unreleased version (V{version}__{name}); nothing was changed. Bring it to V25 with the build that made it, or install into another schema (JOBS_SCHEMA) and move its jobs"
    )]
    Unreleased {
        /// The schema's quoted name.
        schema: String,
        /// Number of its last migration.
        version: i32,
        /// Name of its last migration.
        name: String,
    },
    /// Programs of before the first release are at work on the schema, and call functions that the migration drops.
    #[error(
        "workers or schedulers of before the first release are at work on schema {schema}: {programs}; nothing was changed. They call functions that this migration drops: stop them, and migrate again. One that was killed is forgotten when its lease ends (JOBS_LEASE, 30 s unless set)"
    )]
    OldPrograms {
        /// The schema's quoted name.
        schema: String,
        /// Their worker ids, with commas between.
        programs: String,
    },
    /// The user lacks a right.
    #[error(
        "the migration failed, nothing was changed: run it as the owner of schema {schema}; where that, or the schema of its internal functions, is still to be made, as a user who has CREATE on the database"
    )]
    Rights {
        /// The schema's quoted name.
        schema: String,
        /// What was refused.
        source: Box<MigrateError>,
    },
    /// Another session has the lock by which migrations take turns, for a minute now.
    #[error(
        "another session migrates {place}, or has had the lock for that, for a minute; nothing was changed. SELECT pid FROM pg_locks WHERE locktype = 'advisory' shows sessions to look at"
    )]
    Locked {
        /// Host, port and database.
        place: String,
    },
    /// The database has another encoding than UTF8; says which, and what to do.
    #[error("{0}; nothing was changed")]
    Encoding(String),
    /// A statement failed.
    #[error("the migration failed, nothing was changed")]
    Sql(#[from] tokio_postgres::Error),
    /// refinery refused: a changed or missing migration.
    #[error("the migration failed, nothing was changed")]
    Refinery(#[from] refinery_core::Error),
    /// The migrations are in, the grants are not.
    #[error(
        "the schema is up to date, but its grants to administrator, jobs_runtime and jobs_producer failed; run migrate as the schema's owner"
    )]
    Grants(#[source] tokio_postgres::Error),
    /// Settings that cannot be used.
    #[error(transparent)]
    Settings(#[from] DbError),
}

job_utils::debug_as_chain!(MigrateError);

/// Tells what rights a migration needs, where the error is about rights.
pub(super) fn because_of_rights(error: MigrateError, db: &Db) -> MigrateError {
    match error {
        MigrateError::Grants(_) => error,
        _ if code(&error) == Some(SqlState::INSUFFICIENT_PRIVILEGE) => {
            MigrateError::Rights { schema: db.schema().to_string(), source: Box::new(error) }
        }
        _ => error,
    }
}

/// Whether another transaction had locks for too long, or ours and its were in each other's way.
pub(super) fn is_in_the_way(error: &MigrateError) -> bool {
    code(error).is_some_and(|code| [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED].contains(&code))
}

/// What Postgres said.
fn code(error: &MigrateError) -> Option<SqlState> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(code) = error.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::code) {
            return Some(code.clone());
        }
        cause = error.source();
    }
    None
}
