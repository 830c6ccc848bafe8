//! Wait: until the database is there, and has the jobs schema.

use std::time::{Duration, Instant};

use deadpool_postgres::PoolError;
use job_utils::backoff::Backoff;
use job_utils::error::chain;
use job_utils::shutdown::Shutdown;
use tokio_postgres::error::SqlState;

use crate::config::postgres::PGDATABASE;
use crate::connection::Db;
use crate::error::DbError;
use crate::schema::NotReady;

/// How long a migration waits for a database that does not exist: something else may be making it.
const MISSING_TIMEOUT: Duration = Duration::from_secs(5);

impl Db {
    /// Waits until the database answers and has the jobs schema, saying what it waits for. Returns false when told to
    /// stop instead.
    ///
    /// # Errors
    /// Only what waiting cannot mend: a wrong password.
    pub async fn wait_until_ready(&self, shutdown: &Shutdown) -> Result<bool, DbError> {
        self.wait(shutdown, true).await
    }

    /// [`Db::wait_until_ready`] for who can do without the jobs schema, a migration: waits only until the database
    /// answers, and for one that does not exist only 5 s.
    ///
    /// # Errors
    /// What waiting cannot mend, a database that does not exist, and settings in PGOPTIONS that the server refuses.
    pub async fn wait_until_reachable(&self, shutdown: &Shutdown) -> Result<bool, DbError> {
        self.wait(shutdown, false).await
    }

    async fn wait(&self, shutdown: &Shutdown, for_schema: bool) -> Result<bool, DbError> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let mut said = String::new();
        let mut missing_since = None;
        loop {
            let not_ready = match self.ready().await {
                Ok(()) => return Ok(true),
                // Another database than this one may be meant: migrate looks itself.
                Err(NotReady::Schema { .. } | NotReady::Rights { .. } | NotReady::Encoding(_)) if !for_schema => {
                    return Ok(true);
                }
                Err(NotReady::Encoding(reason)) => return Err(DbError::config(&PGDATABASE, reason)),
                Err(NotReady::Database(error)) if is_hopeless(&error) => return Err(error),
                // A migration makes no rights to be given, and says itself which it lacks.
                Err(NotReady::Database(DbError::Query { source, .. }))
                    if !for_schema && source.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) =>
                {
                    return Ok(true);
                }
                Err(NotReady::Database(error)) if !for_schema && is_refused_start(&error) => return Err(error),
                Err(not_ready) => not_ready,
            };
            match &not_ready {
                NotReady::Database(error) if !for_schema && is_missing(error) => {
                    if missing_since.get_or_insert_with(Instant::now).elapsed() >= MISSING_TIMEOUT {
                        let (database, place) = (self.database().to_owned(), self.place().to_owned());
                        return Err(DbError::NoDatabase { database, place });
                    }
                }
                _ => missing_since = None,
            }
            // The same reason is said once, not once a second.
            let reason = match &not_ready {
                NotReady::Database(error) => format!("waiting for Postgres at {}: {}", self.place(), chain(error)),
                missing @ NotReady::Schema { .. } => format!("waiting for the schema: {missing}"),
                missing @ NotReady::Rights { .. } => format!("waiting for rights: {missing}"),
                unsettled @ NotReady::Unsettled { .. } => unsettled.to_string(),
                NotReady::Encoding(reason) => reason.clone(),
            };
            if reason != said {
                tracing::warn!("{reason}");
                said = reason;
            }
            tokio::select! {
                () = shutdown.triggered() => return Ok(false),
                () = tokio::time::sleep(backoff.next_wait()) => {}
            }
        }
    }
}

/// Wrong credentials stay wrong. A missing database may still be created, as in a stack that starts all at once.
fn is_hopeless(error: &DbError) -> bool {
    match error {
        DbError::Connect(PoolError::Backend(source)) => {
            source.code().is_some_and(|code| code.code().starts_with("28"))
                || matches!(source.to_string().as_str(), "invalid configuration: password missing")
        }
        DbError::Config(_) => true,
        _ => false,
    }
}

/// What a session was to start with is refused (PGOPTIONS): a setting that is unknown or cannot be set, or its value.
fn is_refused_start(error: &DbError) -> bool {
    let DbError::Connect(PoolError::Backend(source)) = error else { return false };
    source.code().is_some_and(|code| {
        ["22", "42"].iter().any(|class| code.code().starts_with(class)) || *code == SqlState::CANT_CHANGE_RUNTIME_PARAM
    })
}

fn is_missing(error: &DbError) -> bool {
    let DbError::Connect(PoolError::Backend(source)) = error else { return false };
    source.code() == Some(&SqlState::INVALID_CATALOG_NAME)
}
