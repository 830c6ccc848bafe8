#![doc = include_str!("../README.md")]

mod callback;
mod error;
mod routes;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::serve::ListenerExt;
use job_utils::config::{ConfigError, ServerConfig};
use job_utils::db::{CallbackDb, Db, DbError};
use job_utils::health;
use job_utils::shutdown::Shutdown;
use tokio::net::TcpListener;

use crate::callback::Callbacks;

/// How long before its end the server answers those that still wait, so that the answers get out.
const LAST_ANSWERS: Duration = Duration::from_millis(250);

/// Why a callback server cannot run.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Settings cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The database settings are wrong or Postgres refuses them.
    #[error("the callback server cannot use the database")]
    Db(#[from] DbError),
    /// The port cannot be bound.
    #[error("the callback server cannot listen on port {port} (INTERNAL_JOBS_CALLBACK_PORT)")]
    Bind {
        /// INTERNAL_JOBS_CALLBACK_PORT.
        port: u16,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Serving failed.
    #[error("the callback server failed")]
    Serve(#[source] std::io::Error),
}

job_utils::debug_as_chain!(ServerError);

/// Runs a callback server alone until told to stop.
pub async fn run(config: ServerConfig, shutdown: Shutdown) -> Result<(), ServerError> {
    let db = Db::new(&config.postgres)?;
    let listener = bind(config.port).await?;
    run_with(config, db, listener, shutdown).await
}

/// Binds the callback port on all interfaces.
pub async fn bind(port: u16) -> Result<TcpListener, ServerError> {
    health::bind(port).await.map_err(|source| ServerError::Bind { port, source })
}

/// Runs a callback server on a given pool and socket until told to stop; then answers the requests in flight: as their
/// outcomes are stored, and at the end of the grace with 503.
///
/// It serves from the start: /healthz answers while the database is still awaited, and /readyz says what is missing.
///
/// # Errors
/// A setting cannot be used, or the socket fails.
pub async fn run_with(
    config: ServerConfig,
    db: Db,
    listener: TcpListener,
    shutdown: Shutdown,
) -> Result<(), ServerError> {
    ConfigError::none_of(config.problems())?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "callback server listens");
    }
    match &config.secrets {
        None => tracing::warn!(
            "JOBS_CALLBACK_SECRET is not set: whoever reaches the callback port can end jobs; set it for workers and servers"
        ),
        Some(secrets) if secrets.is_short() => {
            tracing::warn!("JOBS_CALLBACK_SECRET is shorter than 16 characters: it can be guessed");
        }
        Some(_) => {}
    }
    // Connections have tasks of their own. When this future is dropped, they end as at a stop whose grace is over.
    let (stopping, ending) = (shutdown.child(), Shutdown::new());
    let _dropped = (stopping.trigger_on_drop(), ending.trigger_on_drop());
    let stale = Arc::new(AtomicU64::new(0));
    let app = routes::app(Callbacks {
        db: CallbackDb::new(db.clone()),
        secrets: config.secrets,
        callback_timeout: config.callback_timeout,
        store_timeout: config.store_timeout,
        stale: stale.clone(),
        stopping: stopping.clone(),
        ending: ending.clone(),
    });
    // Says what it waits for, and ends the server when waiting is in vain.
    let hopeless = async {
        match db.wait_until_ready(&shutdown).await {
            Ok(_) => std::future::pending().await,
            Err(error) => error,
        }
    };
    // An answer goes out at once, also when the one before it is not acknowledged yet.
    let listener = listener.tap_io(|connection| {
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!("cannot set TCP_NODELAY: {error}");
        }
    });
    let serve = axum::serve(listener, app).with_graceful_shutdown(async move { stopping.triggered().await });
    let grace = async {
        shutdown.triggered().await;
        tokio::time::sleep(config.shutdown_grace.saturating_sub(LAST_ANSWERS)).await;
        ending.trigger();
        tokio::time::sleep(LAST_ANSWERS).await;
    };
    let ended = tokio::select! {
        result = serve => result.map_err(ServerError::Serve),
        error = hopeless => Err(error.into()),
        // An idle keep-alive connection must not hold up the stop.
        () = grace => Ok(()),
    };
    tracing::info!(stale = stale.load(Ordering::Relaxed), "callback server stopped");
    ended
}
