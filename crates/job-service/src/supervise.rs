//! Supervise: start the three parts, stop them in order.

use std::time::Duration;

use job_utils::db::Db;
use job_utils::shutdown::Shutdown;
use tokio::net::TcpListener;

use crate::{ServiceConfig, ServiceError};

/// How long the callback server goes on after the worker has ended. Functions have had the worker's grace to report; a
/// second one would not fit into the time that Docker and Kubernetes give.
const SERVER_GRACE: Duration = Duration::from_millis(1500);

/// What the parts left behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stopped {
    /// What the worker left behind.
    pub worker: job_worker::Stopped,
    /// What the scheduler left behind.
    pub scheduler: job_scheduler::Stopped,
}

pub(crate) async fn supervise(
    config: ServiceConfig,
    db: Db,
    listener: TcpListener,
    shutdown: Shutdown,
) -> Result<Stopped, ServiceError> {
    // Triggered by the caller, or when a part fails: the others must not go on half.
    let stop_working = shutdown.child();
    let stop_serving = Shutdown::new();

    let server = {
        let (db, stop, failed) = (db.clone(), stop_serving.clone(), stop_working.clone());
        let mut config = config.server;
        config.shutdown_grace = config.shutdown_grace.min(SERVER_GRACE);
        async move {
            let result = job_server::run_with(config, db, listener, stop).await;
            failed.trigger();
            result
        }
    };
    let worker = {
        let (db, stop) = (db.clone(), stop_working.clone());
        async move {
            let result = job_worker::run_with(config.worker, job_worker::Handlers::new(), db, stop.clone()).await;
            stop.trigger();
            result
        }
    };
    let scheduler = {
        let stop = stop_working.clone();
        async move {
            let result = job_scheduler::run_with(config.scheduler, db, stop.clone()).await;
            stop.trigger();
            result
        }
    };
    let working = async {
        let results = tokio::join!(worker, scheduler);
        stop_serving.trigger();
        results
    };
    let (server, (worker, scheduler)) = tokio::join!(server, working);
    let stopped = Stopped { worker: worker?, scheduler: scheduler? };
    server?;
    Ok(stopped)
}
