//! Waiter registration: see to it that a worker that goes to sleep is woken, where writes notify on demand only.

use std::sync::Arc;
use std::time::Duration;

use job_pg::{Listener, WaiterState, WorkerDb};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

/// The first and the longest time between two claims after a registration.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// How long to wait for a transaction that was open at the registration. After that its jobs are found by a poll.
const OPEN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(5);

/// How long after a registration that failed to claim and to try again.
const RETRY: Duration = Duration::from_secs(1);

/// A worker whose claims have found something for so long needs no notifications.
const BUSY: Duration = Duration::from_millis(200);

/// What wakes one worker.
pub(super) struct WaiterRegistration {
    db: WorkerDb,
    listener: Listener,
    /// Claim again.
    again: Arc<Notify>,
    /// Registers, and then has the worker claim again and again until nothing can have been missed.
    registering: JoinSet<()>,
    unregistering: Option<JoinHandle<()>>,
    /// Whether this worker may be registered.
    registered: bool,
    /// Whether every write was found to notify, registered or not.
    always_notified: bool,
    /// Since when every claim has found something.
    busy_since: Option<Instant>,
}

impl WaiterRegistration {
    pub(super) fn new(db: WorkerDb, listener: Listener) -> Self {
        Self {
            db,
            listener,
            again: Arc::new(Notify::new()),
            registering: JoinSet::new(),
            unregistering: None,
            registered: false,
            always_notified: false,
            busy_since: None,
        }
    }

    /// Waits until there may be something to claim.
    pub(super) async fn woken(&self) {
        tokio::select! {
            biased;
            () = self.listener.wake.woken() => {}
            () = self.again.notified() => {}
        }
    }

    /// Whether every write wakes, without any registration: as found by the last claim that found nothing. When that
    /// changes, the change itself wakes.
    pub(super) fn always_notified(&self) -> bool {
        self.always_notified
    }

    /// A claim from the start has found nothing, and the worker goes to sleep. It registers as a waiter, and claims
    /// again until everything is visible that was written before the registration: whoever wrote it may not have known
    /// of the waiter.
    pub(super) fn found_nothing(&mut self, on_demand: bool) {
        self.busy_since = None;
        // A worker that is not listening is never notified. It polls.
        let listening = self.listener.is_listening();
        self.always_notified = !on_demand && listening;
        while self.registering.try_join_next().is_some() {}
        if !on_demand || !listening || !self.registering.is_empty() {
            return;
        }
        self.registered = true;
        let (db, listener, again) = (self.db.clone(), self.listener.clone(), self.again.clone());
        let unregistering = self.unregistering.take();
        self.registering.spawn(async move {
            if let Some(unregistering) = unregistering {
                // In this order; that it may have been lost does no harm.
                let _ = unregistering.await;
            }
            register(db, listener, again).await;
        });
    }

    /// A claim has found something. A busy worker does not wait, so writes need not notify for its sake; unless one of
    /// its lanes is `asleep`.
    pub(super) fn found_something(&mut self, asleep: bool) {
        let busy_since = *self.busy_since.get_or_insert_with(Instant::now);
        if asleep || !self.registered || busy_since.elapsed() < BUSY {
            return;
        }
        self.registered = false;
        self.registering.abort_all();
        let listener = self.listener.clone();
        self.unregistering = Some(tokio::spawn(async move { listener.unregister_waiter().await }));
    }
}

async fn register(db: WorkerDb, listener: Listener, again: Arc<Notify>) {
    let horizon = match listener.register_waiter().await {
        WaiterState::Registered => return,
        WaiterState::Until(horizon) => horizon,
        WaiterState::Unregistered => {
            // The claim that finds nothing begins anew.
            sleep(RETRY).await;
            again.notify_one();
            return;
        }
    };
    let (deadline, mut pause) = (Instant::now() + OPEN_TRANSACTION_TIMEOUT, FIRST_PAUSE);
    loop {
        // Asked before the claim: what is visible by then is found by it.
        let passed = db.horizon_passed(horizon).await.unwrap_or(false);
        again.notify_one();
        if passed || Instant::now() > deadline {
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
