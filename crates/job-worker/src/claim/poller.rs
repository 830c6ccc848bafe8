//! Poller: when to claim for a lane, and whether from the start or from the cursor.
//!
//! The cursor is where the last claim ended. A new job most likely lies ahead of it, so most claims go on from there,
//! also the first one after a wake-up. A claim from the start sees every due job. It may have to walk over the dead
//! index entries of every job done since the last vacuum, so such claims take a small share of the time. But a worker
//! never goes to sleep without one.

use std::time::Duration;

use job_pg::{Cursor, Job};
use tokio::time::Instant;

use crate::lane::TaskFilter;
use crate::slots::BATCH;

/// After a claim from the start, the next one waits this many times as long as it took, while claims find as much as
/// they can take; else as long as it took.
const START_PAUSE: u32 = 20;

/// The longest such wait. It is never longer than the poll interval either.
const START_PAUSE_LIMIT: Duration = Duration::from_secs(60);

/// The first pause of a [`PollBackoff`].
const SHORTEST_POLL: Duration = Duration::from_millis(20);

/// While jobs come in a stream, claims begin at least so far apart: each then finds some jobs rather than one, which
/// costs a statement all the same.
const PACE: Duration = Duration::from_millis(1);

/// After a claim that finds nothing where jobs wait behind gates, a wake-up is answered no sooner than so many times as
/// long as one from the start takes: every job that ends there wakes all workers.
const BEHIND_GATES_PAUSE: u32 = 10;

/// The longest such wait.
const BEHIND_GATES_PAUSE_LIMIT: Duration = Duration::from_millis(50);

/// So many freed gates are worth a claim beside another one.
const FREED_BESIDE: usize = 100;

/// Claims that find jobs within this time of each other meet a stream.
const STREAM: Duration = Duration::from_millis(3);

/// When to claim for one lane.
pub(super) struct Poller {
    pub(super) tasks: TaskFilter,
    pub(super) cursor: Cursor,
    poll_interval: Duration,
    /// Claims in flight: one as a rule, two while they find as much as they can take.
    in_flight: usize,
    /// How many jobs those may bring.
    claiming: usize,
    /// When the next claim may begin, if there may be more.
    next_at: Instant,
    /// Whether due jobs may be left.
    more: bool,
    /// Whether the last claim found less than it could take.
    exhausted: bool,
    /// The last jobs that were found have gates of tasks or tenants. Others may wait behind those.
    behind_gates: bool,
    /// Woken since the last claim began, which may have been too early to see why.
    woken: bool,
    pacer: Pacer,
    backoff: PollBackoff,
    start: StartScans,
}

impl Poller {
    pub(super) fn new(tasks: TaskFilter, poll_interval: Duration, now: Instant) -> Self {
        Self {
            tasks,
            cursor: Cursor::default(),
            poll_interval,
            in_flight: 0,
            claiming: 0,
            next_at: now,
            more: true,
            exhausted: true,
            behind_gates: false,
            woken: false,
            pacer: Pacer { found_at: None, not_before: now },
            backoff: PollBackoff { pause: SHORTEST_POLL, soon: Duration::ZERO },
            start: StartScans { ended: now, took: Duration::ZERO, passed_over: false, placed: false },
        }
    }

    /// Whether a claim may begin. A second one keeps the database at it while the jobs of the first are on their way.
    /// `freed`: how many gates have been freed.
    pub(super) fn may_claim(&self, freed: usize, now: Instant) -> bool {
        let beside = self.in_flight == 0 || self.in_flight == 1 && (!self.exhausted || freed >= FREED_BESIDE);
        beside && self.more && self.next_at <= now
    }

    /// How many jobs the claims in flight may bring.
    pub(super) fn claiming(&self) -> usize {
        self.claiming
    }

    /// The longest time between two polls.
    pub(super) fn poll_interval(&self) -> Duration {
        self.poll_interval
    }

    /// Whether due jobs may be left, so that the lane does not sleep.
    pub(super) fn is_awake(&self) -> bool {
        self.more
    }

    /// When the lane is to be polled. None: a claim is in flight, or waits for room, and something else will happen
    /// first.
    pub(super) fn poll_at(&self, now: Instant) -> Option<Instant> {
        (self.in_flight == 0 && (!self.more || self.next_at > now)).then_some(self.next_at)
    }

    /// It may be time to poll.
    pub(super) fn poll(&mut self, now: Instant) {
        self.more |= self.next_at <= now;
    }

    /// There may be something to claim. While claims fail, they keep the pace of the retries.
    pub(super) fn wake(&mut self, failing: bool) {
        self.more = true;
        self.woken = true;
        if !failing {
            self.next_at = Instant::now().max(self.pacer.not_before);
        }
    }

    /// The next claim need not keep the pace of a stream.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.pacer.not_before = now;
    }

    /// Begins a claim for up to `limit` jobs, if it is time. Returns whether it is from the start. `freed`: how many
    /// gates have been freed, at which every claim looks.
    pub(super) fn begin(&mut self, limit: usize, freed: usize, now: Instant) -> Option<bool> {
        let start_at = self.start_at();
        // A worker with one free slot must not give it to the first job that it sees of several.
        let ahead = self.goes_ahead() && limit > 1 && (freed > 0 || !self.cursor.is_empty());
        // Not while one from the start is overdue: claims beside each other would keep it from ever beginning.
        let overdue = now >= self.start.after(START_PAUSE, self.poll_interval);
        let of_freed = self.in_flight > 0 && freed.min(limit) >= FREED_BESIDE && !overdue;
        let from_start = now >= start_at && !ahead && !of_freed;
        if self.in_flight > 0 && !of_freed && (from_start || limit < BATCH) {
            // What a claim from the start says must hold for the whole lane, and half a batch can wait.
            return None;
        }
        if !from_start && self.cursor.is_empty() && freed == 0 {
            // There is nothing to continue from.
            self.next_at = start_at;
            return None;
        }
        self.begun(limit, ahead, now);
        Some(from_start)
    }

    /// Whether the next claim goes on from the cursor although one from the start is due.
    fn goes_ahead(&self) -> bool {
        self.woken && !self.start.passed_over
    }

    fn begun(&mut self, limit: usize, ahead: bool, now: Instant) {
        self.start.passed_over |= ahead && now >= self.start_before_sleep_at();
        self.in_flight += 1;
        self.claiming += limit;
        self.woken = false;
    }

    /// A claim for up to `limit` jobs has ended.
    pub(super) fn end(&mut self, limit: usize) {
        self.in_flight -= 1;
        self.claiming -= limit;
    }

    /// It was one from the start, it succeeded, and it took so long.
    /// `placed`: it has put jobs in their place, and there may be more of those.
    pub(super) fn scanned(&mut self, took: Duration, placed: bool) {
        self.start = StartScans { ended: Instant::now(), took, passed_over: false, placed };
    }

    /// It has found jobs. Returns whether it could have taken more.
    pub(super) fn found(&mut self, jobs: &[Job], limit: usize) -> bool {
        self.backoff.reset();
        self.cursor.advance(jobs);
        self.more = true;
        self.exhausted = jobs.len() < limit;
        self.behind_gates = jobs.iter().any(|job| job.has_task_gate() || job.has_tenant_gate());
        self.exhausted
    }

    /// It began then, and found jobs, but fewer than it could take. `always_notified`: whether every new job wakes.
    pub(super) fn pace(&mut self, began: Instant, jobs: &[Job], always_notified: bool) {
        if let Some(at) = self.pacer.pace(began) {
            self.next_at = at;
        }
        // Gates let some jobs start. Others may be due beyond those that were seen.
        let all = jobs.iter().all(|job| job.gate.is_none());
        if all && always_notified && !self.woken && !self.start.placed {
            self.next_at = self.start_before_sleep_at();
        }
    }

    /// It went on from the cursor, and found nothing.
    pub(super) fn found_nothing_ahead(&mut self, now: Instant) {
        self.exhausted = true;
        let next_at = if self.woken { now } else { self.start_at() };
        self.next_at = next_at.max(self.pause_behind_gates(now));
    }

    /// Nothing was found. When it is worth looking again, whoever wakes the lane: its own jobs that end do at once.
    fn pause_behind_gates(&mut self, now: Instant) -> Instant {
        if self.behind_gates {
            self.pacer.not_before = now + (self.start.took * BEHIND_GATES_PAUSE).min(BEHIND_GATES_PAUSE_LIMIT);
        }
        self.pacer.not_before
    }

    /// It was one from the start, and found nothing. The next waiting job is due in this time, as far as is known.
    /// `notified`: whether a notification can wake this worker.
    pub(super) fn found_nothing(&mut self, now: Instant, due: Option<Duration>, notified: bool) {
        self.exhausted = true;
        let pause =
            if notified { self.poll_interval } else { self.backoff.next(self.start.least_pause(), self.poll_interval) };
        let wait = due.map_or(pause, |due| due.max(self.backoff.soon()).min(pause));
        self.more = self.woken;
        let paused = self.pause_behind_gates(now);
        self.next_at = if self.woken { now.max(paused) } else { now + wait };
    }

    /// It failed, and is tried again then.
    pub(super) fn failed(&mut self, retry_at: Instant) {
        self.next_at = retry_at;
        // What it would have claimed may lie behind what another claim has.
        self.start.took = Duration::ZERO;
    }

    /// When a claim from the start may begin: soon, when there is nothing to continue with, and at once while all that
    /// claims find has gates, since no other claim finds those.
    fn start_at(&self) -> Instant {
        let times = match (self.exhausted, self.cursor.is_empty()) {
            (true, _) => 1,
            (false, true) => 0,
            (false, false) => START_PAUSE,
        };
        self.start.after(times, self.poll_interval)
    }

    /// When to claim from the start before the lane goes to sleep, after a claim that has found something. A wake-up
    /// before that is answered at once.
    fn start_before_sleep_at(&self) -> Instant {
        self.start.after(START_PAUSE, self.poll_interval).max(self.pacer.not_before)
    }
}

/// The claims from the start.
struct StartScans {
    /// When the last one ended, and how long it took.
    ended: Instant,
    took: Duration,
    /// One was overdue when a claim from the cursor went before it. It is the next one, however many wake-ups come: a
    /// job that was committed late lies behind the cursor.
    passed_over: bool,
    /// It has put jobs in their place that it did not take itself. Behind those there may be more, which no
    /// notification tells of.
    placed: bool,
}

impl StartScans {
    /// So many times as long after the last one as it took, but no longer than the limits.
    fn after(&self, times: u32, poll_interval: Duration) -> Instant {
        self.ended + (self.took * times).min(poll_interval.min(START_PAUSE_LIMIT))
    }

    /// The pause that keeps them a small share of the time.
    fn least_pause(&self) -> Duration {
        self.took * START_PAUSE
    }
}

/// Keeps claims apart while jobs come in a stream. A job that comes alone, or a second one after it, never waits for
/// this.
struct Pacer {
    /// When the last claim began that found fewer jobs than it could take.
    found_at: Option<Instant>,
    /// When the next claim may begin.
    not_before: Instant,
}

impl Pacer {
    /// A claim that began then has found some. Returns when the next one may begin, if this is a stream.
    fn pace(&mut self, began: Instant) -> Option<Instant> {
        let before = self.found_at.replace(began);
        let stream = before.is_some_and(|before| began.saturating_duration_since(before) < STREAM);
        stream.then(|| {
            self.not_before = began + PACE;
            self.not_before
        })
    }
}

/// Polls of a worker that nothing wakes. The pause doubles from poll to poll, so a job waits about as long as there was
/// none before it.
struct PollBackoff {
    pause: Duration,
    /// The least pause before the next claim, however soon something is said to be due: somebody may hold it for long.
    soon: Duration,
}

/// The longest of those least pauses.
const LONGEST_SOON: Duration = Duration::from_millis(200);

impl PollBackoff {
    fn next(&mut self, least: Duration, longest: Duration) -> Duration {
        let pause = self.pause.max(least).min(longest);
        self.pause = (self.pause * 2).min(longest);
        pause
    }

    /// Doubles from claim to claim that finds nothing.
    fn soon(&mut self) -> Duration {
        let soon = self.soon;
        self.soon = (soon * 2).clamp(Duration::from_millis(1), LONGEST_SOON);
        soon
    }

    fn reset(&mut self) {
        self.pause = SHORTEST_POLL;
        self.soon = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests;
