//! Claim: keep the worker's places full with due jobs.
//!
//! Look when woken (a notification, a reconnection), when the next waiting job is due, when a place is free and there
//! may be more, and at every poll interval as a net. A look that finds nothing goes to sleep; a wake-up that came during
//! the look was registered before it, so it is not lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use job_utils::backoff::Backoff;
use job_utils::config::{Tasks, WorkerConfig};
use job_utils::db::{Claimed, Identity, Settler, Wake, WorkerDb};
use job_utils::error::chain;
use job_utils::shutdown::Shutdown;
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;

use crate::Stopped;
use crate::dispatch::Dispatcher;
use crate::drain::drain;

/// How late the end of an overdue job may be noticed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Claims jobs and starts their dispatch.
pub(crate) struct Claimer {
    pub(crate) db: WorkerDb,
    pub(crate) grace: Duration,
    pub(crate) in_flight: InFlight,
    settler: Settler,
    dispatcher: Arc<Dispatcher>,
    wake: Wake,
    tasks: Tasks,
    concurrency: usize,
    poll_interval: Duration,
    job_expiry: Duration,
    callback_timeout: Duration,
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
    tasks: JoinSet<()>,
    jobs: HashMap<Id, i64>,
}

impl InFlight {
    fn start(&mut self, job_id: i64, dispatch: impl Future<Output = ()> + Send + 'static) {
        let handle = self.tasks.spawn(dispatch);
        self.jobs.insert(handle.id(), job_id);
    }

    /// Waits until one job has ended; None when there is none.
    pub(crate) async fn ended(&mut self) -> Option<()> {
        let id = match self.tasks.join_next_with_id().await? {
            Ok((id, ())) => id,
            Err(error) => {
                // A panic in our own code: the job's lock stays until it is released or expires.
                tracing::error!("a dispatch was lost: {error}");
                error.id()
            }
        };
        self.jobs.remove(&id);
        Some(())
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
        wake: Wake,
    ) -> Self {
        Self {
            db,
            grace: config.shutdown_grace,
            in_flight: InFlight::default(),
            settler,
            dispatcher,
            wake,
            tasks: config.tasks.clone(),
            concurrency: config.concurrency,
            poll_interval: config.poll_interval,
            job_expiry: config.job_expiry,
            callback_timeout: config.callback_timeout,
            more: true,
            next_look: Instant::now(),
            next_sweep: Instant::now(),
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(1)),
            failing: false,
        }
    }

    /// Claims until told to stop, then drains.
    pub(crate) async fn run(mut self, shutdown: &Shutdown, identity: Identity) -> Stopped {
        while !shutdown.is_triggered() {
            if self.more && self.in_flight.len() < self.concurrency && self.next_look <= Instant::now() {
                self.look().await;
                continue;
            }
            tokio::select! {
                () = shutdown.triggered() => {}
                () = self.wake.woken() => self.look_now(),
                Some(()) = self.in_flight.ended() => {}
                () = tokio::time::sleep_until(self.next_look.max(Instant::now())), if self.waits_for_time() => self.more = true,
                () = tokio::time::sleep_until(self.next_sweep) => self.sweep().await,
            }
        }
        drain(self, identity).await
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

    /// One look: claims as many jobs as there are free places and starts them.
    async fn look(&mut self) {
        let free = self.concurrency - self.in_flight.len();
        match self.db.claim(self.tasks.as_filter(), free, self.job_expiry).await {
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

    /// Fails accepted jobs whose callback never came.
    async fn sweep(&mut self) {
        self.next_sweep = Instant::now() + self.poll_interval.min(SWEEP_INTERVAL).min(self.callback_timeout);
        let message = format!("no callback within {}", in_words(self.callback_timeout));
        match self.db.fail_overdue(self.callback_timeout, &message, &self.in_flight.ids()).await {
            Ok(ids) => {
                for id in ids {
                    tracing::warn!(job.id = id, "job failed: {message}");
                }
            }
            Err(error) => tracing::debug!("cannot look for overdue callbacks: {}", chain(&error)),
        }
    }
}

/// A duration as one would write it in a setting.
pub(crate) fn in_words(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    match (seconds, millis) {
        (seconds, 0) if seconds > 0 && seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        (seconds, 0) if seconds > 0 && seconds % 60 == 0 => format!("{}m", seconds / 60),
        (seconds, 0) => format!("{seconds}s"),
        _ => format!("{}ms", duration.as_millis()),
    }
}
