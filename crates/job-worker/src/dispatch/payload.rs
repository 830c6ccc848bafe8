//! Payload: the body of a request. A large one is counted as memory until it is sent, and given up with its attempt.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::Notify;

use crate::payload_memory::MemoryPermit;

/// The client holds what it has been given until it is written. So a large payload is given in pieces of this size, as
/// copies.
const PIECE: usize = 64 << 10;

/// How long a function may go on to read after its answer.
const LINGER: Duration = Duration::from_secs(2);

/// A request's body: in one piece, or a large one.
pub(crate) type Payload = Either<Full<Bytes>, LargePayload>;

/// A payload and its share of the memory, until somebody takes them out.
struct HeldPayload {
    payload: Mutex<Option<(String, MemoryPermit)>>,
    /// All of it is on its way.
    sent: Notify,
}

impl HeldPayload {
    fn payload(&self) -> MutexGuard<'_, Option<(String, MemoryPermit)>> {
        self.payload.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A large payload on its way.
pub(crate) struct LargePayload {
    held: Arc<HeldPayload>,
    sent: usize,
    length: usize,
}

/// What has not been sent of a large payload is given up when this is dropped, and the connection closed.
pub(crate) struct Unsent(Arc<HeldPayload>);

/// A job's payload as a body; with a share of the memory it is a large one.
pub(crate) fn body_of(payload: String, permit: Option<MemoryPermit>) -> (Payload, Option<Unsent>) {
    let Some(permit) = permit else { return (Either::Left(Full::from(payload)), None) };
    let length = payload.len();
    let held = Arc::new(HeldPayload { payload: Mutex::new(Some((payload, permit))), sent: Notify::new() });
    (Either::Right(LargePayload { held: held.clone(), sent: 0, length }), Some(Unsent(held)))
}

impl Body for LargePayload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        let end = self.length.min(self.sent + PIECE);
        let held = self.held.clone();
        let mut payload = held.payload();
        let Some((text, _)) = payload.as_ref() else {
            return Poll::Ready(Some(Err(io::Error::other("the attempt has ended before its payload was sent"))));
        };
        let piece = Bytes::copy_from_slice(&text.as_bytes()[self.sent..end]);
        self.sent = end;
        if self.is_end_stream() {
            *payload = None;
            held.sent.notify_one();
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.sent == self.length
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact((self.length - self.sent) as u64)
    }
}

impl Unsent {
    /// The function has answered. Most have read all of the request before that; one that has not is given a moment.
    pub(crate) fn linger(self) {
        if self.0.payload().is_some() {
            tokio::spawn(async move {
                tokio::select! {
                    () = self.0.sent.notified() => {}
                    () = tokio::time::sleep(LINGER) => {}
                }
            });
        }
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        *self.0.payload() = None;
    }
}
