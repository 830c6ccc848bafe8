//! Payload memory: how much memory payloads may take.
//!
//! A quarter of `JOBS_PAYLOAD_MEMORY` is for payloads that are claimed ahead. One that is larger than its share of
//! that, or than 64 kB, stays in the database. The rest is for those larger ones: they are fetched when their job
//! starts, and counted until they are sent, or their handler has ended.

use std::sync::Arc;

use crate::config::WorkerConfig;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// The unit that is counted.
const UNIT: usize = 1 << 10;

/// Memory that is reserved for a payload, until this is dropped.
pub(crate) type MemoryPermit = OwnedSemaphorePermit;

/// What larger payloads may take.
pub(crate) struct PayloadMemory {
    free: Arc<Semaphore>,
    units: usize,
    fetches: Semaphore,
}

/// So many payloads are fetched at once: the pool's connections are needed for other things as well.
const FETCHES: usize = 2;

/// How many bytes of payloads may be claimed ahead.
pub(crate) fn claimed_ahead(config: &WorkerConfig) -> usize {
    config.payload_memory / 4
}

impl PayloadMemory {
    pub(crate) fn new(config: &WorkerConfig) -> Self {
        let units = ((config.payload_memory - claimed_ahead(config)) / UNIT)
            .clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self { free: Arc::new(Semaphore::new(units)), units, fetches: Semaphore::new(FETCHES) }
    }

    /// Waits until the payload may be fetched.
    pub(crate) async fn fetch_permit(&self) -> Option<SemaphorePermit<'_>> {
        self.fetches.acquire().await.ok()
    }

    /// Waits until there is room for so many bytes. A payload that is larger than all there is waits until it is alone.
    /// None never comes: nobody closes the semaphore.
    pub(crate) async fn reserve(&self, bytes: usize) -> Option<MemoryPermit> {
        let units = bytes.div_ceil(UNIT).clamp(1, self.units);
        self.free.clone().acquire_many_owned(u32::try_from(units).unwrap_or(u32::MAX)).await.ok()
    }
}
