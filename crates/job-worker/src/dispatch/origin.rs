//! Origin: the connections to one server. Over HTTP/1.1 a pool of them, each with one request at a time; over HTTP/2
//! one for all requests.
//!
//! A server closes connections that are idle for too long, and a POST may meet the closing connection. Nobody can tell
//! then whether the function was started: the connection's end looks the same when the function read the request and
//! crashed. So such a POST is a failed attempt and is never sent again by itself. What can be done is to be earlier
//! than the server:
//!
//! - Where it announces its time (`Keep-Alive: timeout=5`), a connection is used a second less; with a second or less
//!   it is not kept at all.
//! - Where it does not, idle connections are used for [`IDLE_TIMEOUT`]. When the server closes one of them before that,
//!   with a POST on its way or not, only half of that time is used from then on.
//!
//! A request that was never written can be sent again without harm, and hyper says so: the connection's end was seen
//! before a byte of the request left. It takes another connection.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2;

use crate::dispatch::connect::{Connection, Connector, ServerAddress};
use crate::dispatch::failure::{Failure, Limit, Progress, is_broken_off};
use crate::dispatch::host::Host;
use crate::dispatch::payload::Payload;

/// Idle connections are closed before the function's server does, which is after 5 s in Node.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// By how much a server's announced time is undercut: what is on its way, and the coarse timers of servers.
const MARGIN: Duration = Duration::from_secs(1);

/// A connection that was idle for less was not closed for that: the server was restarted, or the function has crashed.
const SHORTEST_IDLE: Duration = Duration::from_millis(500);

/// How long it is remembered after what idle time a server closes connections. It may get another setting.
const REMEMBERED: Duration = Duration::from_secs(3600);

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// How often to check for idle connections, while there are any. With [`IDLE_TIMEOUT`] less than Node's 5 s.
const REAP_INTERVAL: Duration = Duration::from_millis(500);

/// The connections to one server.
pub(crate) struct Origin {
    /// Whether it can be used.
    pub(crate) host: Host,
    address: ServerAddress,
    connector: Arc<Connector>,
    idle: Mutex<Idle>,
    /// HeldPayload while the one HTTP/2 connection is made.
    connecting: tokio::sync::Mutex<()>,
}

/// What is kept for the next request.
#[derive(Default)]
struct Idle {
    /// HTTP/1.1: idle connections, the latest last.
    http1: Vec<IdleConnection>,
    /// HTTP/2: the connection, and when it was last used.
    http2: Option<(http2::SendRequest<Payload>, Instant)>,
    /// Whether a task checks for connections to close.
    reaping: bool,
    /// How long connections are used at most, as the server has closed some, and when it last did.
    learned: Option<(Duration, Instant)>,
}

/// An idle connection.
struct IdleConnection {
    connection: Connection,
    since: Instant,
    /// How long it may be idle.
    limit: Duration,
}

impl Idle {
    /// The server has closed a connection that was idle for so long.
    fn learn(&mut self, idle: Duration) {
        if (SHORTEST_IDLE..IDLE_TIMEOUT).contains(&idle) {
            let limit = self.limit().min(idle / 2);
            tracing::debug!(idle = ?idle, limit = ?limit, "the server has closed an idle connection");
            self.learned = Some((limit, Instant::now()));
        }
    }

    /// How long a connection may be idle.
    fn limit(&self) -> Duration {
        match self.learned {
            Some((limit, since)) if since.elapsed() < REMEMBERED => limit,
            _ => IDLE_TIMEOUT,
        }
    }

    /// Removes what cannot be used any more.
    fn remove_closed(&mut self) {
        let mut closed = Vec::new();
        let limit = self.limit();
        self.http1.retain(|kept| {
            closed.extend(kept.connection.closed_at().map(|at| at.saturating_duration_since(kept.since)));
            !kept.connection.sender.is_closed() && kept.since.elapsed() < kept.limit.min(limit)
        });
        closed.into_iter().for_each(|idle| self.learn(idle));
    }
}

/// A connection in use; it must be given back after the end of the answer, and is closed otherwise.
pub(crate) struct BorrowedConnection(Option<Connection>);

/// How long a connection may be idle after an answer with these headers; None: it is not kept.
pub(crate) fn idle_limit(headers: &HeaderMap) -> Option<Duration> {
    let Some(announced) = headers.get_all(KEEP_ALIVE).iter().find_map(announced) else { return Some(IDLE_TIMEOUT) };
    let limit = announced.saturating_sub(MARGIN).min(IDLE_TIMEOUT);
    (!limit.is_zero()).then_some(limit)
}

/// The `timeout` of a `Keep-Alive` header: whole seconds among other parameters.
fn announced(value: &HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.split(',').find_map(|parameter| {
        let (name, seconds) = parameter.split_once('=')?;
        let seconds = seconds.trim().trim_matches('"');
        // A fraction only makes the time longer; what is too large is long enough.
        let whole = seconds.split('.').next().unwrap_or_default();
        let digits = !whole.is_empty() && whole.bytes().all(|byte| byte.is_ascii_digit());
        let timeout = name.trim().eq_ignore_ascii_case("timeout") && digits;
        timeout.then(|| Duration::from_secs(whole.parse().unwrap_or(u64::MAX)))
    })
}

impl Origin {
    pub(crate) fn new(host: Host, address: ServerAddress, connector: Arc<Connector>) -> Self {
        Self { host, address, connector, idle: Mutex::default(), connecting: tokio::sync::Mutex::default() }
    }

    /// Whether a connection can be had, without a request over it.
    pub(crate) async fn reach(&self) -> Result<(), Failure> {
        self.connector.reach(&self.address).await
    }

    /// Sends a request once. When the server has closed an idle connection before a byte of the request was written,
    /// another connection takes it: that is no repetition. With a limit, the head of the answer has to come within it.
    pub(crate) async fn send(
        self: &Arc<Self>,
        request: Request<Payload>,
        limit: Option<Limit>,
        progress: &mut Progress,
    ) -> Result<(Response<Incoming>, BorrowedConnection), Failure> {
        if self.connector.http2() {
            self.send_http2(request, limit, progress).await
        } else {
            self.send_http1(request, limit, progress).await
        }
    }

    async fn send_http1(
        self: &Arc<Self>,
        mut request: Request<Payload>,
        limit: Option<Limit>,
        progress: &mut Progress,
    ) -> Result<(Response<Incoming>, BorrowedConnection), Failure> {
        loop {
            *progress = Progress::Connecting;
            let (mut connection, idle) = match self.take() {
                Some((connection, idle)) => (connection, Some(idle)),
                // Boxed: the state of a connection being made would make every dispatch's future some kilobytes larger,
                // and they are moved.
                None => (Box::pin(self.connector.http1(&self.address)).await?, None),
            };
            *progress = Progress::Waiting;
            match in_time(limit, pin!(connection.sender.try_send_request(request))).await? {
                Ok(response) => return Ok((response, BorrowedConnection(Some(connection)))),
                Err(mut error) => {
                    let unsent = error.take_message();
                    let error = error.into_error();
                    if let Some(idle) = idle.filter(|_| unsent.is_some() || is_broken_off(&error)) {
                        self.idle().learn(idle);
                    }
                    match unsent {
                        Some(unsent) if idle.is_some() => request = unsent,
                        _ => return Err(Failure::Answer(error)),
                    }
                }
            }
        }
    }

    async fn send_http2(
        self: &Arc<Self>,
        mut request: Request<Payload>,
        limit: Option<Limit>,
        progress: &mut Progress,
    ) -> Result<(Response<Incoming>, BorrowedConnection), Failure> {
        loop {
            *progress = Progress::Connecting;
            let (mut sender, used) = match self.shared() {
                Some(sender) => (sender, true),
                None => Box::pin(self.share()).await?,
            };
            *progress = Progress::Waiting;
            match in_time(limit, pin!(sender.try_send_request(request))).await? {
                Ok(response) => return Ok((response, BorrowedConnection(None))),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if used => request = unsent,
                    _ => {
                        let failure = Failure::of(error.into_error());
                        if matches!(failure, Failure::Refused(_)) {
                            // It may be about to end. Requests on their way over it go on to their end.
                            self.idle().http2 = None;
                        }
                        return Err(failure);
                    }
                },
            }
        }
    }

    /// Keeps a connection whose answer has been read to its end, for as long as it may be idle.
    pub(crate) fn give_back(self: &Arc<Self>, borrowed: BorrowedConnection, limit: Option<Duration>) {
        let (Some(mut connection), Some(limit)) = (borrowed.0, limit) else { return };
        if connection.sender.is_ready() {
            self.keep(connection, limit);
        } else if !connection.sender.is_closed() {
            // The connection's task has yet to see the end of the answer, or the server answered before it had read the
            // whole request, which may take any time.
            let origin = self.clone();
            tokio::spawn(async move {
                if let Ok(Ok(())) = tokio::time::timeout(limit, connection.sender.ready()).await {
                    origin.keep(connection, limit);
                }
            });
        }
    }

    fn keep(self: &Arc<Self>, connection: Connection, limit: Duration) {
        let mut idle = self.idle();
        idle.http1.push(IdleConnection { connection, since: Instant::now(), limit });
        self.reap(&mut idle);
    }

    /// The idle connection that was used last, and how long it has been idle.
    fn take(&self) -> Option<(Connection, Duration)> {
        let mut idle = self.idle();
        let limit = idle.limit();
        while let Some(IdleConnection { connection, since, limit: own }) = idle.http1.pop() {
            if let Some(closed) = connection.closed_at() {
                idle.learn(closed.saturating_duration_since(since));
            }
            let age = since.elapsed();
            if age < own.min(limit) && connection.sender.is_ready() {
                return Some((connection, age));
            }
        }
        None
    }

    /// The shared connection, if there is one.
    fn shared(&self) -> Option<http2::SendRequest<Payload>> {
        let mut idle = self.idle();
        let (sender, used) = idle.http2.as_mut()?;
        if sender.is_closed() || used.elapsed() >= IDLE_TIMEOUT {
            // Requests on their way over it go on to their end.
            idle.http2 = None;
            return None;
        }
        *used = Instant::now();
        Some(sender.clone())
    }

    /// Makes the shared connection, unless somebody else just did. Returns it and whether it was there.
    async fn share(self: &Arc<Self>) -> Result<(http2::SendRequest<Payload>, bool), Failure> {
        let _alone = self.connecting.lock().await;
        if let Some(sender) = self.shared() {
            return Ok((sender, true));
        }
        let sender = self.connector.http2_shared(&self.address).await?;
        let mut idle = self.idle();
        idle.http2 = Some((sender.clone(), Instant::now()));
        self.reap(&mut idle);
        Ok((sender, false))
    }

    /// Makes sure that somebody closes what stays idle.
    fn reap(self: &Arc<Self>, idle: &mut Idle) {
        if !std::mem::replace(&mut idle.reaping, true) {
            tokio::spawn(reap(Arc::downgrade(self)));
        }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for an answer's head, for as long as the limit says.
async fn in_time<T>(limit: Option<Limit>, answer: Pin<&mut impl Future<Output = T>>) -> Result<T, Failure> {
    match limit {
        None => Ok(answer.await),
        Some(limit) => tokio::time::timeout(limit.time, answer).await.map_err(|_| Failure::FirstByte(limit)),
    }
}

/// Closes connections that have been idle for too long, until there are none.
async fn reap(origin: Weak<Origin>) {
    let mut tick = tokio::time::interval(REAP_INTERVAL);
    loop {
        tick.tick().await;
        let Some(origin) = origin.upgrade() else { return };
        let mut idle = origin.idle();
        idle.remove_closed();
        idle.http2.take_if(|(sender, used)| sender.is_closed() || used.elapsed() >= IDLE_TIMEOUT);
        if idle.http1.is_empty() && idle.http2.is_none() {
            idle.reaping = false;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announced_time_is_undercut_by_a_second() {
        let limit = |value: &'static str| {
            let headers = HeaderMap::from_iter([(KEEP_ALIVE, HeaderValue::from_static(value))]);
            idle_limit(&headers).map(|limit| limit.as_secs())
        };
        for (value, seconds) in [
            ("timeout=5", Some(4)),
            ("timeout=3, max=100", Some(2)),
            ("max=100,Timeout = \"2\"", Some(1)),
            ("timeout=2.5", Some(1)),
            ("timeout=1", None),
            ("timeout=0", None),
            ("timeout=99999999999999999999999", Some(4)),
            // Nothing is announced.
            ("max=100", Some(4)),
            ("timeout", Some(4)),
            ("timeout=soon", Some(4)),
            ("", Some(4)),
        ] {
            assert_eq!(limit(value), seconds, "{value}");
        }
        assert_eq!(idle_limit(&HeaderMap::new()), Some(IDLE_TIMEOUT));
    }

    #[test]
    fn a_server_that_closes_idle_connections_is_given_less_time() {
        let mut idle = Idle::default();
        for nothing in [Duration::from_millis(499), IDLE_TIMEOUT, Duration::MAX] {
            idle.learn(nothing);
            assert_eq!(idle.limit(), IDLE_TIMEOUT);
        }
        idle.learn(Duration::from_secs(2));
        assert_eq!(idle.limit(), Duration::from_secs(1));
        idle.learn(Duration::from_secs(3));
        assert_eq!(idle.limit(), Duration::from_secs(1), "the shortest counts");
        idle.learned = idle.learned.map(|(limit, since)| (limit, since - REMEMBERED));
        assert_eq!(idle.limit(), IDLE_TIMEOUT, "and is forgotten");
    }
}
