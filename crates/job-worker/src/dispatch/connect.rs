//! Connect: a TCP connection to an origin, with TLS where its scheme asks for it, ready for requests.

use std::error::Error;
use std::io;
use std::net::UdpSocket;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::Uri;
use hyper::client::conn::{http1, http2};
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use job_utils::error::chain;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tower_service::Service;
use url::Url;

use crate::dispatch::failure::Failure;
use crate::dispatch::payload::Payload;

/// How long a connection may take to stand, TLS included.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// After this silence, and then as often, the kernel asks whether the other end is still there.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// How many questions go unanswered before the connection counts as broken.
const KEEPALIVE_RETRIES: u32 = 3;

/// How long sent data may stay unacknowledged before the connection counts as broken.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// So many headers of an answer are read; hyper's own limit of 100 is one that proxies and tracing get past.
const MOST_HEADERS: usize = 256;

/// The same over HTTP/2, in bytes of all names and values; hyper's own limit is 16 KiB.
const LARGEST_HEAD: u32 = 256 << 10;

/// What `connect` and `socket` say when this process, or the machine, has no descriptor left: EMFILE and ENFILE, the
/// same numbers on every Unix.
const NO_DESCRIPTOR: [i32; 2] = [24, 23];

/// Which server: scheme, host and port.
#[derive(Debug)]
pub(crate) struct ServerAddress {
    /// Scheme and authority, as the connector takes them.
    uri: Uri,
    /// The name on the server's certificate, for https.
    tls: Option<ServerName<'static>>,
}

impl ServerAddress {
    /// That of an http or https URL; the error says why it has none.
    pub(crate) fn of(url: &Url) -> Result<Self, String> {
        let uri = Uri::builder().scheme(url.scheme()).authority(authority(url)).path_and_query("/").build();
        let tls = match (url.scheme(), url.host()) {
            ("https", Some(url::Host::Domain(name))) => {
                Some(ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?)
            }
            ("https", Some(url::Host::Ipv4(address))) => Some(ServerName::from(std::net::IpAddr::from(address))),
            ("https", Some(url::Host::Ipv6(address))) => Some(ServerName::from(std::net::IpAddr::from(address))),
            _ => None,
        };
        Ok(Self { uri: uri.map_err(|error| error.to_string())?, tls })
    }
}

/// Host and port as in a Host header: the port only when it is not the scheme's own.
pub(crate) fn authority(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}{port}", url.host_str().unwrap_or_default())
}

/// Makes connections.
pub(crate) struct Connector {
    tcp: HttpConnector,
    tls: Option<TlsConnector>,
    http2: bool,
}

impl Connector {
    /// With `tls` it can reach https places: the system's root certificates are read. With `http2` both kinds of
    /// connection speak HTTP/2 from the first byte.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub(crate) fn new(tls: bool, http2: bool) -> io::Result<Self> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // Divided among the addresses of a name, so that one that is gone does not use it up.
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE));
        tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(USER_TIMEOUT));
        let tls = if tls { Some(TlsConnector::from(Arc::new(tls_config(http2)?))) } else { None };
        Ok(Self { tcp, tls, http2 })
    }

    /// Whether connections speak HTTP/2.
    pub(crate) fn http2(&self) -> bool {
        self.http2
    }

    /// A connection that takes one request after the other.
    pub(crate) async fn http1(&self, address: &ServerAddress) -> Result<Connection, Failure> {
        in_time(async {
            match self.io(address).await? {
                Io::Plain(io) => http1_over(io).await,
                Io::Tls(io) => http1_over(*io).await,
            }
        })
        .await
    }

    /// A connection that takes many requests at once.
    pub(crate) async fn http2_shared(&self, address: &ServerAddress) -> Result<http2::SendRequest<Payload>, Failure> {
        in_time(async {
            match self.io(address).await? {
                Io::Plain(io) => http2_over(io).await,
                Io::Tls(io) => {
                    if io.inner().get_ref().1.alpn_protocol() != Some(b"h2") {
                        return Err(Failure::Connect("the server does not speak HTTP/2 (JOBS_HTTP2)".to_owned()));
                    }
                    http2_over(*io).await
                }
            }
        })
        .await
    }

    /// Whether a connection can be had.
    pub(crate) async fn reach(&self, address: &ServerAddress) -> Result<(), Failure> {
        in_time(async { self.io(address).await.map(drop) }).await
    }

    async fn io(&self, address: &ServerAddress) -> Result<Io, Failure> {
        let io = self.tcp.clone().call(address.uri.clone()).await.map_err(|error| {
            let cause = chain(&error);
            if lacks_descriptor(&error) { Failure::NoDescriptor(cause) } else { Failure::Connect(cause) }
        })?;
        let Some(name) = &address.tls else { return Ok(Io::Plain(io)) };
        let Some(tls) = &self.tls else { return Err(Failure::Connect("TLS was not set up".to_owned())) };
        let stream = tls.connect(name.clone(), io.into_inner()).await;
        Ok(Io::Tls(Box::new(TokioIo::new(stream.map_err(Failure::Tls)?))))
    }
}

enum Io {
    Plain(TokioIo<tokio::net::TcpStream>),
    Tls(Box<TokioIo<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>>),
}

async fn in_time<T>(connecting: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or(Err(Failure::ConnectTimeout))
}

/// Whether a connection failed because no descriptor was left. Names are resolved by the system, which opens files and
/// sockets for that and does not always say why it could not: then a socket of our own tells.
fn lacks_descriptor(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(next) = cause {
        if let Some(code) = next.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return NO_DESCRIPTOR.contains(&code);
        }
        cause = next.source();
    }
    let probe = UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0));
    probe.is_err_and(|error| error.raw_os_error().is_some_and(|code| NO_DESCRIPTOR.contains(&code)))
}

/// A connection over HTTP/1.1.
pub(crate) struct Connection {
    pub(crate) sender: http1::SendRequest<Payload>,
    closed: Arc<OnceLock<Instant>>,
}

impl Connection {
    /// Since when it is closed, if it is.
    pub(crate) fn closed_at(&self) -> Option<Instant> {
        self.closed.get().copied()
    }
}

async fn http1_over<T>(io: T) -> Result<Connection, Failure>
where
    T: Read + Write + Unpin + Send + 'static,
{
    let handshake = http1::Builder::new().max_headers(MOST_HEADERS).handshake(io);
    let (sender, connection) = handshake.await.map_err(Failure::Answer)?;
    let closed = Arc::<OnceLock<Instant>>::default();
    let ended = closed.clone();
    tokio::spawn(async move {
        // It ends with the server's or with the last sender; what goes wrong is told to the request.
        let _ = connection.await;
        let _ = ended.set(Instant::now());
    });
    Ok(Connection { sender, closed })
}

async fn http2_over<T>(io: T) -> Result<http2::SendRequest<Payload>, Failure>
where
    T: Read + Write + Unpin + Send + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let (sender, connection) =
        builder.max_header_list_size(LARGEST_HEAD).handshake(io).await.map_err(Failure::Answer)?;
    tokio::spawn(connection);
    Ok(sender)
}

fn tls_config(http2: bool) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(io::Error::other("the system has no root certificates, and a function's URL is https"));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    Ok(config)
}
