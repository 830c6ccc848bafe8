//! Create database: the one that the settings name, where there is none.

use tokio_postgres::error::SqlState;

use crate::config::PostgresConfig;
use crate::connection::Db;
use crate::error::DbError;
use job_utils::shutdown::Shutdown;

const EXISTS: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1)";

/// The server quotes the name: a statement of its own kind takes no parameters.
const STATEMENT: &str = "SELECT pg_catalog.format('CREATE DATABASE %I', $1::text)";

/// A database that was not created.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum CreateDatabaseError {
    /// The settings are wrong, or the server's database `postgres` cannot be used.
    #[error(transparent)]
    Db(#[from] DbError),
    /// Postgres refuses.
    #[error("cannot create the database {name}")]
    Sql {
        /// The database.
        name: String,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// Told to stop while waiting for Postgres.
    #[error("stopped before Postgres could be reached: no database was created")]
    Stopped,
}

job_utils::debug_as_chain!(CreateDatabaseError);

/// Creates the database that the settings name, once Postgres answers. True when it was made, false when it was there.
/// Safe to run twice and by several processes at once.
///
/// # Errors
/// Settings that cannot work, a user who may not create databases, or a stop while waiting.
pub async fn create_database(config: &PostgresConfig, shutdown: &Shutdown) -> Result<bool, CreateDatabaseError> {
    let (db, name) = Db::maintenance(config)?;
    if !db.wait_until_reachable(shutdown).await? {
        return Err(CreateDatabaseError::Stopped);
    }
    let client = db.connection().await?;
    let failed = |source| CreateDatabaseError::Sql { name: name.clone(), source };
    if client.query_one(EXISTS, &[&name]).await.map_err(failed)?.get(0) {
        return Ok(false);
    }
    let statement: String = client.query_one(STATEMENT, &[&name]).await.map_err(failed)?.get(0);
    match client.batch_execute(&statement).await {
        Ok(()) => Ok(true),
        // Somebody else was quicker; the second code is that of the index, when both were at it.
        Err(error)
            if [SqlState::DUPLICATE_DATABASE, SqlState::UNIQUE_VIOLATION]
                .iter()
                .any(|code| error.code() == Some(code)) =>
        {
            Ok(false)
        }
        Err(error) => Err(failed(error)),
    }
}
