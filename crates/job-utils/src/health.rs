//! `GET /healthz` (this process is alive) and `GET /readyz` (it can work), for probes.

use std::future::Future;
use std::net::Ipv4Addr;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::http_server::{Limits, serve};
use crate::shutdown::Shutdown;

/// More than probes need.
const CONNECTIONS: usize = 64;

/// The two routes. `ready` says what is missing.
pub fn routes<F, Fut, E>(ready: F) -> Router
where
    F: Fn() -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send,
    E: std::fmt::Display,
{
    let readyz = move || {
        let ready = ready.clone();
        async move {
            match ready().await {
                Ok(()) => text(StatusCode::OK, "ready".to_owned()),
                Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, reason.to_string()),
            }
        }
    };
    Router::new()
        .route("/healthz", get(|| async { text(StatusCode::OK, "alive".to_owned()) }))
        .route("/readyz", get(readyz))
}

fn text(status: StatusCode, text: String) -> Response {
    (status, text).into_response()
}

/// Binds a port on all interfaces. IPv6 covers IPv4 where the host has both.
///
/// # Errors
/// The port is taken or reserved.
pub async fn bind(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind((std::net::Ipv6Addr::UNSPECIFIED, port)).await {
        Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        bound => bound,
    }
}

/// Runs a service that has no port of its own, with the two routes on `port` beside it (None: without) until it has
/// ended.
///
/// # Errors
/// The port cannot be bound; the service was not started.
pub async fn beside<T, F, Fut, E>(port: Option<u16>, ready: F, service: impl Future<Output = T>) -> std::io::Result<T>
where
    F: Fn() -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send,
    E: std::fmt::Display + 'static,
{
    let Some(port) = port else {
        return Ok(service.await);
    };
    let listener = bind(port).await?;
    // Connections that stay open end with this future, too.
    let serve = serve(listener, routes(ready), Limits::new(CONNECTIONS), Shutdown::new());
    tokio::select! {
        result = service => Ok(result),
        // It serves until it is told to stop.
        () = serve => Err(std::io::Error::other("stopped")),
    }
}
