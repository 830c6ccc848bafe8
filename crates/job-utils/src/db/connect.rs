//! Connect: the first host that answers, with a limit for each.
//!
//! The client's own limit ends with the TCP connection: a host that takes connections and says nothing would hold up
//! everything behind it in PGHOST for good.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Connect;
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, TargetSessionAttrs};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Connection, Error, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

/// A client, and what drives its socket.
type Session = (Client, Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>);

/// Connects to the hosts of a configuration, in order. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Connector {
    hosts: Arc<[Config]>,
    tls: MakeRustlsConnect,
    limit: Duration,
}

impl Connector {
    /// `limit` is for each host, from the name look-up to a session that takes statements.
    pub(crate) fn new(config: &Config, tls: MakeRustlsConnect, limit: Duration) -> Self {
        let ports = config.get_ports();
        let hosts = config
            .get_hosts()
            .iter()
            .enumerate()
            .map(|(i, host)| {
                let port = ports.get(i).or(ports.first()).copied().unwrap_or(5432);
                let mut one = one_host(config, host, port, limit);
                if let Some(address) = config.get_hostaddrs().get(i) {
                    one.hostaddr(*address);
                }
                one
            })
            .collect();
        Self { hosts, tls, limit }
    }

    /// How to set up TLS.
    pub(crate) fn tls(&self) -> MakeRustlsConnect {
        self.tls.clone()
    }

    /// How long all hosts together may take.
    pub(crate) fn limit(&self) -> Duration {
        self.limit * u32::try_from(self.hosts.len()).unwrap_or(u32::MAX) + Duration::from_secs(1)
    }

    /// A session with the first host that answers, else the last host's error.
    pub(crate) async fn session(&self) -> Result<Session, Error> {
        // The one error that the client has for this, and does not document.
        let mut last = Error::__private_api_timeout();
        for host in &*self.hosts {
            match tokio::time::timeout(self.limit, host.connect(self.tls.clone())).await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(error)) => last = error,
                Err(_) => last = Error::__private_api_timeout(),
            }
        }
        Err(last)
    }
}

impl Connect for Connector {
    fn connect(
        &self,
        _: &Config,
    ) -> Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), Error>> + Send + '_>> {
        Box::pin(async {
            let (client, connection) = self.session().await?;
            // Its end, good or bad, is seen by whoever uses the client next.
            let driver = tokio::spawn(async move { drop(connection.await) });
            Ok((client, driver))
        })
    }
}

/// The configuration with one host only; the client cannot take hosts out of one.
fn one_host(config: &Config, host: &Host, port: u16, limit: Duration) -> Config {
    let mut one = Config::new();
    match host {
        Host::Tcp(name) => one.host(name),
        Host::Unix(path) => one.host_path(path),
    };
    one.port(port).connect_timeout(limit).ssl_mode(config.get_ssl_mode()).ssl_negotiation(config.get_ssl_negotiation());
    one.channel_binding(config.get_channel_binding()).keepalives(config.get_keepalives());
    one.keepalives_idle(config.get_keepalives_idle()).load_balance_hosts(config.get_load_balance_hosts());
    if config.get_target_session_attrs() != TargetSessionAttrs::Any {
        one.target_session_attrs(config.get_target_session_attrs());
    }
    if let Some(user) = config.get_user() {
        one.user(user);
    }
    if let Some(password) = config.get_password() {
        one.password(password);
    }
    if let Some(database) = config.get_dbname() {
        one.dbname(database);
    }
    if let Some(options) = config.get_options() {
        one.options(options);
    }
    if let Some(name) = config.get_application_name() {
        one.application_name(name);
    }
    if let Some(timeout) = config.get_tcp_user_timeout() {
        one.tcp_user_timeout(*timeout);
    }
    one
}
