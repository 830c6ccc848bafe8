//! Connect: the first host that answers, with a limit for each.
//!
//! The client's own limit ends with the TCP connection: a host that takes connections and says nothing would hold up
//! everything behind it in PGHOST for good.
//!
//! A connection may lead through a pooler in transaction mode (PgBouncer), where every transaction gets another server
//! session: then nothing can be prepared, listened to or locked for longer than a transaction. No pooler says so. But
//! Postgres takes any setting with a dot in its name among the options of a start, and a pooler either refuses options
//! or drops them: so each connection is opened with one, and asked for it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Poll, ready};
use std::time::{Duration, SystemTime};

use deadpool_postgres::Connect;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, LoadBalanceHosts, TargetSessionAttrs};
use tokio_postgres::error::Severity;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Error, SimpleQueryMessage, Socket};

use crate::config::Listen;
use crate::connection::tls::MakeConnect;

/// A client, and what drives its socket.
type Session = (Client, Connection<Socket, <MakeConnect as MakeTlsConnect<Socket>>::Stream>);

/// A client of its own, and its messages.
pub(crate) type Dedicated = (Client, mpsc::UnboundedReceiver<AsyncMessage>);

/// The setting that a pooler does not pass on.
const MARK: &str = "-c pgpm_jobs.own_session=on";

/// Whether it has arrived. As a simple query: nothing else is safe before the answer is known.
const MARKED: &str = "SELECT current_setting('pgpm_jobs.own_session', true)";

/// Connects to the hosts of a configuration, in order. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Connector {
    hosts: Arc<[Config]>,
    tls: MakeConnect,
    limit: Duration,
    /// Whether to find out for each connection if a pooler is in between.
    asks: bool,
    /// Whether there is one, once one was found: what holds with a pooler holds without one as well.
    pooled: Arc<AtomicBool>,
    /// Host, port and database, for messages.
    place: Arc<str>,
    /// The host of the last session.
    last: Arc<AtomicUsize>,
}

impl Connector {
    /// `limit` is for each host, from the name look-up to a session that takes statements.
    pub(crate) fn new(config: &Config, tls: MakeConnect, limit: Duration, listen: Listen) -> Self {
        // One of the two may be empty.
        let count = config.get_hosts().len().max(config.get_hostaddrs().len());
        let hosts = (0..count).map(|i| one_host(config, i, limit)).collect();
        let pooled = Arc::new(AtomicBool::new(listen == Listen::Off));
        let (asks, place) = (listen == Listen::Auto, place(config).into());
        Self { hosts, tls, limit, asks, pooled, place, last: Arc::default() }
    }

    /// Host, port and database, for messages; never the password.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// Whether a connection may get another session for every transaction. Known before a connection is given out.
    pub(crate) fn is_pooled(&self) -> bool {
        self.pooled.load(Ordering::Relaxed)
    }

    /// Whether it is known, without a connection, if a pooler is in between.
    pub(crate) fn knows(&self) -> bool {
        !self.asks || self.is_pooled()
    }

    /// How to set up TLS.
    pub(crate) fn tls(&self) -> MakeConnect {
        self.tls.clone()
    }

    /// How long all hosts together may take.
    pub(crate) fn limit(&self) -> Duration {
        self.limit * u32::try_from(self.hosts.len()).unwrap_or(u32::MAX) + Duration::from_secs(1)
    }

    /// Where to begin. Where only a primary will do, with the last that was one: a host that is gone would cost its
    /// limit at each new connection. Else the order is the user's.
    fn first(&self) -> usize {
        let Some(host) = self.hosts.first() else { return 0 };
        if host.get_load_balance_hosts() == LoadBalanceHosts::Random {
            // The clock's nanoseconds are random enough to spread connections, and need no generator.
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            return now.subsec_nanos() as usize / 1000 % self.hosts.len();
        }
        match host.get_target_session_attrs() {
            TargetSessionAttrs::ReadWrite => self.last.load(Ordering::Relaxed),
            _ => 0,
        }
    }

    /// The host of the last session.
    pub(crate) fn last_host(&self) -> Option<&Config> {
        self.hosts.get(self.last.load(Ordering::Relaxed))
    }

    /// A session with the first host that answers, else the last host's error.
    pub(crate) async fn session(&self) -> Result<Session, Error> {
        // The one error that the client has for this, and does not document.
        let mut last = Error::__private_api_timeout();
        let first = self.first();
        for i in (0..self.hosts.len()).map(|i| (first + i) % self.hosts.len()) {
            match tokio::time::timeout(self.limit, self.connect_to(&self.hosts[i])).await {
                Ok(Ok(session)) => {
                    self.last.store(i, Ordering::Relaxed);
                    return Ok(session);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = Error::__private_api_timeout(),
            }
        }
        Err(last)
    }

    /// A session of its own, driven by a task; its messages arrive in the channel, which closes with the connection.
    pub(crate) async fn dedicated(&self) -> Result<Dedicated, Error> {
        let (client, mut connection) = self.session().await?;
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                log_notice(&message);
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        Ok((client, receiver))
    }

    async fn connect_to(&self, host: &Config) -> Result<Session, Error> {
        if !self.asks || self.is_pooled() {
            return host.connect(self.tls.clone()).await;
        }
        let mut marked = host.clone();
        marked.options(match host.get_options() {
            Some(options) => format!("{options} {MARK}"),
            None => MARK.to_owned(),
        });
        match marked.connect(self.tls.clone()).await {
            Ok(mut session) => {
                if !is_marked(&mut session).await? {
                    self.found_pooler();
                }
                Ok(session)
            }
            Err(error) if may_be_of_a_pooler(&error) => {
                let session = host.connect(self.tls.clone()).await?;
                self.found_pooler();
                Ok(session)
            }
            Err(error) => Err(error),
        }
    }

    fn found_pooler(&self) {
        if !self.pooled.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "a pooler is in between at {}: statements are not prepared (JOBS_LISTEN=on if it gives each connection a \
                 session of its own)",
                self.place
            );
        }
    }
}

/// What the server has to say, as loud as it means it: the client itself would log everything alike.
fn log_notice(message: &AsyncMessage) {
    let AsyncMessage::Notice(notice) = message else { return };
    let (severity, message) = (notice.severity(), notice.message());
    // The severity's text is in the server's language.
    match notice.parsed_severity() {
        Some(Severity::Panic | Severity::Fatal | Severity::Error | Severity::Warning) => {
            tracing::warn!("Postgres: {severity}: {message}");
        }
        Some(Severity::Debug | Severity::Log) => tracing::debug!("Postgres: {severity}: {message}"),
        Some(Severity::Info | Severity::Notice) | None => tracing::info!("Postgres: {severity}: {message}"),
    }
}

/// Asks a new session for the setting, while nobody else drives it.
async fn is_marked((client, connection): &mut Session) -> Result<bool, Error> {
    let mut asked = pin!(client.simple_query(MARKED));
    let drive = poll_fn(|cx| {
        loop {
            match ready!(connection.poll_message(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Ok(())),
            }
        }
    });
    let answer = tokio::select! {
        biased;
        answer = &mut asked => answer?,
        ended = drive => {
            ended?;
            asked.await?
        }
    };
    Ok(answer.iter().any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("on"))))
}

/// Whether the refusal may be due to the options: not when it is one of the credentials (28), of the database (3D), or
/// of the moment (53, 55, 57, 58, XX).
fn may_be_of_a_pooler(error: &Error) -> bool {
    let other = ["28", "3D", "53", "55", "57", "58", "XX"];
    error.code().is_some_and(|code| other.iter().all(|class| !code.code().starts_with(class)))
}

impl Connect for Connector {
    fn connect(
        &self,
        _: &Config,
    ) -> Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), Error>> + Send + '_>> {
        Box::pin(async {
            let (client, mut connection) = self.session().await?;
            let driver = tokio::spawn(async move {
                // Its end, good or bad, is seen by whoever uses the client next.
                while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                    log_notice(&message);
                }
            });
            Ok((client, driver))
        })
    }
}

/// The configuration with its host number `i` only; the client cannot take hosts out of one.
fn one_host(config: &Config, i: usize, limit: Duration) -> Config {
    let ports = config.get_ports();
    let port = ports.get(i).or(ports.first()).copied().unwrap_or(5432);
    let mut one = Config::new();
    match config.get_hosts().get(i) {
        Some(Host::Tcp(name)) => drop(one.host(name)),
        Some(Host::Unix(path)) => drop(one.host_path(path)),
        None => {}
    }
    if let Some(address) = config.get_hostaddrs().get(i) {
        one.hostaddr(*address);
    }
    one.port(port).connect_timeout(limit).ssl_mode(config.get_ssl_mode()).ssl_negotiation(config.get_ssl_negotiation());
    one.channel_binding(config.get_channel_binding()).keepalives(config.get_keepalives());
    one.keepalives_idle(config.get_keepalives_idle()).load_balance_hosts(config.get_load_balance_hosts());
    if config.get_target_session_attrs() != TargetSessionAttrs::Any {
        one.target_session_attrs(config.get_target_session_attrs());
    }
    if let Some(interval) = config.get_keepalives_interval() {
        one.keepalives_interval(interval);
    }
    if let Some(retries) = config.get_keepalives_retries() {
        one.keepalives_retries(retries);
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

fn place(client: &Config) -> String {
    let ports = client.get_ports();
    let host = |i: usize| match (client.get_hosts().get(i), client.get_hostaddrs().get(i)) {
        // No host's name: perhaps a whole URL with its password.
        (Some(Host::Tcp(name)), _) if name.contains(['@', '{', '"']) => "(not a host)".to_owned(),
        (Some(Host::Tcp(name)), _) => name.clone(),
        (Some(Host::Unix(path)), _) => path.display().to_string(),
        (None, address) => address.map(ToString::to_string).unwrap_or_default(),
    };
    let hosts: Vec<String> = (0..client.get_hosts().len().max(client.get_hostaddrs().len()))
        .map(|i| format!("{}:{}", host(i), ports.get(i).or(ports.first()).copied().unwrap_or(5432)))
        .collect();
    format!("{}/{}", hosts.join(","), client.get_dbname().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = "user=u password=p dbname=d options='-c a.b=c' application_name=n sslmode=require \
                       sslnegotiation=direct hostaddr=127.0.0.1 port=5433 host=h connect_timeout=3 tcp_user_timeout=4 \
                       keepalives=1 keepalives_idle=5 keepalives_interval=6 keepalives_retries=7 \
                       target_session_attrs=read-write channel_binding=require load_balance_hosts=random";

    #[test]
    fn no_option_is_lost_on_the_way_to_a_host() {
        let config: Config = ALL.parse().unwrap();
        assert_eq!(one_host(&config, 0, Duration::from_secs(3)), config);
    }

    #[test]
    fn each_host_has_its_own_name_address_and_port() {
        let limit = Duration::from_secs(1);
        let hosts = |text: &str| {
            let config: Config = text.parse().unwrap();
            let count = config.get_hosts().len().max(config.get_hostaddrs().len());
            (0..count).map(|i| one_host(&config, i, limit)).collect::<Vec<_>>()
        };
        let two = hosts("host=a,b hostaddr=127.0.0.1,127.0.0.2 port=1,2");
        assert_eq!(two[1].get_hosts(), [Host::Tcp("b".into())]);
        assert_eq!(two[1].get_hostaddrs().iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.2"]);
        assert_eq!(two[1].get_ports(), [2]);
        let nameless = hosts("hostaddr=127.0.0.1,127.0.0.2 port=7");
        assert_eq!((nameless.len(), nameless[1].get_hosts().len(), nameless[1].get_ports()), (2, 0, &[7][..]));
    }

    #[test]
    fn the_place_names_hosts_and_addresses_with_their_ports() {
        let place = |text: &str| place(&text.parse().unwrap());
        assert_eq!(place("host=a,b port=1,2 dbname=d"), "a:1,b:2/d");
        assert_eq!(place("host=u:secret@h port=1 dbname=d"), "(not a host):1/d");
        assert_eq!(place("hostaddr=127.0.0.1,::1 port=7 dbname=d"), "127.0.0.1:7,::1:7/d");
    }
}
