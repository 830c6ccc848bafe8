//! The connection pool, and waiting for a database that is not there yet.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Object, Pool, PoolError, TimeoutType};
use tokio::sync::{Semaphore, watch};
use tokio_postgres::Config;
use tokio_postgres::config::{SslMode as ClientSslMode, TargetSessionAttrs};
use tokio_util::task::TaskTracker;

use crate::config::{Listen, PostgresConfig, SchemaName, SslMode};
use crate::connection::any_pool::AnyPool;
use crate::connection::connect::{Connector, Dedicated};
use crate::connection::operation::ConnectionAlarm;
use crate::connection::pool_wait;
use crate::connection::settlers::Settlers;
use crate::connection::tls;
use crate::connection::url;
use crate::error::DbError;
use job_utils::config::{ProcessEnv, Reader};

/// Connections of the pool that handlers' transactions leave to statements that are soon over, those of the worker
/// itself above all; half of a small pool.
const KEPT: usize = 2;

/// When the kernel begins to ask whether the peer of a silent connection is there, how often, and after how many
/// questions without an answer the connection ends. Soon enough, too, for the address translation in between not to
/// forget it.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;

/// How long what was sent, or such a question, may go without an acknowledgement.
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// A pool of connections to one database, and the jobs schema in it. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    inner: Arc<Inner>,
}

struct Inner {
    pool: AnyPool,
    connector: Connector,
    /// Where to listen; None: nowhere.
    listening: Option<Connector>,
    /// Whether that is elsewhere.
    elsewhere: bool,
    schema: SchemaName,
    statement_timeout: Duration,
    /// For transactions that last: so many connections of the pool, and no more.
    long_operation_permits: Semaphore,
    /// Cancellations under way.
    cancelling: TaskTracker,
    connection_alarm: ConnectionAlarm,
    /// The database's name, for messages.
    database: String,
    /// Those who store outcomes here.
    settlers: Settlers,
}

impl Db {
    /// A pool that connects when it is first used.
    ///
    /// # Errors
    /// Settings that cannot be used: a malformed DATABASE_URL, an unreadable root certificate.
    pub fn new(config: &PostgresConfig) -> Result<Self, DbError> {
        Self::connecting(config, connector(config, config.listen)?, None)
    }

    /// A pool on the database `postgres` of the same server, and the name of the database that the settings mean.
    pub(crate) fn maintenance(config: &PostgresConfig) -> Result<(Self, String), DbError> {
        let mut client = client_config(config)?;
        let meant = client.get_dbname().unwrap_or_default().to_owned();
        client.dbname("postgres");
        Ok((Self::connecting(config, connector_of(config, client, config.listen)?, None)?, meant))
    }

    /// [`Db::new`] with a client's settings and a way to set up TLS, and with the application's pool where it gives
    /// one.
    pub(crate) fn connecting_by(
        config: &PostgresConfig,
        client: Config,
        tls: tls::MakeConnect,
        application_pool: Option<Pool>,
    ) -> Result<Self, DbError> {
        let connector = Connector::new(&client, tls, limit(config, &client), config.listen);
        Self::connecting(config, (client, connector), application_pool)
    }

    fn connecting(
        config: &PostgresConfig,
        (client, connector): (Config, Connector),
        application_pool: Option<Pool>,
    ) -> Result<Self, DbError> {
        let listening = match (&config.listen_at, config.listen) {
            // A pooler there, too, would be found.
            (Some(endpoint), _) => Some(self::connector(&config.at(endpoint), Listen::Auto)?.1),
            (None, Listen::Off) => None,
            (None, Listen::Auto | Listen::On) => Some(connector.clone()),
        };
        let pool = match application_pool {
            Some(pool) => AnyPool::application(pool, connector.clone()),
            None => AnyPool::own(client.clone(), connector.clone(), config.pool_size)?,
        };
        let size = pool.max_size();
        Ok(Self {
            inner: Arc::new(Inner {
                pool,
                connector,
                listening,
                elsewhere: config.listen_at.is_some(),
                schema: config.schema.clone(),
                statement_timeout: config.statement_timeout,
                // A pool of none is one of a single connection that never comes: its waits end by their limits.
                long_operation_permits: Semaphore::new((size - KEPT.min(size / 2)).max(1)),
                cancelling: TaskTracker::new(),
                connection_alarm: ConnectionAlarm::new(),
                database: client.get_dbname().unwrap_or_default().to_owned(),
                settlers: Settlers::default(),
            }),
        })
    }

    /// [`Db::new`] with a connection URL and all else as it is by default: schema `app_jobs`, 5 connections.
    /// [`Db::builder`] takes more.
    ///
    /// # Errors
    /// As there.
    pub fn from_url(url: &str) -> Result<Self, DbError> {
        Self::new(&PostgresConfig::from_url(url)?)
    }

    /// [`Db::new`] with the settings of the environment: DATABASE_URL or the PG variables, and those beside them in
    /// docs/configuration.md.
    ///
    /// # Errors
    /// As there.
    pub fn from_env() -> Result<Self, DbError> {
        let mut reader = Reader::new(&ProcessEnv);
        let config = PostgresConfig::read(&mut reader);
        Self::new(&reader.finish(config)?)
    }

    /// The jobs schema.
    pub fn schema(&self) -> &SchemaName {
        &self.inner.schema
    }

    /// The database's name, for messages.
    pub(crate) fn database(&self) -> &str {
        &self.inner.database
    }

    /// Host, port and database, for messages.
    pub fn place(&self) -> &str {
        self.inner.connector.place()
    }

    /// A connection from the pool, without a limit to what is done with it: to enqueue, above all.
    ///
    /// # Errors
    /// All are in use, or there is none to be had.
    pub async fn connection(&self) -> Result<Object, DbError> {
        self.get(true).await
    }

    /// A connection from the pool, however long all are in use.
    pub(crate) async fn connection_without_limit(&self) -> Result<Object, DbError> {
        self.get(false).await
    }

    async fn get(&self, limited: bool) -> Result<Object, DbError> {
        let _wait = pool_wait::begin();
        self.inner.pool.get(limited).await.map_err(|error| {
            if !matches!(error, PoolError::Timeout(TimeoutType::Wait)) {
                self.inner.connection_alarm.raise();
            }
            DbError::Connect(error)
        })
    }

    /// Those who store outcomes here.
    pub(crate) fn settlers(&self) -> &Settlers {
        &self.inner.settlers
    }

    /// For how many connections transactions may last.
    pub(crate) fn long_operation_permits(&self) -> &Semaphore {
        &self.inner.long_operation_permits
    }

    /// How long a statement may go without an answer.
    pub(crate) fn statement_timeout(&self) -> Duration {
        self.inner.statement_timeout
    }

    /// A connection has turned out to lead nowhere, or to the wrong server. So may all that are idle: they are given
    /// up.
    pub(crate) fn report_broken_connection(&self) {
        self.drop_idle();
        self.inner.connection_alarm.raise();
    }

    /// Closes the connections that nobody uses at this moment.
    pub(crate) fn drop_idle(&self) {
        self.inner.pool.drop_idle();
    }

    /// Tells of connection_alarm from now on.
    pub(crate) fn connection_alarm(&self) -> watch::Receiver<()> {
        self.inner.connection_alarm.subscribe()
    }

    /// What connects.
    pub(crate) fn connector(&self) -> &Connector {
        &self.inner.connector
    }

    /// Cancellations under way.
    pub(crate) fn cancelling(&self) -> &TaskTracker {
        &self.inner.cancelling
    }

    /// SQL text with the schema's name put in.
    pub(crate) fn sql(&self, text: &str) -> String {
        self.inner.schema.apply(text)
    }

    /// Whether a connection may get another session for every transaction: nothing may be prepared then, nor kept in a
    /// session.
    pub(crate) fn is_pooled(&self) -> bool {
        self.inner.connector.is_pooled()
    }

    /// A connection of its own, outside the pool.
    pub(crate) async fn dedicated(&self) -> Result<Dedicated, tokio_postgres::Error> {
        self.inner.connector.dedicated().await
    }

    /// Whether that which listens is reached in another way than everything else.
    pub(crate) fn listens_elsewhere(&self) -> bool {
        self.inner.elsewhere
    }

    /// How to get a connection that listens; None when that is off.
    pub(crate) fn listening(&self) -> Option<&Connector> {
        self.inner.listening.as_ref()
    }
}

fn connector(config: &PostgresConfig, listen: Listen) -> Result<(Config, Connector), DbError> {
    connector_of(config, client_config(config)?, listen)
}

fn connector_of(config: &PostgresConfig, client: Config, listen: Listen) -> Result<(Config, Connector), DbError> {
    let connector = Connector::new(&client, tls::connector(config)?, limit(config, &client), listen);
    Ok((client, connector))
}

/// How long one host may take to give a session.
fn limit(config: &PostgresConfig, client: &Config) -> Duration {
    client.get_connect_timeout().copied().unwrap_or(config.connect_timeout)
}

pub(crate) fn client_config(config: &PostgresConfig) -> Result<Config, DbError> {
    let client = match &config.url {
        // The parser's own error may quote a part of the password.
        Some(secret) => url::parse(secret.expose()).map_err(|message| DbError::config(config.url_var, message))?,
        None => Config::new(),
    };
    // TLS is none of the parameters that are left in it.
    Ok(completed(client, config, |name| {
        name != "sslmode" && config.url.as_ref().is_some_and(|url| url.expose().contains(name))
    }))
}

/// A client's settings with what they leave out. Some of them have a default that cannot be told from a choice: of
/// those, `chosen` says whether it was one.
pub(crate) fn completed(mut client: Config, config: &PostgresConfig, chosen: impl Fn(&str) -> bool) -> Config {
    if client.get_hosts().is_empty() && client.get_hostaddrs().is_empty() {
        for host in &config.hosts {
            client.host(host);
        }
        for address in &config.host_addresses {
            client.hostaddr(*address);
        }
        if client.get_ports().is_empty() {
            for port in &config.ports {
                client.port(*port);
            }
        }
    }
    if client.get_user().is_none() {
        client.user(&config.user);
    }
    if let (None, Some(password)) = (client.get_password(), &config.password) {
        client.password(password.expose());
    }
    if client.get_dbname().is_none() {
        client.dbname(&config.database);
    }
    if !chosen("sslmode") {
        client.ssl_mode(match config.ssl_mode {
            SslMode::Disable => ClientSslMode::Disable,
            SslMode::Prefer => ClientSslMode::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => ClientSslMode::Require,
        });
    }
    // A replica is never useful here; asking costs a round trip per connection, so only where there is a choice.
    let hosts = client.get_hosts().len().max(client.get_hostaddrs().len());
    if config.read_write && hosts > 1 && !chosen("target_session_attrs") {
        client.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    // What is sent is given up with the statement; what is only listened to, by these, within about 25 s.
    if !chosen("keepalives_idle") {
        client.keepalives_idle(KEEPALIVE_IDLE);
    }
    if client.get_keepalives_interval().is_none() {
        client.keepalives_interval(KEEPALIVE_INTERVAL);
    }
    if client.get_keepalives_retries().is_none() {
        client.keepalives_retries(KEEPALIVE_RETRIES);
    }
    if client.get_tcp_user_timeout().is_none() {
        client.tcp_user_timeout(USER_TIMEOUT);
    }
    if client.get_application_name().is_none() {
        client.application_name("jobs");
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;
    use job_utils::config::Reader;
    use std::collections::BTreeMap;

    fn client(env: &[(&str, &str)]) -> Config {
        let env: BTreeMap<&str, &str> = env.iter().copied().collect();
        let mut reader = Reader::new(&env);
        let config = PostgresConfig::read(&mut reader);
        client_config(&reader.finish(config).unwrap()).unwrap()
    }

    #[test]
    fn a_dead_peer_is_noticed_unless_the_connection_string_says_when() {
        let ours = client(&[("PGHOST", "a")]);
        assert_eq!(
            (ours.get_keepalives_idle(), ours.get_keepalives_interval()),
            (KEEPALIVE_IDLE, Some(KEEPALIVE_INTERVAL))
        );
        assert_eq!(
            (ours.get_keepalives_retries(), ours.get_tcp_user_timeout()),
            (Some(KEEPALIVE_RETRIES), Some(&USER_TIMEOUT))
        );
        let url = "postgres://a/b?keepalives_idle=7&keepalives_interval=8&keepalives_count=9&tcp_user_timeout=10000";
        let application_pool = client(&[("DATABASE_URL", url)]);
        let seconds = Duration::from_secs;
        assert_eq!(
            (application_pool.get_keepalives_idle(), application_pool.get_keepalives_interval()),
            (seconds(7), Some(seconds(8)))
        );
        assert_eq!(
            (application_pool.get_keepalives_retries(), application_pool.get_tcp_user_timeout()),
            (Some(9), Some(&seconds(10)))
        );
    }

    #[test]
    fn of_several_hosts_only_a_primary_will_do_unless_told_otherwise() {
        let wanted = |env: &[(&str, &str)]| client(env).get_target_session_attrs();
        assert_eq!(wanted(&[("PGHOST", "a,b")]), TargetSessionAttrs::ReadWrite);
        assert_eq!(wanted(&[("PGHOST", "a")]), TargetSessionAttrs::Any);
        assert_eq!(wanted(&[("PGHOST", "a,b"), ("PGTARGETSESSIONATTRS", "any")]), TargetSessionAttrs::Any);
        assert_eq!(wanted(&[("DATABASE_URL", "postgres://a,b/c")]), TargetSessionAttrs::ReadWrite);
        assert_eq!(wanted(&[("DATABASE_URL", "hostaddr=127.0.0.1,127.0.0.2")]), TargetSessionAttrs::ReadWrite);
        let asked = client(&[("PGHOST", "a"), ("PGHOSTADDR", "::1"), ("PGOPTIONS", "-c a.b='c d'"), ("PGPORT", "7")]);
        assert_eq!((asked.get_options(), asked.get_ports()), (Some("-c a.b='c d'"), &[7][..]));
        assert_eq!((asked.get_hosts().len(), asked.get_hostaddrs().len()), (1, 1));
        let url = "postgres://a,b/c?target_session_attrs=any";
        assert_eq!(wanted(&[("DATABASE_URL", url)]), TargetSessionAttrs::Any);
    }
}
