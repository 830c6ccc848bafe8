//! Origin: the connections to one server. Over HTTP/1.1 a pool of them, each with one request at a time; over HTTP/2 one
//! for all requests.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};

use crate::dispatch::connect::{Connector, Place};
use crate::dispatch::failure::{Failure, Progress};
use crate::dispatch::payload::Payload;

/// Idle connections are closed before the function's server does: Node's does after 5 s, and a POST that meets the
/// closing connection would fail without anybody's fault.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// How often to look for idle connections, while there are any. With [`IDLE_TIMEOUT`] less than Node's 5 s.
const REAP_INTERVAL: Duration = Duration::from_millis(500);

/// The connections to one server.
pub(crate) struct Origin {
    place: Place,
    connector: Arc<Connector>,
    idle: Mutex<Idle>,
    /// Held while the one HTTP/2 connection is made.
    connecting: tokio::sync::Mutex<()>,
}

/// What is kept for the next request.
#[derive(Default)]
struct Idle {
    /// HTTP/1.1: idle connections, and since when; the latest last.
    http1: Vec<(http1::SendRequest<Payload>, Instant)>,
    /// HTTP/2: the connection, and when it was last used.
    http2: Option<(http2::SendRequest<Payload>, Instant)>,
    /// Whether somebody looks for connections to close.
    reaping: bool,
}

/// A connection in use; it must be given back after the end of the answer, and is closed otherwise.
pub(crate) struct Lease(Option<http1::SendRequest<Payload>>);

impl Origin {
    pub(crate) fn new(place: Place, connector: Arc<Connector>) -> Self {
        Self { place, connector, idle: Mutex::default(), connecting: tokio::sync::Mutex::default() }
    }

    /// Sends a request once. When the server has closed an idle connection before a byte of the request was written,
    /// another connection takes it: that is no repetition. With a limit, the head of the answer has to come within it.
    pub(crate) async fn send(
        self: &Arc<Self>,
        request: Request<Payload>,
        limit: Option<Duration>,
        progress: &mut Progress,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        if self.connector.http2() {
            self.send_http2(request, limit, progress).await
        } else {
            self.send_http1(request, limit, progress).await
        }
    }

    async fn send_http1(
        self: &Arc<Self>,
        mut request: Request<Payload>,
        limit: Option<Duration>,
        progress: &mut Progress,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        loop {
            *progress = Progress::Connecting;
            let (mut sender, used) = match self.take() {
                Some(sender) => (sender, true),
                // Boxed: the state of a connection being made would make every dispatch's future some kilobytes larger,
                // and they are moved.
                None => (Box::pin(self.connector.http1(&self.place)).await?, false),
            };
            *progress = Progress::Waiting;
            match in_time(limit, pin!(sender.try_send_request(request))).await? {
                Ok(response) => return Ok((response, Lease(Some(sender)))),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if used => request = unsent,
                    _ => return Err(Failure::Answer(error.into_error())),
                },
            }
        }
    }

    async fn send_http2(
        self: &Arc<Self>,
        mut request: Request<Payload>,
        limit: Option<Duration>,
        progress: &mut Progress,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        loop {
            *progress = Progress::Connecting;
            let (mut sender, used) = match self.shared() {
                Some(sender) => (sender, true),
                None => Box::pin(self.share()).await?,
            };
            *progress = Progress::Waiting;
            match in_time(limit, pin!(sender.try_send_request(request))).await? {
                Ok(response) => return Ok((response, Lease(None))),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if used => request = unsent,
                    _ => return Err(Failure::Answer(error.into_error())),
                },
            }
        }
    }

    /// Keeps a connection whose answer has been read to its end.
    pub(crate) fn give_back(self: &Arc<Self>, lease: Lease) {
        let Some(mut sender) = lease.0 else { return };
        if sender.is_ready() {
            self.keep(sender);
        } else if !sender.is_closed() {
            // The connection's task has yet to see the end of the answer, or the server answered before it had read the
            // whole request, which may take any time.
            let origin = self.clone();
            tokio::spawn(async move {
                if let Ok(Ok(())) = tokio::time::timeout(IDLE_TIMEOUT, sender.ready()).await {
                    origin.keep(sender);
                }
            });
        }
    }

    fn keep(self: &Arc<Self>, sender: http1::SendRequest<Payload>) {
        let mut idle = self.idle();
        idle.http1.push((sender, Instant::now()));
        self.reap(&mut idle);
    }

    /// The idle connection that was used last.
    fn take(&self) -> Option<http1::SendRequest<Payload>> {
        let mut idle = self.idle();
        while let Some((sender, since)) = idle.http1.pop() {
            if since.elapsed() >= IDLE_TIMEOUT {
                // The others are older.
                idle.http1.clear();
                return None;
            }
            if sender.is_ready() {
                return Some(sender);
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
        let sender = self.connector.http2_shared(&self.place).await?;
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
async fn in_time<T>(limit: Option<Duration>, answer: Pin<&mut impl Future<Output = T>>) -> Result<T, Failure> {
    match limit {
        None => Ok(answer.await),
        Some(limit) => tokio::time::timeout(limit, answer).await.map_err(|_| Failure::FirstByte(limit)),
    }
}

/// Closes connections that have been idle for too long, until there are none.
async fn reap(origin: Weak<Origin>) {
    let mut tick = tokio::time::interval(REAP_INTERVAL);
    loop {
        tick.tick().await;
        let Some(origin) = origin.upgrade() else { return };
        let mut idle = origin.idle();
        idle.http1.retain(|(sender, since)| !sender.is_closed() && since.elapsed() < IDLE_TIMEOUT);
        idle.http2.take_if(|(sender, used)| sender.is_closed() || used.elapsed() >= IDLE_TIMEOUT);
        if idle.http1.is_empty() && idle.http2.is_none() {
            idle.reaping = false;
            return;
        }
    }
}
