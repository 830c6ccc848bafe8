//! A function as a server: listening, stopping, and the parts that requests share.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use job_utils::config::shared::INTERNAL_JOBS_CALLBACK_URL;
use job_utils::config::{ConfigError, Env, Reader, Var};
use job_utils::http_server::{BodyBudget, Limits, serve};
use job_utils::probe::Target;
use job_utils::shutdown::Shutdown;
use job_utils::telemetry::LogLimit;
use job_utils::variables;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::callback::{Caller, GIVE_UP_AFTER};
use crate::context::Context;
use crate::error::FunctionError;
use crate::handler::{Erased, Shared, erase, receive};
use crate::origins::{CallbackOrigins, JOBS_CALLBACK_ORIGINS};

variables! {
    /// Port that a function listens on, on all interfaces.
    pub PORT = "8080" for "functions";
}

/// Every variable that this crate reads.
pub const VARS: &[&Var] = &[&PORT, &JOBS_CALLBACK_ORIGINS, &INTERNAL_JOBS_CALLBACK_URL];

/// How many connections a function has at most, which is how many jobs it has at once; fewer where the process may have
/// few descriptors.
const CONNECTIONS: usize = 4096;

/// What the payloads beyond the usual size take together while they arrive, in bytes, beside the largest of them.
const BODIES: usize = 32 << 20;

/// How long a payload waits for others to make room. Its caller has sent a head and waits for an answer: a worker does
/// for JOBS_DISPATCH_FIRST_BYTE_TIMEOUT or JOBS_DISPATCH_TIMEOUT, minutes as a rule. It is part of the time that a
/// payload has to arrive.
const BODY_WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Below the 30 s after which Kubernetes kills a process it has asked to stop.
const GRACE: Duration = Duration::from_secs(25);

/// The settings of every function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The port to listen on.
    pub port: u16,
    /// Where to call back; None: anywhere, with a warning.
    pub callback_origins: Option<CallbackOrigins>,
}

impl Config {
    /// Reads `PORT` and where to call back; a fault stays in `reader`.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        Self { port: reader.number(&PORT), callback_origins: CallbackOrigins::read(reader) }
    }
}

/// Where a function is asked whether it works (`health`).
///
/// # Errors
/// PORT is not a port.
pub fn health_target(env: &dyn Env) -> Result<Target, ConfigError> {
    let mut reader = Reader::new(env);
    let port = reader.number(&PORT);
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
    origins: Option<CallbackOrigins>,
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
        Self { handler: erase(handler), grace: GRACE, give_up_after: GIVE_UP_AFTER, origins: None }
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

    /// Where to call back. Without this a function posts wherever the caller says, and warns at its start. A job whose
    /// `X-Callback-Url` leads elsewhere is answered 403, and its handler does not run.
    #[must_use]
    pub fn callback_origins(mut self, origins: CallbackOrigins) -> Self {
        self.origins = Some(origins);
        self
    }

    /// Listens on all interfaces and runs until `shutdown`.
    pub async fn listen(mut self, config: &Config, shutdown: Shutdown) -> anyhow::Result<Stopped> {
        self.origins = self.origins.or_else(|| config.callback_origins.clone());
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
        if self.origins.is_none() {
            tracing::warn!(
                "{} is not set: the function posts to whatever X-Callback-Url a caller names",
                JOBS_CALLBACK_ORIGINS.name
            );
        }
        let shared = Arc::new(Shared {
            handler: self.handler,
            caller,
            origins: self.origins,
            refusals: LogLimit::once_a_second(),
            bodies: BodyBudget::new(BODIES).wait_timeout(BODY_WAIT_TIMEOUT),
            tasks: tasks.clone(),
            abort: abort.clone(),
        });
        let router = Router::new().fallback(receive).with_state(shared);
        tracing::info!(address = %listener.local_addr()?, "listening");

        let serving = async {
            serve(listener, router, Limits::new(CONNECTIONS), shutdown.clone()).await;
            tasks.close();
            tasks.wait().await;
        };
        let deadline = async {
            shutdown.triggered().await;
            tokio::time::sleep(self.grace).await;
        };
        tokio::select! {
            () = serving => {}
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
