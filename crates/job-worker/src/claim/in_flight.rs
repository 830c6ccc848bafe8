//! Claims in flight: the statements that have been sent and not answered.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use job_pg::{ClaimReply, ClaimRequest, DbError, Running, WorkerDb};
use tokio::time::Instant;

use super::poller::Poller;
use crate::slots::Slots;

/// The claims in flight of all lanes.
pub(super) struct ClaimsInFlight {
    db: WorkerDb,
    slots: Arc<Slots>,
    claims: FuturesUnordered<BoxFuture<'static, EndedClaim>>,
    /// How many bytes of payloads they may bring.
    payload_bytes: usize,
    /// Tasks whose jobs the next ones leave to other workers.
    pub(super) left: Vec<String>,
}

/// A claim for up to `limit` jobs that has ended.
pub(super) struct EndedClaim {
    pub(super) lane: usize,
    pub(super) from_start: bool,
    pub(super) limit: usize,
    pub(super) careful: bool,
    /// The freed gates it was told of.
    pub(super) freed: Vec<String>,
    pub(super) took: Duration,
    pub(super) found: Result<ClaimReply, DbError>,
    payload_bytes: usize,
}

impl ClaimsInFlight {
    pub(super) fn new(db: WorkerDb, slots: Arc<Slots>) -> Self {
        Self { db, slots, claims: FuturesUnordered::new(), payload_bytes: 0, left: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    /// Sends a claim. `heartbeat`: what a heartbeat that goes with it asks about. `careful`: the last one was refused.
    pub(super) fn start(
        &mut self,
        lane: usize,
        poller: &Poller,
        limit: usize,
        from_start: bool,
        heartbeat: Option<Running>,
        careful: bool,
    ) {
        let began = Instant::now();
        let freed = self.slots.take_freed_gates(lane, limit);
        // Half of what is left: claims beside this one need a share, too.
        let payload_bytes = self.slots.payload_room(self.payload_bytes) / 2;
        self.payload_bytes += payload_bytes;
        let (db, horizon) = (self.db.clone(), poller.poll_interval());
        let (only, mut except, cursor) =
            (poller.tasks.only.clone(), poller.tasks.except.clone(), poller.cursor.clone());
        if !self.left.is_empty() {
            except = except.iter().chain(&self.left).cloned().collect();
        }
        self.claims.push(Box::pin(async move {
            let claim = ClaimRequest {
                tasks: only.as_deref(),
                excluded: &except,
                limit,
                from_start,
                cursor: &cursor,
                freed: &freed,
                horizon,
                heartbeat: heartbeat.as_ref(),
                careful,
                payload_bytes,
            };
            let found = db.claim(claim).await;
            EndedClaim { lane, from_start, limit, careful, freed, took: began.elapsed(), found, payload_bytes }
        }));
    }

    /// The next one that ends; None when there is none.
    pub(super) async fn next(&mut self) -> Option<EndedClaim> {
        let ended = self.claims.next().await?;
        self.payload_bytes -= ended.payload_bytes;
        Some(ended)
    }

    /// Cancels them.
    pub(super) fn cancel(&mut self) {
        self.claims.clear();
        self.payload_bytes = 0;
    }
}
