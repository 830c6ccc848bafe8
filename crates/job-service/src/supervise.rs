//! Supervise: start the parts, stop them in order.

use std::time::Duration;

use job_pg::Db;
use job_scheduler::SchedulerConfig;
use job_server::ServerConfig;
use job_utils::events::Events;
use job_utils::shutdown::Shutdown;
use job_worker::{Worker, WorkerError};
use tokio::net::TcpListener;

use crate::error::ServiceError;

/// How long the callback server goes on after the worker has ended. Functions have had the worker's grace to report; a
/// second one would not fit into the time that Docker and Kubernetes give.
const SERVER_GRACE: Duration = Duration::from_millis(1500);

/// What the parts left behind; nothing, where there is no such part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stopped {
    /// What the worker left behind.
    pub worker: job_worker::Stopped,
    /// What the scheduler left behind.
    pub scheduler: job_scheduler::Stopped,
}

/// The parts of a service.
pub(crate) struct Parts {
    pub(crate) db: Db,
    /// For server and scheduler; the worker has its own.
    pub(crate) events: Events,
    pub(crate) worker: Option<Worker>,
    pub(crate) server: Option<(ServerConfig, TcpListener)>,
    pub(crate) scheduler: Option<SchedulerConfig>,
}

pub(crate) async fn supervise(parts: Parts, shutdown: Shutdown) -> Result<Stopped, ServiceError> {
    let Parts { db, events, worker, server, scheduler } = parts;
    // Triggered by the caller, or when a part fails: the others must not go on half.
    let stop_working = shutdown.child();
    let stop_serving = Shutdown::new();

    // Functions that cannot call back are noticed hours later: where the URL leads is tried at once, and holds up
    // nothing.
    let identity = job_server::identity(&db);
    let probing = {
        let probe = worker.as_ref().filter(|_| server.is_some()).and_then(Worker::callback_probe);
        let (identity, stop) = (identity.clone(), stop_working.clone());
        async move {
            let Some(probe) = probe else { return };
            tokio::select! {
                () = probe.run(&identity) => {}
                () = stop.triggered() => {}
            }
        }
    };
    let server = {
        let (db, events) = (db.clone(), events.clone());
        let (stop, failed) = (stop_serving.clone(), stop_working.clone());
        async move {
            let Some((mut config, listener)) = server else { return Ok(()) };
            config.shutdown_grace = config.shutdown_grace.min(SERVER_GRACE);
            let result = job_server::run_as(identity, config, db, listener, events, stop).await;
            failed.trigger();
            result
        }
    };
    let worker = {
        let stop = stop_working.clone();
        async move {
            let Some(worker) = worker else { return Ok(job_worker::Stopped::default()) };
            let result: Result<_, WorkerError> = worker.run(stop.clone()).await;
            stop.trigger();
            result
        }
    };
    let scheduler = {
        let stop = stop_working.clone();
        async move {
            let Some(config) = scheduler else { return Ok(job_scheduler::Stopped::default()) };
            let result = job_scheduler::run_with(config, db, events, stop.clone()).await;
            stop.trigger();
            result
        }
    };
    let working = async {
        let results = tokio::join!(worker, scheduler, stop_working.triggered());
        stop_serving.trigger();
        results
    };
    let (server, (worker, scheduler, ()), ()) = tokio::join!(server, working, probing);
    let stopped = Stopped { worker: worker?, scheduler: scheduler? };
    server?;
    Ok(stopped)
}
