//! A function as a server: listening, stopping, and the parts that requests share.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::serve::ListenerExt;
use job_utils::config::{ConfigError, Env, Reader, Var};
use job_utils::probe::Target;
use job_utils::shutdown::Shutdown;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::callback::{Caller, GIVE_UP_AFTER};
use crate::context::Context;
use crate::error::FunctionError;
use crate::handler::{BODY_LIMIT, Erased, Shared, erase, receive};

/// Where a function listens.
pub const PORT: Var = Var {
    name: "PORT",
    default: "8080",
    used_by: "functions",
    about: "Port that a function listens on, on all interfaces.",
};

/// Every variable that this crate reads.
pub const VARS: &[&Var] = &[&PORT];

/// Below the 30 s after which Kubernetes kills a process it has asked to stop.
const GRACE: Duration = Duration::from_secs(25);

/// The settings of every function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The port to listen on.
    pub port: u16,
}

impl Config {
    /// Reads `PORT`; a fault stays in `reader`.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        Self { port: reader.number(&PORT) }
    }
}

/// Where a function is asked whether it works (`health`).
///
/// # Errors
/// PORT is not a port.
pub fn health_target(env: &dyn Env) -> Result<Target, ConfigError> {
    let mut reader = Reader::new(env);
    let port = Config::read(&mut reader).port;
    reader.finish(Target::local(port, "/healthz"))
}

/// How a function stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Handlers and callbacks that did not end within the grace; their jobs end by the queue's own rules.
    pub abandoned: usize,
}

/// One handler behind HTTP.
pub struct App {
    handler: Erased,
    grace: Duration,
    give_up_after: Duration,
}

impl App {
    /// A function that runs `handler` for each POST.
    pub fn new<H, P, F, R, E>(handler: H) -> Self
    where
        H: Fn(Context, P) -> F + Send + Sync + 'static,
        P: DeserializeOwned + Send + 'static,
        F: Future<Output = Result<R, E>> + Send + 'static,
        R: Serialize,
        E: Into<FunctionError>,
    {
        Self { handler: erase(handler), grace: GRACE, give_up_after: GIVE_UP_AFTER }
    }

    /// How long to wait for handlers and callbacks when told to stop (25 s).
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// How long to go on trying to call back while the job service does not answer (2 minutes).
    #[must_use]
    pub fn give_up_callbacks_after(mut self, limit: Duration) -> Self {
        self.give_up_after = limit;
        self
    }

    /// Listens on all interfaces and runs until `shutdown`.
    pub async fn listen(self, config: &Config, shutdown: Shutdown) -> anyhow::Result<Stopped> {
        let address = (Ipv4Addr::UNSPECIFIED, config.port);
        let listener = TcpListener::bind(address).await.map_err(|error| {
            anyhow::Error::new(error).context(format!("cannot listen on port {} ({})", config.port, PORT.name))
        })?;
        self.run(listener, shutdown).await
    }

    /// Runs on a listener until `shutdown`, then waits for what is under way.
    pub async fn run(self, listener: TcpListener, shutdown: Shutdown) -> anyhow::Result<Stopped> {
        let caller =
            Caller::new(self.give_up_after).map_err(|error| anyhow::Error::new(error).context("no HTTP client"))?;
        let tasks = TaskTracker::new();
        let abort = Shutdown::new();
        let shared = Arc::new(Shared { handler: self.handler, caller, tasks: tasks.clone(), abort: abort.clone() });
        let router = Router::new().fallback(receive).layer(DefaultBodyLimit::max(BODY_LIMIT)).with_state(shared);
        tracing::info!(address = %listener.local_addr()?, "listening");

        // An answer is one small write: Nagle's algorithm could only delay it.
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        let stop = shutdown.clone();
        let serving = async {
            axum::serve(listener, router).with_graceful_shutdown(async move { stop.triggered().await }).await?;
            tasks.close();
            tasks.wait().await;
            Ok::<_, std::io::Error>(())
        };
        let deadline = async {
            shutdown.triggered().await;
            tokio::time::sleep(self.grace).await;
        };
        tokio::select! {
            served = serving => served?,
            () = deadline => {}
        }
        let stopped = Stopped { abandoned: tasks.len() };
        abort.trigger();
        if stopped.abandoned == 0 {
            tracing::info!("stopped");
        } else {
            tracing::warn!(abandoned = stopped.abandoned, "stopped before every handler and callback had ended");
        }
        Ok(stopped)
    }
}
