//! Connection limit: how many connections there may be, and who gives way when others want to come.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::connection::Connection;
use super::{FEWEST, Limits};
use crate::telemetry::LogLimit;

/// How long a newcomer waits until it is looked again for somebody who can give way.
const PAUSE: Duration = Duration::from_millis(50);

/// The limit of all servers of this process together: descriptors are the process's, and half of them are for its own
/// connections.
static OF_THE_PROCESS: LazyLock<Arc<ConnectionLimit>> = LazyLock::new(|| {
    let descriptors = getrlimit(Resource::Nofile).current;
    let half = descriptors.map_or(Semaphore::MAX_PERMITS, |all| usize::try_from(all / 2).unwrap_or(usize::MAX));
    Arc::new(ConnectionLimit::new(half.clamp(FEWEST, Semaphore::MAX_PERMITS)))
});

/// How many connections there may be, and those that there are.
pub(super) struct ConnectionLimit {
    limit: usize,
    free: Arc<Semaphore>,
    taken: Mutex<HashMap<u64, Arc<Connection>>>,
    /// How many newcomers wait for room.
    waiting: watch::Sender<usize>,
    full: LogLimit,
}

/// A connection that is counted, until this is dropped.
pub(super) struct ConnectionPermit {
    room: Arc<ConnectionLimit>,
    number: u64,
    _permit: Option<OwnedSemaphorePermit>,
}

impl ConnectionLimit {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            free: Arc::new(Semaphore::new(limit)),
            taken: Mutex::default(),
            waiting: watch::Sender::new(0),
            full: LogLimit::once_a_second(),
        }
    }

    pub(super) fn of_the_process() -> &'static Arc<Self> {
        &OF_THE_PROCESS
    }

    /// How many connections there may be.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room for one more connection. Where there is none, another gives way.
    pub(super) async fn wait(&self, limits: &Limits) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = self.free.clone().try_acquire_owned() {
            return Some(permit);
        }
        if let Some(left_out) = self.full.pass() {
            let connections = self.limit;
            tracing::warn!(connections, left_out, "no more connections are taken: those waited for longest give way");
        }
        let _waits = WaitingNewcomer::begin(&self.waiting);
        loop {
            self.make(limits);
            tokio::select! {
                // It is never closed.
                permit = self.free.clone().acquire_owned() => return permit.ok(),
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    /// Makes room: closes the connection whose client has been waited for longest.
    pub(super) fn make(&self, limits: &Limits) {
        let now = Instant::now();
        let taken = self.taken();
        let turns = taken.values().filter_map(|connection| Some((connection.turn(now)?, connection)));
        if let Some((longest, connection)) = turns.max_by_key(|(turn, _)| *turn)
            && longest >= limits.least_turn
        {
            connection.close_if_waited(longest, now);
        }
    }

    /// Closes every connection whose client has had its time.
    pub(super) fn close_late(&self, limits: &Limits) {
        let now = Instant::now();
        for connection in self.taken().values() {
            connection.close_if_late(limits, now);
        }
    }

    /// Gives a connection the place that it has a permit for.
    pub(super) fn enter(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> ConnectionPermit {
        let number = connection.number();
        self.taken().insert(number, connection.clone());
        ConnectionPermit { room: self.clone(), number, _permit: permit }
    }

    pub(super) fn newcomers(&self) -> watch::Receiver<usize> {
        self.waiting.subscribe()
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.room.taken().remove(&self.number);
    }
}

/// A newcomer that waits, until it is dropped.
struct WaitingNewcomer<'a>(&'a watch::Sender<usize>);

impl<'a> WaitingNewcomer<'a> {
    fn begin(waiting: &'a watch::Sender<usize>) -> Self {
        waiting.send_modify(|newcomers| *newcomers += 1);
        Self(waiting)
    }
}

impl Drop for WaitingNewcomer<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|newcomers| *newcomers -= 1);
    }
}

/// In the extensions of every request: tells whether newcomers wait for a connection to end, since there are as many as
/// there may be.
#[derive(Debug, Clone)]
pub struct Newcomers {
    of_the_server: watch::Receiver<usize>,
    of_the_process: watch::Receiver<usize>,
}

impl Newcomers {
    pub(super) fn of(room: &ConnectionLimit) -> Self {
        Self { of_the_server: room.newcomers(), of_the_process: ConnectionLimit::of_the_process().newcomers() }
    }

    /// Whether newcomers wait now.
    pub(super) fn are_waiting(&self) -> bool {
        *self.of_the_server.borrow() > 0 || *self.of_the_process.borrow() > 0
    }

    /// Waits until newcomers wait. What is done only as a courtesy to a client ends then.
    pub async fn waiting(&self) {
        let (mut of_the_server, mut of_the_process) = (self.of_the_server.clone(), self.of_the_process.clone());
        // A server that has ended needs room, too.
        tokio::select! {
            _ = of_the_server.wait_for(|waiting| *waiting > 0) => {}
            _ = of_the_process.wait_for(|waiting| *waiting > 0) => {}
        }
    }
}
