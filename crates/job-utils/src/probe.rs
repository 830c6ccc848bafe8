//! The other side of a health check: a program asks the running service of its own kind whether it works, so that an
//! image needs no HTTP client beside it.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::config::shared::{INTERNAL_JOBS_CALLBACK_PORT, JOBS_HEALTH_PORT, read_health_port};
use crate::config::{ConfigError, Env, Reader};

/// Shorter than the 3 s after which Docker ends a health check of ours, so that the reason can be told.
const LIMIT: Duration = Duration::from_millis(2500);
/// More than status, headers and reason need.
const LONGEST_ANSWER: u64 = 16 << 10;

/// Where to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The addresses to try, in order.
    pub hosts: Vec<IpAddr>,
    /// The port that the service listens on.
    pub port: u16,
    /// `/readyz`, or `/healthz` for what has nothing to wait for.
    pub path: &'static str,
}

impl Target {
    /// A service that listens on all interfaces of this machine.
    pub fn local(port: u16, path: &'static str) -> Self {
        Self { hosts: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()], port, path }
    }

    /// A worker or scheduler that runs alone.
    ///
    /// # Errors
    /// JOBS_HEALTH_PORT is not set, or not a port.
    pub fn alone(env: &dyn Env) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(env);
        let port = read_health_port(&mut reader).unwrap_or_else(|| {
            reader.fault(&JOBS_HEALTH_PORT, "is not set: the service has no port that could be asked");
            0
        });
        reader.finish(Self::local(port, "/readyz"))
    }

    /// A callback server, alone or within the service.
    ///
    /// # Errors
    /// INTERNAL_JOBS_CALLBACK_PORT is not a port.
    pub fn callback_server(env: &dyn Env) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(env);
        let port = reader.number(&INTERNAL_JOBS_CALLBACK_PORT);
        reader.finish(Self::local(port, "/readyz"))
    }
}

/// Why a service does not count as healthy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// Nobody listens, or nobody answers.
    #[error("no answer from port {port}")]
    Silent {
        /// The port that was asked.
        port: u16,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It answers that something is missing.
    #[error("not healthy: {0}")]
    Unhealthy(String),
}

/// Asks once. No runtime and no client: a health check runs every few seconds, and needs one status of one answer.
///
/// # Errors
/// The service does not answer in time, or answers with another status than 2xx; the error says what it answered.
pub fn ask(target: &Target) -> Result<(), ProbeError> {
    let deadline = Instant::now() + LIMIT;
    let silent = |source| ProbeError::Silent { port: target.port, source };
    let mut refused = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for host in &target.hosts {
        match exchange(SocketAddr::new(*host, target.port), target.path, deadline) {
            Ok(answer) => return judge(&answer),
            Err(Failure::Connect(error)) => refused = error,
            Err(Failure::Exchange(error)) => return Err(silent(error)),
        }
    }
    Err(silent(refused))
}

enum Failure {
    /// Another address may answer.
    Connect(std::io::Error),
    Exchange(std::io::Error),
}

fn exchange(address: SocketAddr, path: &str, deadline: Instant) -> Result<String, Failure> {
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let mut stream = TcpStream::connect_timeout(&address, left()).map_err(Failure::Connect)?;
    let mut talk = || {
        stream.set_write_timeout(Some(left()))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut answer = Vec::new();
        // A time-out holds for one read: who sends byte by byte is not waited for beyond the deadline.
        while (answer.len() as u64) < LONGEST_ANSWER && Instant::now() < deadline {
            stream.set_read_timeout(Some(left()))?;
            let mut piece = [0; 1024];
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => answer.extend_from_slice(&piece[..read]),
                Err(error) if answer.is_empty() => return Err(error),
                // It has answered and keeps the connection.
                Err(_) => break,
            }
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    talk().map_err(Failure::Exchange)
}

/// What an answer says: its status, and for people its body.
fn judge(answer: &str) -> Result<(), ProbeError> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let first = head.lines().next().unwrap_or_default();
    let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)).unwrap_or_default();
    match status.as_bytes() {
        [b'2', _, _] => Ok(()),
        _ if body.trim().is_empty() => Err(ProbeError::Unhealthy(format!("it answered {first:?}"))),
        _ => Err(ProbeError::Unhealthy(body.trim().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::net::TcpListener;

    /// Answers one request with this text, and says what the request was.
    fn answering(text: &'static str) -> (u16, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).unwrap();
            stream.write_all(text.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        (port, server)
    }

    #[test]
    fn a_2xx_answer_is_health_and_any_other_is_told() {
        let (port, server) = answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nready");
        ask(&Target::local(port, "/readyz")).unwrap();
        assert!(server.join().unwrap().starts_with("GET /readyz HTTP/1.1\r\nHost: 127.0.0.1:"));

        let (port, _) = answering("HTTP/1.1 503 Service Unavailable\r\n\r\nPostgres is away");
        let error = ask(&Target::local(port, "/readyz")).unwrap_err();
        assert_eq!(error.to_string(), "not healthy: Postgres is away");

        let (port, _) = answering("220 smtp.example.com\r\n");
        let error = ask(&Target::local(port, "/healthz")).unwrap_err();
        assert_eq!(error.to_string(), "not healthy: it answered \"220 smtp.example.com\"");
    }

    #[test]
    fn who_does_not_answer_is_not_waited_for() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let start = Instant::now();
        let error = ask(&Target::local(port, "/readyz")).unwrap_err();
        assert!(matches!(error, ProbeError::Silent { .. }), "{error}");
        assert!(start.elapsed() < LIMIT * 2, "{:?}", start.elapsed());

        drop(listener);
        let error = ask(&Target::local(port, "/readyz")).unwrap_err();
        assert_eq!(error.to_string(), format!("no answer from port {port}"));
    }

    #[test]
    fn a_service_on_ipv6_alone_is_found() {
        // A machine without IPv6 has no such service.
        let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else { return };
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        });
        ask(&Target::local(port, "/healthz")).unwrap();
        server.join().unwrap();
    }

    #[test]
    fn a_port_that_is_not_set_is_a_fault_that_names_it() {
        let error = Target::alone(&BTreeMap::new()).unwrap_err();
        assert_eq!(error.faults[0].name, "JOBS_HEALTH_PORT");
        let target = Target::alone(&BTreeMap::from([("JOBS_HEALTH_PORT", "8081"), ("PGPORT", "x")])).unwrap();
        assert_eq!((target.port, target.path), (8081, "/readyz"));
        assert_eq!(Target::callback_server(&BTreeMap::new()).unwrap().port, 12345);
    }
}
