#![doc = include_str!("../README.md")]

mod budget;
mod config;
mod error;
mod jobs;
mod list;
mod lookup;
mod migrate;
mod request;
mod routes;
mod scalars;
mod schema;
mod size;

use std::net::SocketAddr;
use std::time::Duration;

use job_pg::{Db, DbError};
use job_utils::http_server::{Limits, serve};
use job_utils::shutdown::Shutdown;
use tokio::net::TcpListener;

pub use config::{ADMIN_HOST, ADMIN_TOKEN, API_IS_PUBLIC, Config, MigrateConfig, PORT, VARS, health_target};
pub use migrate::{MigrateError, migrate};

/// How many connections the server has at most.
const CONNECTIONS: usize = 256;

/// How long a stop waits for requests in flight.
const GRACE: Duration = Duration::from_secs(10);

/// Why admin-server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The database settings are wrong or Postgres refuses them.
    #[error("admin-server cannot use the database")]
    Db(#[from] DbError),
    /// The address cannot be bound.
    #[error("admin-server cannot listen on {address} (ADMIN_HOST, PORT)")]
    Bind {
        /// ADMIN_HOST and PORT.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Serves the API until told to stop.
///
/// # Errors
/// The address cannot be bound, or the database settings cannot work.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), AdminError> {
    let address = SocketAddr::new(config.host, config.port);
    let listener = TcpListener::bind(address).await.map_err(|source| AdminError::Bind { address, source })?;
    run_on(config, listener, shutdown).await
}

/// Serves the API on a given socket until told to stop; then answers the requests in flight.
///
/// It serves from the start: /healthz answers while the database is still awaited, and /readyz says what is missing.
///
/// # Errors
/// The database settings cannot work: a wrong password, say.
pub async fn run_on(config: Config, listener: TcpListener, shutdown: Shutdown) -> Result<(), AdminError> {
    let db = Db::new(&config.postgres)?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "admin-server listens");
        if config.token.is_none() && !address.ip().is_loopback() {
            tracing::warn!("ADMIN_TOKEN is not set: whoever reaches this address reads users and adds jobs");
        }
    }
    let app = routes::app(db.clone(), config.token);
    let serve = serve(listener, app, Limits::new(CONNECTIONS), shutdown.clone());
    // Says what is missing until nothing is; only what waiting cannot mend ends the service.
    let watch = async {
        let result = db.wait_until_ready(&shutdown).await;
        if result.is_ok() {
            shutdown.triggered().await;
        }
        result
    };
    let grace = async {
        watch.await?;
        // An idle keep-alive connection must not hold up the stop.
        tokio::time::sleep(GRACE).await;
        Ok::<_, DbError>(())
    };
    tokio::select! {
        () = serve => {}
        result = grace => result?,
    }
    tracing::info!("admin-server stopped");
    Ok(())
}
