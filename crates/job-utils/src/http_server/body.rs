//! Bodies of requests, and how much memory they may take in all.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a body may take beside the budget: most are far smaller, and connections have a limit of their own.
const FREE: usize = 64 << 10;

/// How long a large body waits for others to make room.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bounds the memory that the large bodies of a server take together.
///
/// A body takes its share all at once, as it gets larger than most are: taken bit by bit, several bodies could wait for
/// each other. Until it is there, the rest of the body waits at its sender.
#[derive(Debug, Clone)]
pub struct BodyBudget {
    bytes: Arc<Semaphore>,
    all: usize,
}

/// A body that has arrived. It holds its share of the budget until it is dropped.
#[derive(Debug, Default)]
pub struct Received {
    /// Its bytes, or the first of them.
    pub bytes: Bytes,
    /// Whether it is longer than that.
    pub cut: bool,
    #[allow(dead_code, reason = "it is there to be dropped")]
    share: Option<OwnedSemaphorePermit>,
}

/// Why a body has not arrived.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The client broke off.
    #[error("the body breaks off: {0}")]
    BrokenOff(#[source] axum::Error),
    /// Other bodies take all the memory that there is for them.
    #[error("too many large requests at once")]
    NoRoom,
}

impl BodyBudget {
    /// A budget of so many bytes, 4 GiB at most.
    pub fn new(bytes: usize) -> Self {
        let all = bytes.min(u32::MAX as usize);
        Self { bytes: Arc::new(Semaphore::new(all)), all }
    }

    /// Reads a body to its end, and keeps its first `limit` bytes. What comes after is thrown away, so that the client
    /// gets to read the answer instead of a reset connection; up to `end` bytes, where reading ends.
    ///
    /// # Errors
    /// The body did not arrive, or there was no room for it.
    pub async fn read(&self, mut body: Body, limit: usize, end: usize) -> Result<Received, BodyError> {
        let announced = body.size_hint().upper().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX);
        let free = FREE.min(limit);
        let (mut received, mut kept, mut seen) = (Received::default(), Vec::new(), 0_usize);
        while let Some(bytes) = next(&mut body).await? {
            seen = seen.saturating_add(bytes.len());
            // A body that came in one piece, as most do, is not copied.
            if seen == bytes.len() && seen <= free {
                received.bytes = bytes;
                continue;
            }
            if seen > free && received.share.is_none() {
                received.share = Some(self.share(announced.min(limit)).await?);
                if announced <= limit {
                    kept.reserve_exact(announced);
                }
            }
            kept.extend_from_slice(&std::mem::take(&mut received.bytes));
            let room = bytes.len().min(limit - kept.len());
            grow(&mut kept, room, limit);
            kept.extend_from_slice(&bytes[..room]);
            received.cut |= room < bytes.len();
            if seen > end {
                break;
            }
        }
        if !kept.is_empty() {
            received.bytes = kept.into();
        }
        Ok(received)
    }

    async fn share(&self, bytes: usize) -> Result<OwnedSemaphorePermit, BodyError> {
        let bytes = u32::try_from(bytes.min(self.all)).unwrap_or(u32::MAX);
        let share = tokio::time::timeout(PATIENCE, self.bytes.clone().acquire_many_owned(bytes)).await;
        // It is never closed.
        share.map_err(|_| BodyError::NoRoom)?.map_err(|_| BodyError::NoRoom)
    }
}

/// Makes room for some more bytes: twice as much as there was, and no more than the limit.
fn grow(kept: &mut Vec<u8>, more: usize, limit: usize) {
    let needed = kept.len() + more;
    if needed > kept.capacity() {
        let target = kept.capacity().saturating_mul(2).min(limit).max(needed);
        kept.reserve_exact(target - kept.len());
    }
}

/// Reads a body to its end, up to `end` bytes, and keeps nothing of it.
///
/// # Errors
/// The client broke off.
pub async fn discard(mut body: Body, end: usize) -> Result<(), BodyError> {
    let mut seen = 0_usize;
    while let Some(bytes) = next(&mut body).await? {
        seen = seen.saturating_add(bytes.len());
        if seen > end {
            break;
        }
    }
    Ok(())
}

/// The next bytes of a body; None at its end.
async fn next(body: &mut Body) -> Result<Option<Bytes>, BodyError> {
    loop {
        let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut *body).poll_frame(cx)).await;
        match frame.transpose().map_err(BodyError::BrokenOff)? {
            None => return Ok(None),
            // Trailers are of no interest.
            Some(frame) => {
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
        }
    }
}
