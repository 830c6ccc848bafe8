#![doc = include_str!("../README.md")]

mod callback;
mod config;
mod error;
mod routes;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use job_pg::{CallbackDb, Db, DbError, Uuid};
use job_utils::config::ConfigError;
use job_utils::events::Events;
use job_utils::health;
use job_utils::http_server::{BodyBudget, Limits, serve};
use job_utils::shutdown::Shutdown;
use job_utils::telemetry::LogLimit;
use job_utils::wire::signature::fingerprint;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::callback::{Callbacks, Told};

pub use crate::config::{ServerConfig, VARS};

/// How many connections the server has at most; fewer where the process may have few descriptors.
const CONNECTIONS: usize = 1024;

/// What the bodies of callbacks beyond the usual size take together, in bytes, beside the largest of them.
const BODIES: usize = 32 << 20;

/// How many large or compressed bodies are read at once: each may take 16 MiB for a moment, and a thread.
const READING: usize = 2;

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
}

job_utils::debug_as_chain!(ServerError);

/// Runs a callback server alone until told to stop.
pub async fn run(config: ServerConfig, shutdown: Shutdown) -> Result<(), ServerError> {
    let db = Db::new(&config.postgres)?;
    let listener = bind(config.port).await?;
    run_with(config, db, listener, Events::default(), shutdown).await
}

/// Binds the callback port on all interfaces.
pub async fn bind(port: u16) -> Result<TcpListener, ServerError> {
    health::bind(port).await.map_err(|source| ServerError::Bind { port, source })
}

/// A new name for a callback server on this database: a part of its own, and one that all servers of the database have.
#[doc(hidden)]
pub fn identity(db: &Db) -> String {
    format!("{}.{}", Uuid::new_v4(), fingerprint(&format!("{} {}", db.place(), db.schema().as_str())))
}

/// Runs a callback server on a given pool and socket until told to stop; then answers the requests in flight: as their
/// outcomes are stored, and at the end of the grace with 503.
///
/// `events` is told of each callback, and of what has become of its job.
///
/// It serves from the start: /healthz answers while the database is still awaited, and /readyz says what is missing.
///
/// # Errors
/// A setting cannot be used, or the socket fails.
pub async fn run_with(
    config: ServerConfig,
    db: Db,
    listener: TcpListener,
    events: Events,
    shutdown: Shutdown,
) -> Result<(), ServerError> {
    let identity = identity(&db);
    run_as(identity, config, db, listener, events, shutdown).await
}

/// [`run_with`] under a given identity, by which one can tell whether a URL leads to this server.
#[doc(hidden)]
pub async fn run_as(
    identity: String,
    config: ServerConfig,
    db: Db,
    listener: TcpListener,
    events: Events,
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
    let told = Arc::new(Told::new(events));
    let teller = told.clone();
    let callbacks = Arc::new(Callbacks {
        db: CallbackDb::telling(db.clone(), move |worker_id, job_id, outcome, settled| {
            teller.ended(worker_id, job_id, outcome, settled);
        }),
        secrets: config.secrets,
        callback_timeout: config.callback_timeout,
        store_timeout: config.store_timeout,
        bodies: BodyBudget::new(BODIES),
        reading: Arc::new(Semaphore::new(READING)),
        identity,
        told,
        refused: AtomicU64::new(0),
        refusals: LogLimit::once_a_second(),
        stopping: stopping.clone(),
        ending: ending.clone(),
    });
    // Says what it waits for, and ends the server when waiting is in vain.
    let not_ready = async {
        match db.wait_until_ready(&shutdown).await {
            Ok(_) => std::future::pending().await,
            Err(error) => error,
        }
    };
    let serve = serve(listener, routes::app(callbacks.clone()), Limits::new(CONNECTIONS), stopping.clone());
    let grace = async {
        shutdown.triggered().await;
        tokio::time::sleep(config.shutdown_grace.saturating_sub(LAST_ANSWERS)).await;
        ending.trigger();
        tokio::time::sleep(LAST_ANSWERS).await;
    };
    let ended = tokio::select! {
        () = serve => Ok(()),
        error = not_ready => Err(error.into()),
        // An idle keep-alive connection must not hold up the stop.
        () = grace => Ok(()),
    };
    let (stale, refused) = (callbacks.told.stale.load(Ordering::Relaxed), callbacks.refused.load(Ordering::Relaxed));
    tracing::info!(stale, refused, "callback server stopped");
    ended
}
