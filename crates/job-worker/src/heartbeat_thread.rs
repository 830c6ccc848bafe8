//! Heartbeat thread: heartbeats on a thread of their own, for as long as the worker's runtime sends none.
//!
//! A handler that blocks its thread holds up whatever shares it. On a runtime of one thread, or with as many such
//! handlers as threads, that is all of the worker. Its jobs run all the same, and must not be taken for those of a dead
//! process. While the worker's own heartbeats come, this thread sends nothing and has no connection.

use std::time::Duration;

use job_pg::WorkerDb;
use job_utils::config::in_words;
use job_utils::error::chain;
use job_utils::events::Events;
use tokio::sync::oneshot;

use crate::heartbeat::{LastHeartbeat, emit_found};

/// What a handler that runs may take longer than its task has time.
const MARGIN: Duration = Duration::from_secs(60);

/// How long a stop waits for the thread. One that hangs does no harm: none of its heartbeats is sent any more, and one
/// that Postgres carries out later does nothing ([`WorkerDb::heartbeat_apart`]).
const STOP_TIMEOUT: Duration = Duration::from_millis(2500);

/// The thread. Dropped, it ends by itself.
pub(crate) struct HeartbeatThread {
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl HeartbeatThread {
    /// Starts it. It sends heartbeats, each `interval`, for as long as the worker has sent none. Handlers may take
    /// `longest`: a worker that stands still for longer than that is as good as dead.
    pub(crate) fn start(
        db: WorkerDb,
        last: LastHeartbeat,
        interval: Duration,
        longest: Duration,
        events: Events,
    ) -> Option<Self> {
        let (stop, stopped) = oneshot::channel();
        let (ending, ended) = oneshot::channel();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => {
                    let sending = send_while_silent(&db, &last, interval, longest + MARGIN, &events, stopped);
                    runtime.block_on(sending);
                }
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
        let _ = tokio::time::timeout(STOP_TIMEOUT, self.ended).await;
    }
}

async fn send_while_silent(
    db: &WorkerDb,
    last: &LastHeartbeat,
    interval: Duration,
    longest: Duration,
    events: &Events,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut logged = false;
    loop {
        tokio::select! {
            _ = &mut stopped => return,
            () = tokio::time::sleep(interval) => {}
        }
        let age = last.age();
        // One that is merely late is not worth a connection.
        if age < 2 * interval || age > longest {
            logged &= age >= 2 * interval;
            continue;
        }
        let sent = tokio::select! {
            biased;
            _ = &mut stopped => return,
            sent = db.heartbeat_apart() => sent,
        };
        if !matches!(sent, Ok(None)) && !std::mem::replace(&mut logged, true) {
            let age = in_words(Duration::from_secs(age.as_secs()));
            match &sent {
                Ok(_) => tracing::warn!(
                    "the worker has sent no heartbeat for {age}, a thread of their own does: a handler may block its threads"
                ),
                // Whoever sends the others logs it as well.
                Err(error) => tracing::debug!("no heartbeat gets through for {age}: {}", chain(error)),
            }
        }
        if let Ok(Some(found)) = sent {
            emit_found(events, db.worker_id(), &found);
        }
    }
}
