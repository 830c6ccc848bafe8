//! Slots: the jobs this worker holds, from their claim until their outcome is stored.
//!
//! ```text
//!   fill ─▶ buffer ─▶ running ─▶ unsettled ─▶ gone
//!             │          └─▶ accepted: holds no slot, and is forgotten once its deadline is stored
//!             └─▶ given back when it waits too long, or when the worker stops
//! ```
//!
//! Each lane ([`lanes`](crate::lane::lanes)) has a share of the slots and a buffer. The buffer holds what is likely to
//! start within a moment at the rate of the last jobs. It holds nothing when jobs are slow.

mod reservations;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use job_pg::{ClaimId, Job};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::monitor::{CancelledClaims, SlotMonitors};

/// The rate is that of this window and of the one before it. The window is longer than a claim takes, since nothing
/// ends while one is waited for. A job that takes longer is not quick: of those nothing is held ahead, although many
/// may end at once.
const RATE_WINDOW: Duration = Duration::from_millis(100);

/// Where jobs pass gates of tenants, so much less is held ahead: what starts within 25 ms. What is held ahead does not
/// give way to the jobs of a tenant whose turn comes meanwhile.
const TENANTS_SHARE: usize = 8;

/// The largest claim: past a few hundred a batch gains nothing, and holds its rows longer.
pub(crate) const BATCH: usize = 500;

pub(crate) struct Slots {
    state: Mutex<State>,
    concurrency: usize,
    prefetch: usize,
    /// How many bytes of payloads may be claimed ahead.
    payload_bytes: usize,
    /// What runs in the slots.
    pub(crate) monitors: SlotMonitors,
    /// There is room for a claim that somebody wants to make.
    pub(crate) room: Notify,
    /// A job is held that has taken the place of another.
    pub(crate) succeeded: Notify,
    /// A job is no longer held.
    pub(crate) job_left: Notify,
    /// A function has accepted a job.
    pub(crate) accepting: Notify,
    /// Jobs of this worker have gone that it has not ended. They may have been cancelled.
    pub(crate) jobs_gone: Notify,
    /// A job is to be given back.
    pub(crate) giving_back: Notify,
}

struct State {
    lanes: Vec<LaneSlots>,
    running: usize,
    /// Claims whose job is buffered, running or unsettled. One job can be here twice, when it was rescued and claimed
    /// again while its first attempt goes on.
    held: HashSet<ClaimId>,
    /// Claims whose job a function has accepted, and since when, until their deadline is stored.
    accepted: VecDeque<(ClaimId, Instant)>,
    /// Bytes of the payloads in the buffers.
    buffered: usize,
    /// Epochs of claims that are on their way with outcomes.
    reserved: Vec<i64>,
    /// Jobs may be locked for this process that it does not know of.
    reconcile: bool,
    /// Claims whose job cannot be sent now.
    given_back: Vec<ClaimId>,
    /// Jobs that this process does not know of are searched for.
    searching: bool,
    stopped: bool,
}

/// One lane's share of the slots.
struct LaneSlots {
    limit: usize,
    running: usize,
    /// How many jobs may come with outcomes.
    reserved: usize,
    buffer: VecDeque<Job>,
    /// When the buffer was last filled.
    filled: Instant,
    rate: Rate,
    /// How many jobs to hold ahead of the slots.
    ahead: usize,
    /// One part in so many of the usual is held ahead. None: nothing, since its jobs pass gates of tasks or hosts, and
    /// count for their limits from their claim on.
    share: Option<usize>,
    /// Somebody wants to be told when there is room.
    wanted: bool,
    /// Gates of which a job has been settled.
    freed_gates: Vec<String>,
}

impl LaneSlots {
    fn new(limit: usize) -> Self {
        let now = Instant::now();
        Self {
            limit,
            running: 0,
            reserved: 0,
            buffer: VecDeque::new(),
            filled: now,
            rate: Rate { ended: 0, since: now, before: 0 },
            ahead: 0,
            share: Some(1),
            wanted: false,
            freed_gates: Vec::new(),
        }
    }
}

/// How many quick jobs end.
struct Rate {
    /// Since the window began, and when that was.
    ended: usize,
    since: Instant,
    /// In the window before.
    before: usize,
}

impl Rate {
    /// How many ended in the last two windows.
    fn recent(&mut self) -> usize {
        let elapsed = self.since.elapsed();
        if elapsed >= RATE_WINDOW {
            self.before = (self.ended as f64 * RATE_WINDOW.div_duration_f64(elapsed)) as usize;
            self.ended = 0;
            self.since = Instant::now();
        }
        self.before + self.ended
    }
}

impl State {
    fn can_start(&self, lane: usize, concurrency: usize) -> bool {
        let lane = &self.lanes[lane];
        !self.stopped && self.running < concurrency && lane.running < lane.limit && !lane.buffer.is_empty()
    }

    fn start(&mut self, index: usize) -> Option<Job> {
        let lane = &mut self.lanes[index];
        let job = lane.buffer.pop_front()?;
        self.buffered -= job.payload.len();
        lane.running += 1;
        self.running += 1;
        Some(job)
    }

    /// How many jobs claims may bring.
    fn room(&self, index: usize, concurrency: usize) -> usize {
        let lane = &self.lanes[index];
        // A lane that has nothing gets a job claimed, so that it takes its turn when a slot is free.
        let least = usize::from(lane.running == 0 && self.lanes.len() > 1);
        let free = concurrency.saturating_sub(self.running + self.reserved.len()).max(least);
        let free = free.min(lane.limit.saturating_sub(lane.running + lane.reserved));
        (free + lane.ahead).saturating_sub(lane.buffer.len())
    }
}

impl Slots {
    /// `limits`: how many jobs each lane may run; all of them together no more than `concurrency`. `prefetch`: how many
    /// a lane may hold ahead, with `payload_bytes` in all.
    pub(crate) fn new(
        concurrency: usize,
        prefetch: usize,
        payload_bytes: usize,
        limits: impl IntoIterator<Item = usize>,
    ) -> Self {
        let state = State {
            lanes: limits.into_iter().map(LaneSlots::new).collect(),
            running: 0,
            held: HashSet::new(),
            accepted: VecDeque::new(),
            buffered: 0,
            reserved: Vec::new(),
            reconcile: false,
            given_back: Vec::new(),
            searching: false,
            stopped: false,
        };
        let state = Mutex::new(state);
        let (monitors, room, succeeded, job_left, accepting, jobs_gone, giving_back) = Default::default();
        Self {
            state,
            concurrency,
            prefetch,
            payload_bytes,
            monitors,
            room,
            succeeded,
            job_left,
            accepting,
            jobs_gone,
            giving_back,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many jobs to claim for a lane now, when `claiming` are on their way; with 0, `room` tells when it is worth
    /// asking again. A full buffer is filled up once half of it is used, so that claims stay large.
    pub(crate) fn wanted(&self, lane: usize, claiming: usize) -> usize {
        let mut state = self.state();
        let LaneSlots { rate, share, .. } = &mut state.lanes[lane];
        let recent = share.map_or(0, |share| rate.recent() / share);
        state.lanes[lane].ahead = self.prefetch.min(recent);
        let room = state.room(lane, self.concurrency).saturating_sub(claiming).min(BATCH);
        let wanted = if room > state.lanes[lane].ahead.min(BATCH) / 2 { room } else { 0 };
        state.lanes[lane].wanted = wanted == 0;
        wanted
    }

    /// How many bytes the payloads of a claim may have, when others are on their way that may bring `claiming`.
    pub(crate) fn payload_room(&self, claiming: usize) -> usize {
        self.payload_bytes.saturating_sub(self.state().buffered + claiming)
    }

    /// Takes claimed jobs into a lane; returns the jobs that start at once, each in a slot of its own.
    pub(crate) fn fill(&self, lane: usize, jobs: Vec<Job>) -> Vec<Job> {
        self.hold(lane, jobs);
        let mut state = self.state();
        let mut starts = Vec::new();
        while state.can_start(lane, self.concurrency) {
            starts.extend(state.start(lane));
        }
        starts
    }

    /// Takes claimed jobs into a lane's buffer, and starts none.
    pub(crate) fn hold(&self, lane: usize, jobs: Vec<Job>) {
        let mut state = self.state();
        state.held.extend(jobs.iter().map(Job::claim_id));
        state.buffered += jobs.iter().map(|job| job.payload.len()).sum::<usize>();
        let lane = &mut state.lanes[lane];
        let by_tenant = jobs.first().is_some_and(Job::has_tenant_gate);
        let limited = jobs.iter().any(Job::has_task_gate);
        lane.share = (!limited).then_some(if by_tenant { TENANTS_SHARE } else { 1 });
        lane.buffer.extend(jobs);
        lane.filled = Instant::now();
        if by_tenant {
            // They take turns, so that a tenant's first job does not wait for all that others have here.
            let mut before: HashMap<_, usize> = HashMap::new();
            lane.buffer.make_contiguous().sort_by_cached_key(|job| {
                let turns = before.entry(job.tenant).or_default();
                *turns += 1;
                *turns
            });
        }
    }

    /// The slot's job has ended, and took so long: the next one for it, of any lane, its own last, so that the lanes
    /// take turns.
    pub(crate) fn next(&self, lane: usize, took: Duration) -> Option<(usize, Job)> {
        let mut state = self.state();
        state.running -= 1;
        state.lanes[lane].running -= 1;
        state.lanes[lane].rate.ended += usize::from(took <= RATE_WINDOW);
        let lanes = state.lanes.len();
        let next = (1..=lanes).map(|i| (lane + i) % lanes).find(|next| state.can_start(*next, self.concurrency));
        let next = next.and_then(|next| state.start(next).map(|job| (next, job)));
        let room = (0..lanes).any(|i| {
            let half = state.lanes[i].ahead.min(BATCH) / 2;
            state.lanes[i].wanted && state.room(i, self.concurrency) > half
        });
        if room {
            state.lanes.iter_mut().for_each(|lane| lane.wanted = false);
            self.room.notify_one();
        }
        next
    }

    /// A function has accepted a job: it stays locked, but somebody else will say how it ended.
    pub(crate) fn accepted(&self, claim: ClaimId) {
        let mut state = self.state();
        state.held.remove(&claim);
        state.accepted.push_back((claim, Instant::now()));
        drop(state);
        self.job_left.notify_one();
        self.accepting.notify_one();
    }

    /// The first of the claims whose deadline is not stored yet, up to `limit`.
    pub(crate) fn unstored(&self, limit: usize) -> Vec<ClaimId> {
        self.state().accepted.iter().take(limit).map(|(claim, _)| *claim).collect()
    }

    /// How many those are in all, and since when the first of them is.
    pub(crate) fn unstored_since(&self) -> (usize, Option<Instant>) {
        let state = self.state();
        (state.accepted.len(), state.accepted.front().map(|(_, since)| *since))
    }

    /// The deadlines of the first claims are stored, as [`Slots::unstored`] has returned them, but for the jobs `left`.
    pub(crate) fn deadlines_stored(&self, claims: &[ClaimId], left: &[i64]) {
        let mut state = self.state();
        state.accepted.drain(..claims.len());
        let left = claims.iter().filter(|claim| left.contains(&claim.0));
        state.accepted.extend(left.map(|claim| (*claim, Instant::now())));
    }

    /// Outcomes have been stored, or refused for good.
    pub(crate) fn settled(&self, jobs: impl IntoIterator<Item = (usize, ClaimId, Option<String>)>) {
        let mut state = self.state();
        let mut freed = false;
        for (lane, claim, gate) in jobs {
            state.held.remove(&claim);
            if let Some(gate) = gate {
                freed = true;
                let known = &mut state.lanes[lane].freed_gates;
                // A claim from the start finds the others.
                if known.len() < BATCH {
                    known.push(gate);
                }
            }
        }
        drop(state);
        self.job_left.notify_one();
        if freed {
            self.room.notify_one();
        }
    }

    /// Takes up to `count` gates that have been freed.
    pub(crate) fn take_freed_gates(&self, lane: usize, count: usize) -> Vec<String> {
        let mut state = self.state();
        let freed = &mut state.lanes[lane].freed_gates;
        let count = count.min(freed.len());
        freed.drain(..count).collect()
    }

    /// Puts back gates that no claim has made use of.
    pub(crate) fn put_freed_gates(&self, lane: usize, gates: Vec<String>) {
        self.state().lanes[lane].freed_gates.extend(gates);
    }

    /// How many gates of the lane have been freed that no claim has been told of.
    pub(crate) fn freed_gates(&self, lane: usize) -> usize {
        self.state().lanes[lane].freed_gates.len()
    }

    /// Takes out of the buffers what has waited there for longer than `age`.
    pub(crate) fn take_aged(&self, age: Duration) -> Vec<ClaimId> {
        let mut state = self.state();
        let (mut aged, mut bytes) = (Vec::new(), 0);
        for lane in &mut state.lanes {
            if lane.filled.elapsed() > age {
                bytes += lane.buffer.iter().map(|job| job.payload.len()).sum::<usize>();
                aged.extend(lane.buffer.drain(..).map(|job| job.claim_id()));
                (lane.ahead, lane.rate.ended, lane.rate.before) = (0, 0, 0);
            }
        }
        state.buffered -= bytes;
        // Once given back, they may be claimed again at any moment.
        for claim in &aged {
            state.held.remove(claim);
        }
        aged
    }

    /// Drops the jobs of these claims from the buffers, and removes them from the map.
    pub(crate) fn drop_cancelled(&self, cancelled: &mut CancelledClaims) {
        let mut state = self.state();
        let State { lanes, buffered, held, .. } = &mut *state;
        let before = held.len();
        for lane in lanes {
            lane.buffer.retain(|job| {
                if cancelled.remove(&job.claim_id()).is_none() {
                    return true;
                }
                *buffered -= job.payload.len();
                held.remove(&job.claim_id());
                false
            });
        }
        if held.len() < before {
            drop(state);
            self.room.notify_one();
            self.job_left.notify_one();
        }
    }

    /// Whether it holds one of these claims.
    pub(crate) fn holds_any(&self, claims: &CancelledClaims) -> bool {
        let state = self.state();
        claims.keys().any(|claim| state.held.contains(claim))
    }

    /// A claim's job cannot be sent now.
    pub(crate) fn give_back(&self, claim: ClaimId) {
        let mut state = self.state();
        // Once given back, it may be claimed again at any moment.
        state.held.remove(&claim);
        state.given_back.push(claim);
        drop(state);
        self.job_left.notify_one();
        self.giving_back.notify_one();
    }

    /// Takes what is to be given back.
    pub(crate) fn take_given_back(&self) -> Vec<ClaimId> {
        std::mem::take(&mut self.state().given_back)
    }

    /// When the oldest buffer will be `age` old; None when all are empty.
    pub(crate) fn aged_at(&self, age: Duration) -> Option<Instant> {
        let state = self.state();
        state.lanes.iter().filter(|lane| !lane.buffer.is_empty()).map(|lane| lane.filled + age).min()
    }

    /// Nothing starts any more.
    pub(crate) fn stop_starting(&self) {
        self.state().stopped = true;
    }

    /// Takes what has not started out of the buffers.
    pub(crate) fn take_buffered(&self) -> Vec<ClaimId> {
        let mut state = self.state();
        state.buffered = 0;
        state.lanes.iter_mut().flat_map(|lane| lane.buffer.drain(..)).map(|job| job.claim_id()).collect()
    }

    /// These claims are no longer held.
    pub(crate) fn forget(&self, claims: &[ClaimId]) {
        let mut state = self.state();
        for claim in claims {
            state.held.remove(claim);
        }
        drop(state);
        self.job_left.notify_one();
    }

    /// All claims held, accepted jobs aside.
    pub(crate) fn held(&self) -> Vec<ClaimId> {
        self.state().held.iter().copied().collect()
    }

    /// Whether nothing is held, accepted jobs aside.
    pub(crate) fn is_empty(&self) -> bool {
        self.state().held.is_empty()
    }
}
