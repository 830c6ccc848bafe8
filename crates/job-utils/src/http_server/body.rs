//! Bodies of requests, and how much memory they may take in all.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a body may take beside the budget: most are far smaller, and connections have a limit of their own.
const FREE: usize = 64 << 10;

/// How long a large body waits for others to make room, where the server does not say.
const WAIT_TIMEOUT: Duration = Duration::from_secs(10);

/// How many bodies may wait for room at once. Each has read as much as it may without any.
const WAITING: usize = 256;

/// Bounds the memory that the large bodies of a server take together.
///
/// A body whose length is announced takes its share at once. Any other takes as much as it needs so far, and more as it
/// grows: several of them could wait for each other for ever. So there is, beside the bytes that all share, room for
/// one body of any length: whoever has it never waits again and makes room when it is done. While a body waits, the
/// rest of it stays at its sender.
#[derive(Debug, Clone)]
pub struct BodyBudget {
    shared: Arc<Semaphore>,
    /// How many bytes those are.
    all: usize,
    one: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    wait_timeout: Duration,
}

/// A body that has arrived. It holds its share of the budget until it is dropped.
#[derive(Debug, Default)]
pub struct Received {
    /// Its bytes, or the first of them.
    pub bytes: Bytes,
    /// Whether it is longer than that.
    pub cut: bool,
    share: BudgetShare,
}

/// What a body has of the budget.
#[derive(Debug, Default)]
struct BudgetShare {
    /// Of the bytes that all share.
    bytes: Option<OwnedSemaphorePermit>,
    /// The room for one body of any length.
    one: Option<OwnedSemaphorePermit>,
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
    /// So many bytes for all bodies together, 4 GiB at most, and beside them room for one body as large as they get.
    pub fn new(shared: usize) -> Self {
        let all = shared.min(u32::MAX as usize);
        Self {
            shared: Arc::new(Semaphore::new(all)),
            all,
            one: Arc::new(Semaphore::new(1)),
            waiting: Arc::new(Semaphore::new(WAITING)),
            wait_timeout: WAIT_TIMEOUT,
        }
    }

    /// How long a body waits for room (10 s).
    #[must_use]
    pub fn wait_timeout(mut self, wait_timeout: Duration) -> Self {
        self.wait_timeout = wait_timeout;
        self
    }

    /// Reads a body to its end, and keeps its first `limit` bytes. What comes after is thrown away, so that the client
    /// gets to read the answer instead of a reset connection; up to `end` bytes, where reading ends.
    ///
    /// # Errors
    /// The body did not arrive, or there was no room for it.
    pub async fn read(&self, mut body: Body, limit: usize, end: usize) -> Result<Received, BodyError> {
        let announced = body.size_hint().upper().map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX).min(limit));
        let free = FREE.min(limit);
        let (mut received, mut kept, mut seen) = (Received::default(), Vec::new(), 0_usize);
        while let Some(bytes) = next(&mut body).await? {
            seen = seen.saturating_add(bytes.len());
            // A body that came in one piece, as most do, is not copied.
            if seen == bytes.len() && seen <= free {
                received.bytes = bytes;
                continue;
            }
            let first = std::mem::take(&mut received.bytes);
            let room = bytes.len().min(limit - kept.len() - first.len());
            let needed = kept.len() + first.len() + room;
            if needed > kept.capacity() {
                let doubled = kept.capacity().saturating_mul(2).max(needed);
                // Who only announces much takes nothing from others.
                let capacity = if needed <= free { doubled.min(free) } else { announced.unwrap_or(doubled).min(limit) };
                if capacity > free {
                    self.grow(&mut received.share, capacity).await?;
                }
                kept.reserve_exact(capacity.max(needed) - kept.len());
            }
            kept.extend_from_slice(&first);
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

    /// Makes a share one of so many bytes.
    async fn grow(&self, share: &mut BudgetShare, bytes: usize) -> Result<(), BodyError> {
        if share.one.is_some() {
            return Ok(());
        }
        let held = share.bytes.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = u32::try_from(bytes.saturating_sub(held)).unwrap_or(u32::MAX);
        let permit = match self.shared.clone().try_acquire_many_owned(more) {
            Ok(permit) => permit,
            Err(_) => {
                let _waits = self.waiting.try_acquire().map_err(|_| BodyError::NoRoom)?;
                let room = tokio::time::timeout(self.wait_timeout, self.room(more, bytes <= self.all));
                match room.await.map_err(|_| BodyError::NoRoom)? {
                    BodyRoom::Shared(permit) => permit,
                    BodyRoom::One(permit) => {
                        *share = BudgetShare { bytes: None, one: Some(permit) };
                        return Ok(());
                    }
                }
            }
        };
        match &mut share.bytes {
            Some(held) => held.merge(permit),
            None => share.bytes = Some(permit),
        }
        Ok(())
    }

    /// Waits for so many more of the shared bytes, unless there are never as many (`fits`), or for the room for one.
    async fn room(&self, more: u32, fits: bool) -> BodyRoom {
        let shared = async {
            match self.shared.clone().acquire_many_owned(more).await {
                Ok(permit) => permit,
                // It is never closed.
                Err(_) => std::future::pending().await,
            }
        };
        let one = async {
            match self.one.clone().acquire_owned().await {
                Ok(permit) => permit,
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            permit = shared, if fits => BodyRoom::Shared(permit),
            permit = one => BodyRoom::One(permit),
        }
    }
}

/// Where there is room for a body.
enum BodyRoom {
    Shared(OwnedSemaphorePermit),
    One(OwnedSemaphorePermit),
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
