//! Migrate: make the tables of databases, users and sites where they are missing, and fill them when they are empty.

use job_pg::{Db, DbError};
use job_utils::shutdown::Shutdown;

use crate::config::MigrateConfig;

const TABLES: &str = include_str!("../migrations/tables.sql");
const EXAMPLE: &str = include_str!("../migrations/example.sql");

/// Two migrations of one database take turns; the lock ends with the transaction.
const LOCK: &str = "SET LOCAL client_min_messages = warning; \
                    SELECT pg_advisory_xact_lock(hashtextextended('admin-server.migrate', 0))";

/// A migration that did not happen; the database is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database settings are wrong or Postgres refuses them.
    #[error("admin-server cannot use the database")]
    Db(#[from] DbError),
    /// A statement failed.
    #[error("the migration failed, nothing was changed")]
    Sql(#[from] tokio_postgres::Error),
    /// Told to stop while waiting for Postgres.
    #[error("stopped while waiting for Postgres, nothing was changed")]
    Stopped,
}

/// Brings a database up to date, once Postgres answers. Safe to run twice and by several processes at once.
///
/// # Errors
/// Settings that cannot work, a statement that Postgres refuses, or a stop while waiting.
pub async fn migrate(config: &MigrateConfig, shutdown: &Shutdown) -> Result<(), MigrateError> {
    let mut postgres = config.postgres.clone();
    postgres.pool_size = 1;
    let db = Db::new(&postgres)?;
    if !db.wait_until_reachable(shutdown).await? {
        return Err(MigrateError::Stopped);
    }
    let mut client = db.connection().await?;
    let transaction = client.transaction().await?;
    transaction.batch_execute(LOCK).await?;
    transaction.batch_execute(TABLES).await?;
    transaction.batch_execute(EXAMPLE).await?;
    transaction.commit().await?;
    tracing::info!("the tables of databases, users and sites are there");
    Ok(())
}
