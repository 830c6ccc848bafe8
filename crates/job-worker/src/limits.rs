//! Limits: those of JOBS_TASKS, which a worker sets at its start for all workers.

use std::time::Duration;

use job_pg::{AdminDb, Db, Gate, GateError};
use job_utils::backoff::Backoff;
use job_utils::error::chain;

use crate::config::AllTasks;

/// Sets the limits that differ from what is set; tries again what may succeed a little later.
///
/// # Errors
/// The first that cannot be set, with its task.
pub(crate) async fn set_limits(db: &Db, tasks: &AllTasks) -> Result<(), (String, GateError)> {
    let admin = AdminDb::new(db.clone());
    for (task, limit) in tasks.limits() {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            let set = async {
                let gates = admin.gates().await?;
                let now = gates.iter().find(|gate| gate.kind == "task" && gate.name == task);
                // What is set already needs no right, and keeps no claim waiting.
                if now.map(|gate| gate.limit).unwrap_or_default() == limit {
                    return Ok(());
                }
                admin.set_limit(Gate::Task(task), limit).await
            };
            let error = match set.await {
                Ok(()) => break,
                Err(error) => error,
            };
            match &error {
                GateError::Busy(_) => {}
                GateError::Db(db) if db.is_transient() => {}
                _ => return Err((task.to_owned(), error)),
            }
            tracing::warn!("cannot set the limit of {task} yet: {}", chain(&error));
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }
    Ok(())
}
