//! A connection: whose turn it is, since when, and what follows from that.

use std::collections::HashMap;
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
use axum::response::Response;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::Limits;

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

/// One connection.
pub(super) struct Connection {
    /// What it waits for, and since when.
    turn: Mutex<(Phase, Instant)>,
    closing: CancellationToken,
}

impl Connection {
    fn turn(&self) -> MutexGuard<'_, (Phase, Instant)> {
        // Two values that are written together: whole at any time.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a phase, unless the connection is being closed: then false.
    fn begin(&self, phase: Phase) -> bool {
        let mut turn = self.turn();
        let open = turn.0 != Phase::Closing;
        if open {
            *turn = (phase, Instant::now());
        }
        open
    }

    /// The client has sent something. The time of a head counts from its beginning.
    fn received(&self) {
        let mut turn = self.turn();
        if turn.0 == Phase::Idle {
            *turn = (Phase::Head, Instant::now());
        }
    }

    /// The client has taken something.
    fn sent(&self) {
        let mut turn = self.turn();
        if turn.0 == Phase::Idle {
            turn.1 = Instant::now();
        }
    }

    /// Since when it is the client's turn, and how long that may last.
    fn silent(&self, limits: &Limits) -> Option<(Instant, Duration)> {
        let (phase, since) = *self.turn();
        let limit = match phase {
            Phase::Idle => limits.idle,
            Phase::Head => limits.head,
            Phase::Body => limits.silence,
            Phase::Busy | Phase::Closing => return None,
        };
        Some((since, limit))
    }

    /// Closes the connection if it is still the client's turn, since the same moment.
    fn close(&self, since: Instant) {
        let mut turn = self.turn();
        if turn.1 == since && !matches!(turn.0, Phase::Busy | Phase::Closing) {
            turn.0 = Phase::Closing;
            self.closing.cancel();
        }
    }

    /// Waits until the connection is to be closed.
    pub(super) async fn closing(&self) {
        self.closing.cancelled().await;
    }
}

/// The connections that are open.
#[derive(Default)]
pub(super) struct Open {
    next: AtomicU64,
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
}

/// A connection among those that are open, until it is dropped.
pub(super) struct Entry {
    open: Arc<Open>,
    number: u64,
    connection: Arc<Connection>,
}

impl Open {
    fn connections(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more, from which a head is due.
    pub(super) fn enter(self: &Arc<Self>, now: Instant) -> Entry {
        let connection =
            Arc::new(Connection { turn: Mutex::new((Phase::Head, now)), closing: CancellationToken::new() });
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.connections().insert(number, connection.clone());
        Entry { open: self.clone(), number, connection }
    }

    /// Closes the connection that has been silent longest.
    pub(super) fn make_room(&self, limits: &Limits, now: Instant) {
        let connections = self.connections();
        let silent = connections.values().filter_map(|connection| Some((connection.silent(limits)?.0, connection)));
        if let Some((since, connection)) = silent.min_by_key(|(since, _)| *since)
            && now.saturating_duration_since(since) >= limits.least_silence
        {
            connection.close(since);
        }
    }

    /// Closes every connection whose client has had its time.
    pub(super) fn close_late(&self, limits: &Limits, now: Instant) {
        for connection in self.connections().values() {
            if let Some((since, limit)) = connection.silent(limits)
                && now.saturating_duration_since(since) >= limit
            {
                connection.close(since);
            }
        }
    }
}

impl Entry {
    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.open.connections().remove(&self.number);
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
    let request: Request = request.map(|body| Body::new(WatchedBody { body, connection: connection.clone() }));
    let answer: Result<Response, Infallible> = router.call(request).await;
    connection.begin(Phase::Idle);
    let Ok(answer) = answer;
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
        self.connection.begin(if polled.is_pending() { Phase::Body } else { Phase::Busy });
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
