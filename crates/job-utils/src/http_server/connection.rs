//! A connection: whose turn it is, since when, and what follows from that.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use axum::response::Response;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::Limits;
use super::connection_limit::Newcomers;

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The client: no byte of a request has come, and the answer before it may not have been read yet.
    Idle,
    /// The client: a head has begun, or is due since the connection is new.
    Head,
    /// The client: a body has not ended.
    Body,
    /// This process.
    Busy,
    /// Nothing: it ends.
    Closing,
}

/// Whose turn it is.
///
/// A client that sends a byte now and then is never silent for long, and may never come to an end. So two times are
/// kept: how long it has been silent, which ends the connection of one that is gone; and for how long it has been
/// waited for in all since its step began, which says who gives way at the limit. A step is a head, a body, or the
/// pause between requests with the reading of an answer.
#[derive(Debug, Clone, Copy)]
struct Turn {
    phase: Phase,
    /// The phase's beginning, or the client's last byte in it.
    since: Instant,
    /// For how long the client has been waited for in this step, up to then.
    waited: Duration,
}

impl Turn {
    fn is_the_clients(self) -> bool {
        matches!(self.phase, Phase::Idle | Phase::Head | Phase::Body)
    }

    /// The client has moved, in the middle of its step.
    fn moved(&mut self, now: Instant) {
        self.waited += now.saturating_duration_since(self.since);
        self.since = now;
    }

    /// For how long the client has been waited for; None when it is not.
    fn waited(self, now: Instant) -> Option<Duration> {
        self.is_the_clients().then(|| self.waited + now.saturating_duration_since(self.since))
    }
}

/// A connection that is being served, and what ends it.
pub(super) struct Connection {
    number: u64,
    turn: Mutex<Turn>,
    closing: CancellationToken,
    newcomers: Newcomers,
}

impl Connection {
    /// One from which a head is due.
    pub(super) fn new(newcomers: Newcomers) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let turn = Turn { phase: Phase::Head, since: Instant::now(), waited: Duration::ZERO };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { number, turn: Mutex::new(turn), closing: CancellationToken::new(), newcomers })
    }

    /// Its number among those of the process.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    fn lock(&self) -> MutexGuard<'_, Turn> {
        // Values that are written together: whole at any time.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a step, unless the connection is being closed: then false.
    fn begin(&self, phase: Phase) -> bool {
        let mut turn = self.lock();
        let open = turn.phase != Phase::Closing;
        if open {
            *turn = Turn { phase, since: Instant::now(), waited: Duration::ZERO };
        }
        open
    }

    /// The client has sent something. The time of a head counts from its beginning.
    fn received(&self) {
        let mut turn = self.lock();
        if turn.phase == Phase::Idle {
            *turn = Turn { phase: Phase::Head, since: Instant::now(), waited: Duration::ZERO };
        }
    }

    /// The client has taken something.
    fn sent(&self) {
        let mut turn = self.lock();
        if turn.phase == Phase::Idle {
            turn.moved(Instant::now());
        }
    }

    /// More of a body is wanted, and is there or not.
    fn wants_body(&self, is_there: bool) {
        let mut turn = self.lock();
        match (turn.phase, is_there) {
            (Phase::Body, true) => {
                turn.moved(Instant::now());
                turn.phase = Phase::Busy;
            }
            (Phase::Busy, false) => {
                turn.phase = Phase::Body;
                turn.since = Instant::now();
            }
            _ => {}
        }
    }

    /// For how long the client has been waited for; None when it is not.
    pub(super) fn turn(&self, now: Instant) -> Option<Duration> {
        self.lock().waited(now)
    }

    /// Closes the connection if the client has been waited for as long as that.
    pub(super) fn close_if_waited(&self, long: Duration, now: Instant) {
        let mut turn = self.lock();
        if turn.waited(now).is_some_and(|waited| waited >= long) {
            self.close(&mut turn);
        }
    }

    /// Closes the connection if the client has had its time.
    pub(super) fn close_if_late(&self, limits: &Limits, now: Instant) {
        let mut turn = self.lock();
        let limit = match turn.phase {
            Phase::Idle => limits.idle,
            Phase::Head => limits.head,
            Phase::Body => limits.silence,
            Phase::Busy | Phase::Closing => return,
        };
        if now.saturating_duration_since(turn.since) >= limit {
            self.close(&mut turn);
        }
    }

    fn close(&self, turn: &mut Turn) {
        turn.phase = Phase::Closing;
        self.closing.cancel();
    }

    /// Waits until the connection is to be closed.
    pub(super) async fn closing(&self) {
        self.closing.cancelled().await;
    }
}

/// The connection is being closed: the request that has just come is not begun.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed")]
pub(super) struct Closed;

/// Answers a request.
pub(super) async fn respond(
    mut router: Router,
    connection: Arc<Connection>,
    request: hyper::Request<Incoming>,
) -> Result<Response, Closed> {
    if !connection.begin(Phase::Busy) {
        return Err(Closed);
    }
    let mut request: Request = request.map(|body| Body::new(WatchedBody { body, connection: connection.clone() }));
    request.extensions_mut().insert(connection.newcomers.clone());
    let answer: Result<Response, Infallible> = router.call(request).await;
    let Ok(mut answer) = answer;
    // Who asks again and again is never waited for, and gives way like this.
    if connection.newcomers.are_waiting() {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    connection.begin(Phase::Idle);
    Ok(answer)
}

/// A request's body that tells when it waits for the client.
struct WatchedBody {
    body: Incoming,
    connection: Arc<Connection>,
}

impl hyper::body::Body for WatchedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.connection.wants_body(polled.is_ready());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that tells what its client does.
pub(super) struct Watched {
    stream: TcpStream,
    connection: Arc<Connection>,
}

impl Watched {
    pub(super) fn new(stream: TcpStream, connection: Arc<Connection>) -> Self {
        Self { stream, connection }
    }

    fn written(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(polled, Poll::Ready(Ok(bytes)) if bytes > 0) {
            self.connection.sent();
        }
        polled
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.connection.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.written(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
