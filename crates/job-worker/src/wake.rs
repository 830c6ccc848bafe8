//! Wake: see to it that a worker that goes to sleep is woken, where writes notify on demand only.

use std::sync::Arc;
use std::time::Duration;

use job_pg::{Listener, Waiting, WorkerDb};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

/// The first and the longest time between two looks of a vigil.
const FIRST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(200);

/// How long a vigil waits for a transaction that stays open. After that its jobs are found by a poll.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long after a registration that failed to look and to try again.
const RETRY: Duration = Duration::from_secs(1);

/// A worker whose looks have found something for so long needs no notifications.
const BUSY: Duration = Duration::from_millis(200);

/// The wake-ups of one worker.
pub(crate) struct Vigil {
    db: WorkerDb,
    listener: Listener,
    /// Look again.
    pub(crate) again: Arc<Notify>,
    watching: JoinSet<()>,
    unregistering: Option<JoinHandle<()>>,
    /// Whether this worker may be registered.
    waiting: bool,
    /// Whether every write was found to notify, registered or not.
    always: bool,
    /// Since when every look has found something.
    busy_since: Option<Instant>,
}

impl Vigil {
    pub(crate) fn new(db: WorkerDb, listener: Listener) -> Self {
        let again = Arc::new(Notify::new());
        Self {
            db,
            listener,
            again,
            watching: JoinSet::new(),
            unregistering: None,
            waiting: false,
            always: false,
            busy_since: None,
        }
    }

    /// Whether every write wakes, without any registration: as found by the last look that found nothing. When that changes,
    /// the change itself wakes.
    pub(crate) fn always_woken(&self) -> bool {
        self.always
    }

    /// A look has found nothing, and the worker goes to sleep. It registers as a waiter, and looks again until everything
    /// is visible that was written before the registration: whoever wrote it may not have known of the waiter.
    pub(crate) fn found_nothing(&mut self, on_demand: bool) {
        self.busy_since = None;
        // Nothing wakes who cannot listen: it polls.
        let deaf = self.listener.is_deaf();
        self.always = !on_demand && !deaf;
        while self.watching.try_join_next().is_some() {}
        if !on_demand || deaf || !self.watching.is_empty() {
            return;
        }
        self.waiting = true;
        let (db, listener, again) = (self.db.clone(), self.listener.clone(), self.again.clone());
        let unregistering = self.unregistering.take();
        self.watching.spawn(async move {
            if let Some(unregistering) = unregistering {
                // In this order; that it may have been lost does no harm.
                let _ = unregistering.await;
            }
            watch(db, listener, again).await;
        });
    }

    /// A look has found something. Who is busy does not wait: writes need not notify for its sake, unless a part of it is
    /// `asleep`.
    pub(crate) fn found_something(&mut self, asleep: bool) {
        let busy_since = *self.busy_since.get_or_insert_with(Instant::now);
        if asleep || !self.waiting || busy_since.elapsed() < BUSY {
            return;
        }
        self.waiting = false;
        self.watching.abort_all();
        let listener = self.listener.clone();
        self.unregistering = Some(tokio::spawn(async move { listener.unregister_waiter().await }));
    }
}

async fn watch(db: WorkerDb, listener: Listener, again: Arc<Notify>) {
    let horizon = match listener.register_waiter().await {
        Waiting::Sure => return,
        Waiting::Until(horizon) => horizon,
        Waiting::Unregistered => {
            // The look that finds nothing begins anew.
            sleep(RETRY).await;
            again.notify_one();
            return;
        }
    };
    let (deadline, mut pause) = (Instant::now() + PATIENCE, FIRST);
    loop {
        // Asked before the look: what is visible by then is found by it.
        let passed = db.horizon_passed(horizon).await.unwrap_or(false);
        again.notify_one();
        if passed || Instant::now() > deadline {
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST);
    }
}
