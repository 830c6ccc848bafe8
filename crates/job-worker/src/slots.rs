//! Slots: the jobs this worker holds, from their claim until their outcome is stored.
//!
//! ```text
//!   fill ─▶ buffer ─▶ running ─▶ unsettled ─▶ gone
//!             │          └─▶ accepted: holds no slot, and is forgotten once its deadline is stored
//!             └─▶ given back when it waits too long, or when the worker stops
//! ```
//!
//! A lane is a share of the slots with a buffer of its own: one for each task with a limit, one for all others. The buffer
//! holds what is likely to start within a moment at the rate of the last jobs; nothing when jobs are slow.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use job_pg::Job;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::attempt::claim_of;
use crate::place::Places;

/// The rate is that of this window and of the one before it. Longer than a claim takes: while one is waited for, nothing ends. A job
/// that takes longer is not quick: of those nothing is held ahead, although many may end at once.
const RATE_WINDOW: Duration = Duration::from_millis(100);

/// The largest claim: past a few hundred a batch gains nothing, and holds its rows longer.
pub(crate) const BATCH: usize = 500;

pub(crate) struct Slots {
    state: Mutex<State>,
    concurrency: usize,
    prefetch: usize,
    /// How many bytes of payloads may be claimed ahead.
    payload_bytes: usize,
    /// What runs in the slots.
    pub(crate) places: Places,
    /// There is room for a claim that somebody wants to make.
    pub(crate) room: Notify,
    /// A job is no longer held.
    pub(crate) left: Notify,
    /// A function has accepted a job.
    pub(crate) accepting: Notify,
}

/// Job id and epoch. One job can be here twice, when it was rescued and claimed again while its first attempt goes on.
pub(crate) type Claim = (i64, i64);

struct State {
    lanes: Vec<Lane>,
    running: usize,
    /// Claims whose job is buffered, running or unsettled.
    held: HashSet<Claim>,
    /// Claims whose job a function has accepted, and since when, until their deadline is stored.
    accepted: VecDeque<(Claim, Instant)>,
    /// Bytes of the payloads in the buffers.
    buffered: usize,
    /// Jobs may be locked for this process that it does not know of.
    doubt: bool,
    stopped: bool,
}

struct Lane {
    limit: usize,
    running: usize,
    buffer: VecDeque<Job>,
    /// When the buffer was last filled.
    filled: Instant,
    /// Quick jobs that ended since the window began, and when that was.
    ended: usize,
    since: Instant,
    /// Ended in the window before.
    before: usize,
    /// How many jobs to hold ahead of the slots.
    ahead: usize,
    /// Somebody wants to be told when there is room.
    wanted: bool,
    /// Named queues whose job has been settled.
    freed: Vec<String>,
}

impl Lane {
    fn new(limit: usize) -> Self {
        let now = Instant::now();
        Self {
            limit,
            running: 0,
            buffer: VecDeque::new(),
            filled: now,
            ended: 0,
            since: now,
            before: 0,
            ahead: 0,
            wanted: false,
            freed: Vec::new(),
        }
    }

    /// Holds ahead what the lane got through in the last two windows, and never more.
    fn measure(&mut self, prefetch: usize) {
        let elapsed = self.since.elapsed();
        if elapsed >= RATE_WINDOW {
            self.before = (self.ended as f64 * RATE_WINDOW.div_duration_f64(elapsed)) as usize;
            self.ended = 0;
            self.since = Instant::now();
        }
        self.ahead = prefetch.min(self.before + self.ended);
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
        let free = concurrency.saturating_sub(self.running).max(least).min(lane.limit.saturating_sub(lane.running));
        (free + lane.ahead).saturating_sub(lane.buffer.len())
    }
}

impl Slots {
    /// `limits`: how many jobs each lane may run; all of them together no more than `concurrency`. `prefetch`: how many a
    /// lane may hold ahead, with `payload_bytes` in all.
    pub(crate) fn new(
        concurrency: usize,
        prefetch: usize,
        payload_bytes: usize,
        limits: impl IntoIterator<Item = usize>,
    ) -> Self {
        let state = State {
            lanes: limits.into_iter().map(Lane::new).collect(),
            running: 0,
            held: HashSet::new(),
            accepted: VecDeque::new(),
            buffered: 0,
            doubt: false,
            stopped: false,
        };
        let state = Mutex::new(state);
        let (places, room, left, accepting) = Default::default();
        Self { state, concurrency, prefetch, payload_bytes, places, room, left, accepting }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many jobs to claim for a lane now, when `claiming` are on their way; with 0, `room` tells when it is worth asking
    /// again. A full buffer is filled up once half of it is used, so that claims stay large.
    pub(crate) fn wanted(&self, lane: usize, claiming: usize) -> usize {
        let mut state = self.state();
        state.lanes[lane].measure(self.prefetch);
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
        state.held.extend(jobs.iter().map(claim_of));
        state.buffered += jobs.iter().map(|job| job.payload.len()).sum::<usize>();
        state.lanes[lane].buffer.extend(jobs);
        state.lanes[lane].filled = Instant::now();
    }

    /// The slot's job has ended, and took so long: the next one for it, of any lane, its own last, so that the lanes take turns.
    pub(crate) fn next(&self, lane: usize, took: Duration) -> Option<(usize, Job)> {
        let mut state = self.state();
        state.running -= 1;
        state.lanes[lane].running -= 1;
        state.lanes[lane].ended += usize::from(took <= RATE_WINDOW);
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

    /// A claim may have been carried out without its answer, or an outcome cannot be stored: jobs may be locked for this process
    /// that it does not know of.
    pub(crate) fn doubt(&self) {
        self.state().doubt = true;
    }

    /// Whether that has come to be so since the last call.
    pub(crate) fn take_doubt(&self) -> bool {
        std::mem::take(&mut self.state().doubt)
    }

    /// The epochs of the claims that this process knows of, but for those whose deadline is stored.
    pub(crate) fn known(&self) -> Vec<i64> {
        let state = self.state();
        state.held.iter().chain(state.accepted.iter().map(|(claim, _)| claim)).map(|claim| claim.1).collect()
    }

    /// A function has accepted a job: it stays locked, but somebody else will say how it ended.
    pub(crate) fn accepted(&self, claim: Claim) {
        let mut state = self.state();
        state.held.remove(&claim);
        state.accepted.push_back((claim, Instant::now()));
        drop(state);
        self.left.notify_one();
        self.accepting.notify_one();
    }

    /// The first of the claims whose deadline is not stored yet, up to `limit`.
    pub(crate) fn unstored(&self, limit: usize) -> Vec<Claim> {
        self.state().accepted.iter().take(limit).map(|(claim, _)| *claim).collect()
    }

    /// How many those are in all, and since when the first of them is.
    pub(crate) fn unstored_since(&self) -> (usize, Option<Instant>) {
        let state = self.state();
        (state.accepted.len(), state.accepted.front().map(|(_, since)| *since))
    }

    /// The deadlines of the first claims are stored, as [`Slots::unstored`] has returned them, but for the jobs `left`.
    pub(crate) fn deadlines_stored(&self, claims: &[Claim], left: &[i64]) {
        let mut state = self.state();
        state.accepted.drain(..claims.len());
        let left = claims.iter().filter(|claim| left.contains(&claim.0));
        state.accepted.extend(left.map(|claim| (*claim, Instant::now())));
    }

    /// Outcomes have been stored, or refused for good.
    pub(crate) fn settled(&self, jobs: impl IntoIterator<Item = (usize, Claim, Option<String>)>) {
        let mut state = self.state();
        let mut freed = false;
        for (lane, claim, queue) in jobs {
            state.held.remove(&claim);
            if let Some(queue) = queue {
                freed = true;
                let known = &mut state.lanes[lane].freed;
                // A look from the beginning finds the others.
                if known.len() < BATCH {
                    known.push(queue);
                }
            }
        }
        drop(state);
        self.left.notify_one();
        if freed {
            self.room.notify_one();
        }
    }

    /// Takes up to `count` named queues that have been freed.
    pub(crate) fn take_freed(&self, lane: usize, count: usize) -> Vec<String> {
        let mut state = self.state();
        let freed = &mut state.lanes[lane].freed;
        let count = count.min(freed.len());
        freed.drain(..count).collect()
    }

    /// Puts back queues that no look has made use of.
    pub(crate) fn put_freed(&self, lane: usize, queues: Vec<String>) {
        self.state().lanes[lane].freed.extend(queues);
    }

    /// Whether a named queue of the lane has been freed.
    pub(crate) fn has_freed(&self, lane: usize) -> bool {
        !self.state().lanes[lane].freed.is_empty()
    }

    /// Takes out of the buffers what has waited there for longer than `age`.
    pub(crate) fn take_aged(&self, age: Duration) -> Vec<Claim> {
        let mut state = self.state();
        let (mut aged, mut bytes) = (Vec::new(), 0);
        for lane in &mut state.lanes {
            if lane.filled.elapsed() > age {
                bytes += lane.buffer.iter().map(|job| job.payload.len()).sum::<usize>();
                aged.extend(lane.buffer.drain(..).map(|job| claim_of(&job)));
                (lane.ahead, lane.ended, lane.before) = (0, 0, 0);
            }
        }
        state.buffered -= bytes;
        // Once given back, they may be claimed again at any moment.
        for claim in &aged {
            state.held.remove(claim);
        }
        aged
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
    pub(crate) fn take_buffered(&self) -> Vec<Claim> {
        let mut state = self.state();
        state.buffered = 0;
        state.lanes.iter_mut().flat_map(|lane| lane.buffer.drain(..)).map(|job| claim_of(&job)).collect()
    }

    /// These claims are no longer held.
    pub(crate) fn forget(&self, claims: &[Claim]) {
        let mut state = self.state();
        for claim in claims {
            state.held.remove(claim);
        }
        drop(state);
        self.left.notify_one();
    }

    /// All claims held, accepted jobs aside.
    pub(crate) fn held(&self) -> Vec<Claim> {
        self.state().held.iter().copied().collect()
    }

    /// Whether nothing is held, accepted jobs aside.
    pub(crate) fn is_empty(&self) -> bool {
        self.state().held.is_empty()
    }
}
