//! Wake: see to it that a worker that goes to sleep is woken, where writes notify on demand only.

use std::sync::Arc;
use std::time::Duration;

use job_utils::db::{Listener, Waiting, WorkerDb};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// The first and the longest time between two looks of a vigil.
const FIRST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(200);

/// How long a vigil waits for a transaction that stays open. After that its jobs are found by a poll.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long after a registration that failed to look and to try again.
const RETRY: Duration = Duration::from_secs(1);

/// A worker that has found work in every look for so long needs no notifications.
const BUSY: Duration = Duration::from_millis(200);

/// The wake-ups of one worker.
pub(crate) struct Vigil {
    db: WorkerDb,
    listener: Listener,
    /// Look again.
    pub(crate) again: Arc<Notify>,
    under_way: JoinSet<()>,
    /// Whether this worker may be registered.
    waiting: bool,
    /// When a look last found nothing.
    idle: Instant,
}

impl Vigil {
    pub(crate) fn new(db: WorkerDb, listener: Listener) -> Self {
        let again = Arc::new(Notify::new());
        Self { db, listener, again, under_way: JoinSet::new(), waiting: false, idle: Instant::now() }
    }

    /// A look has found nothing, and the worker goes to sleep. It registers as a waiter, and looks again until everything
    /// is visible that was written before the registration: whoever wrote it may not have known of the waiter.
    pub(crate) fn found_nothing(&mut self, on_demand: bool) {
        self.idle = Instant::now();
        while self.under_way.try_join_next().is_some() {}
        if !on_demand || !self.under_way.is_empty() {
            return;
        }
        self.waiting = true;
        self.under_way.spawn(watch(self.db.clone(), self.listener.clone(), self.again.clone()));
    }

    /// A look has found something. Who is busy does not wait: writes need not notify for its sake.
    pub(crate) fn found_something(&mut self) {
        if !self.waiting || self.idle.elapsed() < BUSY {
            return;
        }
        self.waiting = false;
        self.under_way.abort_all();
        let listener = self.listener.clone();
        self.under_way.spawn(async move { listener.unregister_waiter().await });
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
