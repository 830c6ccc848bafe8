//! The callback server's settings.

use std::collections::BTreeMap;
use std::time::Duration;

use job_pg::config::PostgresConfig;
use job_utils::config::shared::{
    INTERNAL_JOBS_CALLBACK_PORT, JOBS_CALLBACK_SECRET, JOBS_CALLBACK_TIMEOUT, JOBS_SHUTDOWN_GRACE, LEAST,
    duration_problem, read_secrets,
};
use job_utils::config::{ConfigError, Env, Reader, Var};
use job_utils::wire::signature::CallbackSecrets;

/// Every variable that the callback server reads, but for those of Postgres.
pub const VARS: &[&Var] =
    &[&INTERNAL_JOBS_CALLBACK_PORT, &JOBS_CALLBACK_SECRET, &JOBS_CALLBACK_TIMEOUT, &JOBS_SHUTDOWN_GRACE];

/// The callback server's settings. From the environment, or the defaults with what differs:
///
/// ```
/// use job_utils::wire::signature::CallbackSecrets;
/// let mut config = job_server::ServerConfig::default();
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

    /// Everything that a server could not work with, wherever the settings are from: the variable, and what is wrong
    /// with the value.
    pub fn problems(&self) -> Vec<(&'static Var, String)> {
        let durations = [
            (&JOBS_SHUTDOWN_GRACE, self.shutdown_grace, Duration::ZERO),
            (&JOBS_CALLBACK_TIMEOUT, self.callback_timeout, LEAST),
        ];
        let problem = |(var, duration, least)| Some((var, duration_problem(duration, least)?));
        durations.into_iter().filter_map(problem).collect()
    }
}
