//! Stand-in: heartbeats on a thread of their own, for as long as the worker's runtime sends none.
//!
//! A handler that blocks its thread holds up whatever shares it: on a runtime of one thread, or with as many such handlers as threads, all
//! of the worker. Its jobs run all the same, and must not be taken for those of a dead process. While the worker's own heartbeats
//! come, this thread sends nothing and has no connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use job_pg::WorkerDb;
use job_utils::config::in_words;
use job_utils::error::chain;
use tokio::sync::oneshot;

use crate::heartbeat::tell;

/// What a handler that runs may take longer than its task has time.
const MARGIN: Duration = Duration::from_secs(60);

/// How long a stop waits for the thread. One that hangs does no harm: none of its heartbeats is sent any more, and one
/// that Postgres carries out later does nothing ([`WorkerDb::heartbeat_apart`]).
const PATIENCE: Duration = Duration::from_millis(2500);

/// When the worker's own last heartbeat got through.
#[derive(Clone)]
pub(crate) struct Beats {
    origin: Instant,
    /// Milliseconds since then.
    last: Arc<AtomicU64>,
}

impl Beats {
    pub(crate) fn new() -> Self {
        Self { origin: Instant::now(), last: Arc::default() }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// One has got through.
    pub(crate) fn beat(&self) {
        self.last.store(self.now(), Ordering::Relaxed);
    }

    fn age(&self) -> Duration {
        Duration::from_millis(self.now().saturating_sub(self.last.load(Ordering::Relaxed)))
    }
}

/// The thread. Dropped, it ends by itself.
pub(crate) struct StandIn {
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl StandIn {
    /// Starts it. Handlers may take `longest`: a worker that stands still for longer than that is as good as dead.
    pub(crate) fn start(db: WorkerDb, beats: Beats, interval: Duration, longest: Duration) -> Option<Self> {
        let (stop, stopped) = oneshot::channel();
        let (ending, ended) = oneshot::channel();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(stand_in(&db, &beats, interval, longest + MARGIN, stopped)),
                Err(error) => tracing::warn!("no heartbeats on a thread of their own: {error}"),
            }
            drop(ending);
        };
        match std::thread::Builder::new().name("jobs-heartbeat".to_owned()).spawn(run) {
            Ok(_) => Some(Self { stop, ended }),
            Err(error) => {
                tracing::warn!("no heartbeats on a thread of their own: {error}");
                None
            }
        }
    }

    /// Ends it; a heartbeat under way is not waited for.
    pub(crate) async fn end(self) {
        drop(self.stop);
        let _ = tokio::time::timeout(PATIENCE, self.ended).await;
    }
}

async fn stand_in(
    db: &WorkerDb,
    beats: &Beats,
    interval: Duration,
    longest: Duration,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut said = false;
    loop {
        tokio::select! {
            _ = &mut stopped => return,
            () = tokio::time::sleep(interval) => {}
        }
        let age = beats.age();
        // One that is merely late is not worth a connection.
        if age < 2 * interval || age > longest {
            said &= age >= 2 * interval;
            continue;
        }
        let sent = tokio::select! {
            biased;
            _ = &mut stopped => return,
            sent = db.heartbeat_apart() => sent,
        };
        if !matches!(sent, Ok(None)) && !std::mem::replace(&mut said, true) {
            let age = in_words(Duration::from_secs(age.as_secs()));
            match &sent {
                Ok(_) => tracing::warn!(
                    "the worker has sent no heartbeat for {age}, a thread of their own does: a handler may block its threads"
                ),
                // Whoever sends the others tells it as well.
                Err(error) => tracing::debug!("no heartbeat gets through for {age}: {}", chain(error)),
            }
        }
        if let Ok(Some(found)) = sent {
            tell(&found);
        }
    }
}
