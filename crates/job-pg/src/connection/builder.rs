//! Builder: a [`Db`] whose settings come from code.

use std::time::Duration;

use deadpool_postgres::Pool;
use tokio_postgres::Config;
use tokio_postgres::config::{SslMode as ClientSslMode, TargetSessionAttrs};

use crate::config::postgres::{JOBS_POOL_SIZE, JOBS_STATEMENT_TIMEOUT, LEAST_STATEMENT_TIMEOUT, MOST_CONNECTIONS};
use crate::config::{Listen, PostgresConfig, SchemaName};
use crate::connection::Db;
use crate::connection::pool::{client_config, completed};
use crate::connection::tls;
use crate::error::DbError;
use job_utils::config::{ConfigError, Fault, in_words};

/// A [`Db`] that is being put together.
///
/// ```
/// use job_pg::Db;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let db = Db::builder("postgres://app@localhost/shop").pool_size(20).build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "build it"]
pub struct DbBuilder {
    /// Of a connection URL; or what is wrong with it.
    config: Result<PostgresConfig, ConfigError>,
    /// Settings of the client, where they are given as such.
    client: Option<Config>,
    tls: Option<tls::Own>,
    schema: Option<SchemaName>,
    pool_size: Option<usize>,
    statement_timeout: Option<Duration>,
    listen: Option<Listen>,
    /// The application's.
    pool: Option<Pool>,
}

impl Db {
    /// Begins with a connection URL, and all else as it is by default. Nothing is read from the environment.
    pub fn builder(url: &str) -> DbBuilder {
        DbBuilder::new(PostgresConfig::from_url(url), None)
    }

    /// Begins with settings of the client, as an application may have them for its own pool. What they leave out is as
    /// it is by default, keepalives among it. TLS, where they ask for it, is not verified, unless [`DbBuilder::tls`]
    /// says how.
    ///
    /// With [`DbBuilder::pool`] it takes the application's pool.
    pub fn builder_from(client: Config) -> DbBuilder {
        // Where and as whom to connect is in the other.
        DbBuilder::new(PostgresConfig::from_url(""), Some(client))
    }
}

impl DbBuilder {
    fn new(config: Result<PostgresConfig, ConfigError>, client: Option<Config>) -> Self {
        let (tls, schema, pool_size, statement_timeout, listen) = Default::default();
        Self { config, client, tls, schema, pool_size, statement_timeout, listen, pool: None }
    }

    /// The jobs schema; `app_jobs` unless given. Only this [`Db`] knows it: what enqueues on a transaction, or on a
    /// connection or a pool of one's own, goes into `app_jobs` unless it is named ([`enqueue_in`](crate::enqueue_in)).
    pub fn schema(mut self, schema: SchemaName) -> Self {
        self.schema = Some(schema);
        self
    }

    /// Connections, beside one that listens; 5 unless given. A worker's own statements do with 2. What its handlers
    /// need comes on top: one for each job at once that works in a transaction.
    pub fn pool_size(mut self, connections: usize) -> Self {
        self.pool_size = Some(connections);
        self
    }

    /// Takes connections of a pool that the application has, rather than make some of its own. The settings with which
    /// the builder has begun lead to the same database: with them it opens what a pool cannot give, which is the
    /// connection that listens and holds the worker's id, that of a migration, and those that cancel a statement which
    /// nobody waits for any more.
    ///
    /// ```
    /// use job_pg::{Db, DbError};
    /// use job_pg::deadpool_postgres::{Manager, Pool};
    /// use job_pg::tokio_postgres::{Config, NoTls};
    ///
    /// fn jobs(config: &Config, pool: &Pool) -> Result<Db, DbError> {
    ///     Db::builder_from(config.clone()).pool(pool.clone()).build()
    /// }
    /// # let config: Config = "postgres://app@localhost/shop".parse().unwrap();
    /// # let pool = Pool::builder(Manager::new(config.clone(), NoTls)).max_size(8).build().unwrap();
    /// # assert_eq!(jobs(&config, &pool).unwrap().place(), "localhost:5432/shop");
    /// ```
    ///
    /// What is set for the pool stays: its size, how it recycles, what it does after connecting. How long one waits for
    /// a connection of it, and for an answer, is as for a pool of its own. A connection without an answer leaves the
    /// pool, and with it all that are idle, since they may lead to the same place. A worker takes two connections; what
    /// else uses the pool must leave them.
    pub fn pool(mut self, pool: Pool) -> Self {
        self.pool = Some(pool);
        self
    }

    /// How long a statement may go without an answer before its connection is given up; 15 s unless given.
    pub fn statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = Some(timeout);
        self
    }

    /// Whether connections are sessions of one's own, or a pooler is in between; that is found out unless given.
    pub fn listen(mut self, listen: Listen) -> Self {
        self.listen = Some(listen);
        self
    }

    /// How to set up TLS: with roots, a verifier or client certificates of the application's own. It is required then,
    /// also when `sslmode` does not say so.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, config: rustls::ClientConfig) -> Self {
        self.tls = Some(config);
        self
    }

    /// A pool that connects when it is first used.
    ///
    /// # Errors
    /// Everything that is wrong with the settings.
    pub fn build(self) -> Result<Db, DbError> {
        let mut config = self.config?;
        let mut faults = Vec::new();
        if let Some(schema) = self.schema {
            config.schema = schema;
        }
        if let Some(connections) = self.pool_size {
            config.pool_size = connections;
            if !(2..=MOST_CONNECTIONS).contains(&connections) {
                let message = format!("{connections} is not within 2 to {MOST_CONNECTIONS}");
                faults.push(Fault { name: JOBS_POOL_SIZE.name, message });
            }
        }
        if let Some(pool) = &self.pool {
            let size = pool.status().max_size;
            if self.pool_size.is_some() {
                let message = "comes with pool_size, which is that of the pool: leave it out".to_owned();
                faults.push(Fault { name: "pool", message });
            } else if size < 2 {
                let message = format!("has {size} connection at most, and a worker takes two");
                faults.push(Fault { name: "pool", message });
            }
        }
        if let Some(timeout) = self.statement_timeout {
            config.statement_timeout = timeout;
            if timeout < LEAST_STATEMENT_TIMEOUT {
                let message = format!("must be at least {}", in_words(LEAST_STATEMENT_TIMEOUT));
                faults.push(Fault { name: JOBS_STATEMENT_TIMEOUT.name, message });
            }
        }
        if let Some(listen) = self.listen {
            config.listen = listen;
        }
        if !faults.is_empty() {
            return Err(ConfigError { faults }.into());
        }
        let mut client = match self.client {
            Some(client) => {
                // An idle time of two hours, and any kind of server, are the client's own defaults, which cannot be
                // told from a choice.
                let idle = client.get_keepalives_idle() != Duration::from_secs(2 * 3600);
                let server = client.get_target_session_attrs() != TargetSessionAttrs::Any;
                completed(client, &config, |name| match name {
                    "keepalives_idle" => idle,
                    "target_session_attrs" => server,
                    _ => true,
                })
            }
            None => client_config(&config)?,
        };
        let connector = match self.tls {
            Some(tls) => {
                client.ssl_mode(ClientSslMode::Require);
                tls::connector_with(tls)
            }
            None => tls::connector(&config)?,
        };
        Db::connecting_by(&config, client, connector, self.pool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_named() {
        let built = Db::builder("postgres://localhost/shop").pool_size(1).statement_timeout(Duration::ZERO).build();
        let Err(DbError::Config(error)) = built else { panic!("built") };
        let names: Vec<_> = error.faults.iter().map(|fault| fault.name).collect();
        assert_eq!(names, ["JOBS_POOL_SIZE", "JOBS_STATEMENT_TIMEOUT"]);
        assert!(Db::builder("postgres://localhost:port/shop").build().is_err());
        assert!(Db::builder("postgres://localhost/shop").pool_size(2).build().is_ok());
    }

    #[test]
    fn settings_of_the_client_are_taken_as_they_are_and_completed() {
        let mut client = Config::new();
        client.host("db").port(6000).user("app").dbname("shop").ssl_mode(ClientSslMode::Disable);
        let config = PostgresConfig::from_url("").unwrap();
        let done = completed(client, &config, |name| name != "keepalives_idle");
        assert_eq!((done.get_user(), done.get_dbname(), done.get_ports()), (Some("app"), Some("shop"), &[6000][..]));
        assert_eq!((done.get_ssl_mode(), done.get_application_name()), (ClientSslMode::Disable, Some("jobs")));
        assert!(done.get_tcp_user_timeout().is_some());
        assert_eq!(Db::builder_from(done).build().unwrap().place(), "db:6000/shop");
    }
}
