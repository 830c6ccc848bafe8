//! The callback server's settings, and the address that functions are told.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::worker::{JOBS_SHUTDOWN_GRACE, LEAST, duration_problem};
use crate::config::{ConfigError, Env, HttpUrl, PostgresConfig, Reader, Var};
use crate::wire::callback::callback_url;
use crate::wire::signature::CallbackSecrets;

/// Port.
pub const INTERNAL_JOBS_CALLBACK_PORT: Var = Var {
    name: "INTERNAL_JOBS_CALLBACK_PORT",
    default: "12345",
    used_by: "worker, server, service",
    about: "Port of the callback server, on all interfaces; it serves /healthz and /readyz as well.",
};
/// URL.
pub const INTERNAL_JOBS_CALLBACK_URL: Var = Var {
    name: "INTERNAL_JOBS_CALLBACK_URL",
    default: "",
    used_by: "worker, service, functions",
    about: "URL of the callback server as functions reach it; without a path, `/callback` is meant. The service tries it \
            at its start, and warns when it leads elsewhere.",
};
/// Host.
pub const JOBS_CALLBACK_HOST: Var = Var {
    name: "JOBS_CALLBACK_HOST",
    default: "jobs-callback",
    used_by: "worker, service",
    about: "Host in the callback URL when INTERNAL_JOBS_CALLBACK_URL is unset: `http://<host>:<port>/callback`.",
};

/// Signature.
pub const JOBS_CALLBACK_SECRET: Var = Var {
    name: "JOBS_CALLBACK_SECRET",
    default: "",
    used_by: "worker, server, service",
    about: "Signs the callback URL of every attempt; then a callback without a valid signature is refused with 401. Two secrets between commas while one is replaced: the first signs, both are accepted.",
};
/// Callback time-out.
pub const JOBS_CALLBACK_TIMEOUT: Var = Var {
    name: "JOBS_CALLBACK_TIMEOUT",
    default: "4h",
    used_by: "worker, server, service",
    about: "How long after a function has accepted a job its callback may come before the job fails. The function can have this extended.",
};

/// Every variable of this file.
pub const VARS: &[&Var] = &[
    &INTERNAL_JOBS_CALLBACK_PORT,
    &INTERNAL_JOBS_CALLBACK_URL,
    &JOBS_CALLBACK_HOST,
    &JOBS_CALLBACK_SECRET,
    &JOBS_CALLBACK_TIMEOUT,
];

/// Reads JOBS_CALLBACK_SECRET.
pub(crate) fn read_secrets(reader: &mut Reader<'_>) -> Option<CallbackSecrets> {
    let list = reader.secret(&JOBS_CALLBACK_SECRET)?;
    let secrets = CallbackSecrets::parse(&list);
    match secrets.as_ref().map(CallbackSecrets::count) {
        None => reader.fault(&JOBS_CALLBACK_SECRET, "holds no secret: unset it, or give one"),
        Some(1 | 2) => {}
        Some(_) => reader.fault(&JOBS_CALLBACK_SECRET, "holds more than two secrets; a secret cannot hold a comma"),
    }
    secrets
}

/// How functions reach the callback server.
pub(crate) struct CallbackAddress;

impl CallbackAddress {
    /// The URL for `X-Callback-Url`.
    pub(crate) fn read_url(reader: &mut Reader<'_>, port: u16) -> HttpUrl {
        let (var, text) = match reader.optional(&INTERNAL_JOBS_CALLBACK_URL) {
            Some(url) => (&INTERNAL_JOBS_CALLBACK_URL, url),
            None => (&JOBS_CALLBACK_HOST, format!("http://{}:{port}", reader.text(&JOBS_CALLBACK_HOST))),
        };
        callback_url(&text).unwrap_or_else(|message| {
            reader.fault(var, message);
            #[allow(clippy::expect_used, reason = "a literal URL parses; the fault above keeps it from being used")]
            callback_url("http://jobs-callback").expect("literal")
        })
    }
}

/// The callback server's settings. From the environment, or the defaults with what differs:
///
/// ```
/// use job_utils::wire::signature::CallbackSecrets;
/// let mut config = job_utils::config::ServerConfig::default();
/// config.port = 8080;
/// config.secrets = CallbackSecrets::new("correct horse battery staple");
/// assert_eq!(config.secrets.unwrap().count(), 1);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerConfig {
    /// How to reach Postgres.
    pub postgres: PostgresConfig,
    /// Port to bind on all interfaces; 0 lets the system choose (tests).
    pub port: u16,
    /// How long a stop waits for requests in flight.
    pub shutdown_grace: Duration,
    /// How long a callback waits for its outcome to be stored before it is answered 503.
    pub store_timeout: Duration,
    /// With it, callbacks must be signed.
    pub secrets: Option<CallbackSecrets>,
    /// How much time a function gets that asks for more and does not say how much.
    pub callback_timeout: Duration,
}

/// The settings of an empty environment. What reaches Postgres is of no use where a `Db` is given.
impl Default for ServerConfig {
    fn default() -> Self {
        Self::read(&mut Reader::new(&BTreeMap::new()))
    }
}

impl ServerConfig {
    /// Reads and checks every variable the server uses.
    pub fn from_env(env: &dyn Env) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(env);
        let config = Self::read(&mut reader);
        reader.finish(config)
    }

    /// Reads with a given reader, so that several parts report their faults together.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            postgres: PostgresConfig::read(reader),
            port: reader.number(&INTERNAL_JOBS_CALLBACK_PORT),
            shutdown_grace: reader.duration(&JOBS_SHUTDOWN_GRACE),
            // A function calls back once, without a retry: hold its request over a short outage.
            store_timeout: Duration::from_secs(20),
            secrets: read_secrets(reader),
            callback_timeout: reader.positive_duration(&JOBS_CALLBACK_TIMEOUT),
        }
    }

    /// Everything that a server could not work with, wherever the settings are from: the variable, and what is wrong with the value.
    pub fn problems(&self) -> Vec<(&'static Var, String)> {
        let durations = [
            (&JOBS_SHUTDOWN_GRACE, self.shutdown_grace, Duration::ZERO),
            (&JOBS_CALLBACK_TIMEOUT, self.callback_timeout, LEAST),
        ];
        let problem = |(var, duration, least)| Some((var, duration_problem(duration, least)?));
        durations.into_iter().filter_map(problem).collect()
    }
}
