//! Claim: keep the worker's places full with due jobs.
//!
//! Look when woken (a notification, a reconnection), when the next waiting job is due, when a place is free and there
//! may be more, and at every poll interval as a net. A look that finds nothing goes to sleep; a wake-up that came during
//! the look was registered before it, so it is not lost.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use job_utils::backoff::Backoff;
use job_utils::config::{Tasks, WorkerConfig, in_words};
use job_utils::db::{Claimed, Listener, Settler, WorkerDb};
use job_utils::error::chain;
use job_utils::shutdown::Shutdown;
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;

use crate::Stopped;
use crate::dispatch::Dispatcher;
use crate::drain::drain;

/// How late the end of an overdue job may be noticed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// How long a stop waits for a claim under way at most. What it claims is known then, and need not be found out.
const CLAIM_PATIENCE: Duration = Duration::from_secs(1);

/// Claims jobs and starts their dispatch.
pub(crate) struct Claimer {
    pub(crate) db: WorkerDb,
    pub(crate) grace: Duration,
    pub(crate) in_flight: InFlight,
    pub(crate) listener: Listener,
    /// Jobs that functions have accepted, as last seen.
    pub(crate) accepted: usize,
    /// When the stop began.
    pub(crate) stopped: OnceLock<Instant>,
    settler: Settler,
    dispatcher: Arc<Dispatcher>,
    tasks: Tasks,
    concurrency: usize,
    poll_interval: Duration,
    /// When a lock no longer counts: never before its holder has had the time to find the callback overdue.
    job_expiry: Duration,
    callback_timeout: Duration,
    sweep_interval: Duration,
    /// The sweep under way; it returns how many jobs are held, when somebody needs to know.
    sweep: JoinSet<Option<usize>>,
    /// Whether the last look may have left due jobs behind.
    more: bool,
    next_look: Instant,
    next_sweep: Instant,
    backoff: Backoff,
    failing: bool,
}

/// The jobs that are being dispatched.
#[derive(Default)]
pub(crate) struct InFlight {
    tasks: JoinSet<bool>,
    jobs: HashMap<Id, i64>,
}

impl InFlight {
    fn start(&mut self, job_id: i64, dispatch: impl Future<Output = bool> + Send + 'static) {
        let handle = self.tasks.spawn(dispatch);
        self.jobs.insert(handle.id(), job_id);
    }

    /// Waits until one dispatch has ended, and returns whether its job was accepted; None when there is none.
    pub(crate) async fn ended(&mut self) -> Option<bool> {
        let (id, accepted) = match self.tasks.join_next_with_id().await? {
            Ok(ended) => ended,
            Err(error) => {
                // A panic in our own code: the job's lock stays until it is released or expires.
                tracing::error!("a dispatch was lost: {error}");
                (error.id(), false)
            }
        };
        self.jobs.remove(&id);
        Some(accepted)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Their ids.
    pub(crate) fn ids(&self) -> Vec<i64> {
        self.jobs.values().copied().collect()
    }

    /// Stops them where they are.
    pub(crate) async fn abort(&mut self) {
        self.tasks.shutdown().await;
        self.jobs.clear();
    }
}

impl Claimer {
    pub(crate) fn new(
        config: &WorkerConfig,
        db: WorkerDb,
        settler: Settler,
        dispatcher: Arc<Dispatcher>,
        listener: Listener,
    ) -> Self {
        let sweep_interval = config.poll_interval.min(SWEEP_INTERVAL).min(config.callback_timeout);
        Self {
            db,
            grace: config.shutdown_grace,
            in_flight: InFlight::default(),
            listener,
            accepted: 0,
            stopped: OnceLock::new(),
            settler,
            dispatcher,
            tasks: config.tasks.clone(),
            concurrency: config.concurrency,
            poll_interval: config.poll_interval,
            job_expiry: config.job_expiry.max(config.callback_timeout.saturating_add(2 * sweep_interval)),
            callback_timeout: config.callback_timeout,
            sweep_interval,
            sweep: JoinSet::new(),
            more: true,
            next_look: Instant::now(),
            next_sweep: Instant::now(),
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(1)),
            failing: false,
        }
    }

    /// Claims until told to stop, then drains.
    pub(crate) async fn run(mut self, shutdown: &Shutdown) -> Stopped {
        while !shutdown.is_triggered() {
            if self.more && self.in_flight.len() < self.concurrency && self.next_look <= Instant::now() {
                self.look(shutdown).await;
                continue;
            }
            tokio::select! {
                () = shutdown.triggered() => {}
                () = self.listener.wake.woken() => self.look_now(),
                Some(accepted) = self.in_flight.ended() => self.accepted += usize::from(accepted),
                Some(swept) = self.sweep.join_next() => self.swept(swept.ok().flatten()),
                () = tokio::time::sleep_until(self.next_look.max(Instant::now())), if self.waits_for_time() => self.more = true,
                () = tokio::time::sleep_until(self.next_sweep) => self.start_sweep(),
            }
        }
        drain(self).await
    }

    /// With every place taken, time alone gives nothing to do.
    fn waits_for_time(&self) -> bool {
        self.in_flight.len() < self.concurrency
    }

    fn look_now(&mut self) {
        self.more = true;
        if !self.failing {
            self.next_look = Instant::now();
        }
    }

    /// One look: claims as many jobs as there are free places and starts them. A stop lets it end, so that what it claimed
    /// is known; but one that hangs cannot hold up the stop. It is cancelled, and what it may have claimed all the same is
    /// given back with everything else that is held.
    async fn look(&mut self, shutdown: &Shutdown) {
        let free = self.concurrency - self.in_flight.len();
        let hanging = async {
            shutdown.triggered().await;
            let stopped = *self.stopped.get_or_init(Instant::now);
            tokio::time::sleep_until(stopped + CLAIM_PATIENCE.min(self.grace / 2)).await;
        };
        let claimed = tokio::select! {
            claimed = self.db.claim(self.tasks.as_filter(), free, self.job_expiry) => claimed,
            () = hanging => {
                tracing::warn!("a claim hangs: stopping without it");
                return;
            }
        };
        match claimed {
            Ok(Claimed::Nothing(due)) => {
                self.recovered();
                self.more = false;
                self.next_look = Instant::now() + due.map_or(self.poll_interval, |due| due.min(self.poll_interval));
            }
            Ok(Claimed::Jobs(jobs)) => {
                self.recovered();
                for job in jobs {
                    let (id, dispatcher) = (job.id, self.dispatcher.clone());
                    let (settler, worker_id) = (self.settler.clone(), self.db.worker_id().to_owned());
                    self.in_flight.start(id, async move { dispatcher.run(&job, &worker_id, &settler).await });
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!("cannot claim, trying again: {}", chain(&error));
                }
                self.next_look = Instant::now() + self.backoff.next_wait();
            }
        }
    }

    fn recovered(&mut self) {
        if std::mem::take(&mut self.failing) {
            tracing::info!("claiming again");
            self.backoff.reset();
        }
    }

    /// Fails accepted jobs whose callback never came, in a task of its own: a row that somebody holds must not hold up the
    /// claims.
    fn start_sweep(&mut self) {
        self.next_sweep = Instant::now() + self.sweep_interval;
        if !self.sweep.is_empty() {
            return;
        }
        let (db, limit, in_flight) = (self.db.clone(), self.callback_timeout, self.in_flight.ids());
        let count = self.accepted > 0;
        self.sweep.spawn(async move {
            let message = format!("no callback within {}", in_words(limit));
            // Jobs claimed from now on are not among those in flight, but not yet overdue either.
            match db.fail_overdue(limit, &message, &in_flight).await {
                Ok(ids) => {
                    for id in ids {
                        tracing::warn!(job.id = id, "job failed: {message}");
                    }
                }
                Err(error) => tracing::debug!("cannot look for overdue callbacks: {}", chain(&error)),
            }
            if !count {
                return None;
            }
            db.held().await.ok().and_then(|held| usize::try_from(held).ok())
        });
    }

    /// After a sweep: many of the accepted jobs may have been called back, here or elsewhere.
    fn swept(&mut self, held: Option<usize>) {
        if let Some(held) = held {
            self.accepted = held.saturating_sub(self.in_flight.len());
        }
    }
}
