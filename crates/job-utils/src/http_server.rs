//! An HTTP server with limits: what every server of this project runs on.
//!
//! A stranger who only reaches the port can send half a request, or nothing, and hold a connection for it; a thousand
//! such connections would use up the descriptors of the process, and its own connections to functions and to Postgres
//! would fail. So each server has a limit of connections, all servers of a process together have half of its
//! descriptors, and each connection has a limit of time for every step in which it is the client's turn. At the limit
//! of connections the one gives way whose client has been waited for longest, however often it sends a byte; and
//! whoever asks again and again gives way with the next answer. So a request that is sent at once, such as a health
//! check, is always served. [`BodyBudget`] bounds what bodies take.

mod body;
mod connection;
mod connection_limit;

use std::convert::Infallible;
use std::io::ErrorKind;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::TaskTracker;

pub use body::{BodyBudget, BodyError, Received, discard};
pub use connection_limit::Newcomers;

use self::connection::{Connection, Watched, respond};
use self::connection_limit::ConnectionLimit;
use crate::shutdown::Shutdown;
use crate::telemetry::LogLimit;

/// The most headers of a request: proxies and meshes add dozens.
const HEADERS: usize = 256;

/// The longest head of a request, and how much of a body is read ahead, in bytes.
const BUFFER: usize = 64 << 10;

/// How often connections are looked through for those whose time is over.
const SWEEP: Duration = Duration::from_millis(500);

/// How long to wait for a descriptor when there is none to accept a connection with.
const PAUSE: Duration = Duration::from_millis(50);

/// How long requests in flight may go on when the server is dropped.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// No limit is smaller: health checks and a few clients.
const FEWEST: usize = 8;

/// What clients may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// How many connections there may be. All servers of a process together have half of its descriptors besides.
    pub connections: usize,
    /// How long the head of a request may take to arrive, from the connection or the request's first byte on.
    pub head: Duration,
    /// How long a connection may be kept open between requests.
    pub idle: Duration,
    /// How long a client may be silent in the middle of a body.
    pub silence: Duration,
    /// At the limit of connections, one whose client has been waited for for less does not give way to another.
    pub least_turn: Duration,
}

impl Limits {
    /// At most `most` connections, and no more than half of the descriptors that this process may have (RLIMIT_NOFILE):
    /// the other half is for its own connections.
    pub fn new(most: usize) -> Self {
        Self {
            connections: most.min(ConnectionLimit::of_the_process().limit()).max(FEWEST),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            silence: Duration::from_secs(30),
            least_turn: Duration::from_millis(250),
        }
    }
}

/// Serves a router over HTTP/1 until told to stop, then waits for the requests in flight. It goes on whatever accepting
/// a connection fails with. When the future is dropped, requests in flight have a second left.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, stop: Shutdown) {
    let server = Server {
        router,
        limits,
        room: Arc::new(ConnectionLimit::new(limits.connections)),
        connections: TaskTracker::new(),
        stop: stop.clone(),
        dropped: Shutdown::new(),
        full: LogLimit::once_a_second(),
    };
    let _dropped = server.dropped.trigger_on_drop();
    let mut sweeping = pin!(server.sweep());
    tokio::select! {
        never = server.accept(&listener) => match never {},
        never = &mut sweeping => match never {},
        () = stop.triggered() => {}
    }
    // From here on others can have the port.
    drop(listener);
    server.connections.close();
    tokio::select! {
        never = sweeping => match never {},
        () = server.connections.wait() => {}
    }
}

struct Server {
    router: Router,
    limits: Limits,
    room: Arc<ConnectionLimit>,
    connections: TaskTracker,
    stop: Shutdown,
    dropped: Shutdown,
    full: LogLimit,
}

impl Server {
    async fn accept(&self, listener: &TcpListener) -> Infallible {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) if is_of_one_connection(error.kind()) => continue,
                Err(error) => {
                    if let Some(left_out) = self.full.pass() {
                        tracing::warn!(left_out, "cannot accept a connection, trying again: {error}");
                    }
                    // There may be no descriptor left.
                    ConnectionLimit::of_the_process().make(&self.limits);
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let permits =
                (self.room.wait(&self.limits).await, ConnectionLimit::of_the_process().wait(&self.limits).await);
            // An answer goes out at once, also when the one before it is not acknowledged yet.
            let _ = stream.set_nodelay(true);
            self.spawn(stream, permits);
        }
    }

    async fn sweep(&self) -> Infallible {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.room.close_late(&self.limits);
        }
    }

    fn spawn(&self, stream: TcpStream, (own, shared): (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>)) {
        let connection = Connection::new(Newcomers::of(&self.room));
        let permits = (self.room.enter(&connection, own), ConnectionLimit::of_the_process().enter(&connection, shared));
        let router = self.router.clone();
        let (stop, dropped) = (self.stop.clone(), self.dropped.clone());
        self.connections.spawn(async move {
            let _permits = permits;
            run(stream, router, connection, &stop, &dropped).await;
        });
    }
}

/// Whether the failure is that of the connection that was to be accepted.
fn is_of_one_connection(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionRefused | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset)
}

/// Serves one connection to its end.
async fn run(stream: TcpStream, router: Router, connection: Arc<Connection>, stop: &Shutdown, dropped: &Shutdown) {
    let io = TokioIo::new(Watched::new(stream, connection.clone()));
    let service = hyper::service::service_fn(|request| respond(router.clone(), connection.clone(), request));
    let mut http = http1::Builder::new();
    // Its own limit is one for head and idleness together.
    http.header_read_timeout(None).max_headers(HEADERS).max_buf_size(BUFFER);
    let mut serving = pin!(http.serve_connection(io, service));
    // What a connection fails with is its client's affair.
    tokio::select! {
        _ended = serving.as_mut() => return,
        () = connection.closing() => return,
        () = stop.triggered() => serving.as_mut().graceful_shutdown(),
        () = dropped.triggered() => serving.as_mut().graceful_shutdown(),
    }
    let late = async {
        dropped.triggered().await;
        tokio::time::sleep(LAST_ANSWERS).await;
    };
    tokio::select! {
        _ended = serving => {}
        () = connection.closing() => {}
        () = late => {}
    }
}
