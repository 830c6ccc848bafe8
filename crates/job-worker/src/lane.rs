//! Lane: a share of a worker's tasks that is looked for by itself, and when to look for them next.

use std::sync::Arc;
use std::time::Duration;

use crate::config::WorkerConfig;
use job_pg::Position;
use tokio::time::Instant;

/// After a look from the beginning, the next one waits this many times as long as it took, while looks find as much as they
/// can take; else as long as it took.
const DEEP_PAUSE: u32 = 20;

/// The longest such wait, and never longer than the poll interval.
const DEEP_PAUSE_LIMIT: Duration = Duration::from_secs(60);

/// Without notifications: the time from a look that has found nothing to the next one, when the one before it has found
/// something. It doubles from look to look, up to the poll interval, so a job waits about as long as there was none before it.
const SHORTEST_POLL: Duration = Duration::from_millis(20);

/// While jobs come in a stream, looks begin at least so far apart: each then finds some jobs rather than one, which costs a
/// statement all the same. A job that comes alone, or a second one after it, never waits for this.
const PACE: Duration = Duration::from_millis(1);

/// Looks that find jobs within this time of each other meet a stream.
const STREAM: Duration = Duration::from_millis(3);

/// The tasks that a claim is for, and where it stands.
pub(crate) struct Lane {
    pub(crate) tasks: Option<Arc<[String]>>,
    pub(crate) excluded: Arc<[String]>,
    pub(crate) position: Position,
    /// Whether the last look may have left due jobs behind.
    pub(crate) more: bool,
    /// Looks under way: one as a rule, two while they find as much as they can take.
    pub(crate) looks: usize,
    /// How many jobs they may bring.
    pub(crate) claiming: usize,
    /// Woken since the last look began: what is new most likely lies ahead of the position.
    notified: bool,
    /// A look from the beginning was overdue when one ahead went before it. It is the next, however many wake-ups come: what was
    /// committed late lies behind the position.
    passed_over: bool,
    /// Woken during the look under way, which may have been too early to see why.
    pub(crate) woken: bool,
    pub(crate) next_look: Instant,
    /// Whether the last look has found less than it could take.
    pub(crate) exhausted: bool,
    /// When the last look began that found something.
    found_at: Option<Instant>,
    /// In a stream of jobs: when the next look may begin.
    pub(crate) not_before: Instant,
    /// How long to pause before the next poll, where nothing wakes.
    poll: Duration,
    /// When the last look from the beginning ended, and how long it took.
    pub(crate) deep_ended: Instant,
    pub(crate) deep_took: Duration,
}

impl Lane {
    pub(crate) fn new((tasks, excluded): Filter, now: Instant) -> Self {
        Self {
            tasks,
            excluded,
            position: Position::default(),
            more: true,
            looks: 0,
            claiming: 0,
            notified: false,
            passed_over: false,
            woken: false,
            next_look: now,
            exhausted: true,
            found_at: None,
            not_before: now,
            poll: SHORTEST_POLL,
            deep_ended: now,
            deep_took: Duration::ZERO,
        }
    }

    /// When a look may start from the beginning: soon, when there is nothing to continue with.
    pub(crate) fn deep_at(&self, poll_interval: Duration) -> Instant {
        self.deep_after(if self.exhausted { 1 } else { DEEP_PAUSE }, poll_interval)
    }

    /// When to look from the beginning before going to sleep, when the last look has found something: who wakes the lane until
    /// then is looked for at once.
    pub(crate) fn last_look_at(&self, poll_interval: Duration) -> Instant {
        self.deep_after(DEEP_PAUSE, poll_interval).max(self.not_before)
    }

    fn deep_after(&self, times: u32, poll_interval: Duration) -> Instant {
        self.deep_ended + (self.deep_took * times).min(poll_interval.min(DEEP_PAUSE_LIMIT))
    }

    /// Whether the next look goes on from the position although one from the beginning is due.
    pub(crate) fn goes_ahead(&self) -> bool {
        self.notified && !self.passed_over
    }

    /// A look for up to `limit` jobs begins.
    pub(crate) fn begin(&mut self, limit: usize, ahead: bool, poll_interval: Duration) {
        self.passed_over |= ahead && Instant::now() >= self.last_look_at(poll_interval);
        self.looks += 1;
        self.claiming += limit;
        (self.notified, self.woken) = (false, false);
    }

    /// A look for up to `limit` jobs has ended.
    pub(crate) fn end(&mut self, limit: usize) {
        self.looks -= 1;
        self.claiming -= limit;
    }

    /// It was one from the beginning, it succeeded, and it took so long.
    pub(crate) fn end_deep(&mut self, took: Duration) {
        (self.deep_ended, self.deep_took) = (Instant::now(), took);
        self.passed_over = false;
    }

    /// A look from the beginning has found nothing, and nothing will wake: how long to pause. Such looks, too, take a small part
    /// of the time only.
    pub(crate) fn pause(&mut self, poll_interval: Duration) -> Duration {
        let pause = self.poll.max(self.deep_took * DEEP_PAUSE).min(poll_interval);
        self.poll = (self.poll * 2).min(poll_interval);
        pause
    }

    /// A look has found something.
    pub(crate) fn busy(&mut self) {
        self.poll = SHORTEST_POLL;
    }

    /// Whether a look may start beside those under way. A second one keeps the database at it while the jobs of the first
    /// are on their way; it comes upon those on its way, and passes them by.
    pub(crate) fn may_look(&self) -> bool {
        self.looks == 0 || self.looks == 1 && !self.exhausted
    }

    /// There may be something to find. While looks fail, they keep their pace.
    pub(crate) fn wake(&mut self, failing: bool) {
        self.more = true;
        self.notified = true;
        self.woken = true;
        if !failing {
            self.next_look = Instant::now().max(self.not_before);
        }
    }

    /// A look that began at `began` has found jobs, but fewer than it could take.
    pub(crate) fn pace(&mut self, began: Instant) {
        let before = self.found_at.replace(began);
        if before.is_some_and(|before| began.saturating_duration_since(before) < STREAM) {
            self.not_before = began + PACE;
            self.next_look = self.not_before;
        }
    }
}

/// Only these tasks (None: any), and not those.
pub(crate) type Filter = (Option<Arc<[String]>>, Arc<[String]>);

/// The lanes of a configuration, each with how many jobs it may run: one for all tasks without a limit, one for each with.
pub(crate) fn lanes(config: &WorkerConfig) -> Vec<(usize, Filter)> {
    let limited = |task: &String| config.task_concurrency.contains_key(task);
    let none: Arc<[String]> = Arc::default();
    let general: Filter = match config.tasks.as_filter() {
        None => (None, config.task_concurrency.keys().cloned().collect()),
        Some(tasks) => (Some(tasks.iter().filter(|task| !limited(task)).cloned().collect()), none.clone()),
    };
    let mut lanes = Vec::new();
    // When every task it supports has a lane of its own, there is nothing to look for.
    if general.0.as_ref().is_none_or(|tasks| !tasks.is_empty()) {
        let limit = config.task_settings.rest.concurrency.unwrap_or(config.concurrency);
        lanes.push((limit.min(config.concurrency), general));
    }
    for (task, limit) in &config.task_concurrency {
        if config.tasks.include(task) {
            lanes.push((*limit, (Some(Arc::new([task.clone()])), none.clone())));
        }
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_put_off_in_a_stream_of_jobs_and_not_for_a_job_or_two() {
        let start = Instant::now() + Duration::from_secs(3600);
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut lane = Lane::new((None, Arc::default()), Instant::now());
        lane.pace(at(0));
        lane.wake(false);
        assert!(lane.next_look < start, "a lone job");
        lane.pace(at(20));
        lane.wake(false);
        assert!(lane.next_look < start, "another one later");
        lane.pace(at(22));
        lane.wake(false);
        assert_eq!(lane.next_look, at(22) + PACE, "a stream");
    }

    #[test]
    fn pauses_grow_from_poll_to_poll_until_a_job_comes() {
        let poll_interval = Duration::from_millis(100);
        let mut lane = Lane::new((None, Arc::default()), Instant::now());
        let pauses = |lane: &mut Lane| [(); 4].map(|()| lane.pause(poll_interval).as_millis());
        assert_eq!(pauses(&mut lane), [20, 40, 80, 100]);
        assert_eq!(pauses(&mut lane), [100; 4]);
        lane.busy();
        assert_eq!(pauses(&mut lane), [20, 40, 80, 100]);
        // A look that takes long is not repeated at once.
        lane.busy();
        lane.end_deep(Duration::from_millis(3));
        assert_eq!(pauses(&mut lane), [60, 60, 80, 100]);
    }

    #[test]
    fn an_overdue_look_from_the_beginning_is_passed_over_once() {
        let poll_interval = Duration::from_secs(5);
        let mut lane = Lane::new((None, Arc::default()), Instant::now());
        // Not overdue for 5 s: however many wake-ups come, looks go ahead.
        lane.end_deep(Duration::from_secs(60));
        for _ in 0..3 {
            lane.wake(false);
            assert!(lane.goes_ahead());
            lane.begin(9, true, poll_interval);
            lane.end(9);
        }
        // Overdue at once.
        lane.end_deep(Duration::ZERO);
        lane.wake(false);
        assert!(lane.goes_ahead());
        lane.begin(9, true, poll_interval);
        lane.end(9);
        lane.wake(false);
        assert!(!lane.goes_ahead(), "its turn has come");
        lane.begin(9, false, poll_interval);
        lane.end(9);
        lane.end_deep(Duration::ZERO);
        lane.wake(false);
        assert!(lane.goes_ahead());
    }
}
