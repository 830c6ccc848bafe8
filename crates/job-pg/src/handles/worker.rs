//! The worker's handle: claim, settle by a [`Settler`](crate::Settler), accept, release, and the heartbeat. Nothing
//! else.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::connection::Db;
use crate::error::DbError;
use crate::jobs::claim::{ClaimReply, ClaimRequest, Job, RefusedJob};
use crate::jobs::heartbeat::{Heartbeat, Instance, Running};
use crate::jobs::hosts::{HostFailure, HostNews, HostVerdict};
use crate::jobs::{CancelledAttempt, Interrupted};
use crate::listener::Horizon;
use crate::listener::Listener;
use crate::schema::NotReady;

/// What a worker may do in the database, under its id and as an instance of it.
#[derive(Clone)]
pub struct WorkerDb {
    db: Db,
    worker_id: Arc<str>,
    instance: Arc<Instance>,
}

impl WorkerDb {
    /// A handle for an instance of the worker `worker_id`.
    pub fn new(db: Db, worker_id: impl Into<Arc<str>>, instance: Instance) -> Self {
        Self { db, worker_id: worker_id.into(), instance: Arc::new(instance) }
    }

    /// The id that claims are held under.
    pub fn worker_id(&self) -> &Arc<str> {
        &self.worker_id
    }

    /// The process that claims.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Claims due jobs; returns them in order.
    pub async fn claim(&self, claim: ClaimRequest<'_>) -> Result<ClaimReply, DbError> {
        self.db.claim(&self.worker_id, &self.instance, claim).await
    }

    /// The jobs that careful claims leave out at this moment, a thousand at most.
    ///
    /// # Errors
    /// The database did not say.
    pub async fn refused_jobs(&self) -> Result<Vec<RefusedJob>, DbError> {
        self.db.refused_jobs().await
    }

    /// About how many bytes a claimed job's payload has; None when the claim no longer stands.
    ///
    /// # Errors
    /// The database did not say.
    pub async fn payload_size(&self, job: &Job) -> Result<Option<usize>, DbError> {
        self.db.payload_size(job).await
    }

    /// Brings a claimed job's payload, of about `size` bytes; false when the claim no longer stands. Dropped, it
    /// cancels the statement.
    ///
    /// # Errors
    /// The database did not bring it.
    pub async fn load_payload(&self, job: &mut Job, size: usize) -> Result<bool, DbError> {
        self.db.load_payload(job, size).await
    }

    /// Whether the database answers and has the schema.
    ///
    /// # Errors
    /// What is missing.
    pub async fn ready(&self) -> Result<(), NotReady> {
        self.db.ready().await
    }

    /// Shows that this instance lives, and looks after the jobs of others. The first heartbeat registers it.
    pub async fn heartbeat(&self) -> Result<Heartbeat, DbError> {
        self.db.heartbeat(&self.worker_id, &self.instance, &Running::default(), Duration::MAX).await
    }

    /// [`WorkerDb::heartbeat`] for an instance that is registered, and asks whether the claims of what is `running`
    /// still stand; by the listening connection when the pool's do not get through: all in use by something slow, say,
    /// or none to be had because the server has no more.
    pub async fn heartbeat_by(&self, listener: &Listener, running: Running) -> Result<Heartbeat, DbError> {
        match self.db.heartbeat(&self.worker_id, &self.instance, &running, self.instance.heartbeat_timeout()).await {
            Err(error) if error.is_transient() => {
                listener.heartbeat(self.worker_id.clone(), self.instance.clone(), running).await.ok_or(error)
            }
            result => result,
        }
    }

    /// [`WorkerDb::heartbeat`] for an instance that is registered, on a connection of its own: for a runtime beside the
    /// one that drives all others. Of an instance that is not registered, or no longer, nothing is written: None.
    ///
    /// # Errors
    /// It did not get through.
    pub async fn heartbeat_apart(&self) -> Result<Option<Heartbeat>, DbError> {
        self.db.heartbeat_apart(&self.worker_id, &self.instance).await
    }

    /// How long this instance may be silent.
    pub fn lease(&self) -> Duration {
        self.instance.lease
    }

    /// Other instances of this worker id whose session has ended, or is just connecting anew.
    pub async fn ended(&self) -> Result<Vec<Uuid>, DbError> {
        self.db.ended(&self.worker_id, self.instance.id).await
    }

    /// Takes back the jobs of those of the `ended` instances whose session still has not come back.
    pub async fn take_back(&self, ended: &[Uuid]) -> Result<Interrupted, DbError> {
        self.db.take_back(&self.worker_id, self.instance.id, ended).await
    }

    /// Interrupts what is locked for this instance although it does not know of it; it knows of the claims with the
    /// epochs `kept`.
    pub async fn interrupt_unknown(&self, reason: &str, kept: &[i64]) -> Result<Interrupted, DbError> {
        self.db.interrupt(self.instance.id, reason, kept).await
    }

    /// The attempts of this instance that somebody has cancelled, until they are forgotten.
    ///
    /// # Errors
    /// The database did not say.
    pub async fn cancelled_attempts(&self) -> Result<Vec<CancelledAttempt>, DbError> {
        self.db.cancelled_attempts(self.instance.id).await
    }

    /// This instance knows that the attempts with these epochs have been cancelled.
    ///
    /// # Errors
    /// The database did not do it.
    pub async fn forget_cancelled(&self, epochs: &[i64]) -> Result<(), DbError> {
        self.db.forget_cancelled(self.instance.id, epochs).await
    }

    /// Whether every transaction has ended that may have written jobs without waking this waiter. Claim once more after
    /// that, then sleep.
    pub async fn horizon_passed(&self, horizon: Horizon) -> Result<bool, DbError> {
        self.db.horizon_passed(horizon).await
    }

    /// Functions have accepted these claims, as job id and epoch: their callbacks may come within `callback_timeout`.
    /// Returns the ids of claims that stand and could not be changed at this moment.
    pub async fn accept(&self, claims: &[(i64, i64)], callback_timeout: Duration) -> Result<Vec<i64>, DbError> {
        self.db.accept(claims, callback_timeout).await
    }

    /// How many jobs of this instance functions have, by what is stored.
    pub async fn accepted(&self) -> Result<i64, DbError> {
        self.db.accepted(self.instance.id).await
    }

    /// Waits until claims and releases that were dropped before their end have been cancelled, not for long.
    pub async fn cancelled(&self) {
        self.db.cancelled().await;
    }

    /// Tells to which hosts the jobs of these tasks go, before the first is sent there. Returns what there is to know
    /// of hosts.
    ///
    /// # Errors
    /// The database did not take it down.
    pub async fn tell_task_hosts(&self, tasks: &[String], hosts: &[String]) -> Result<Vec<HostNews>, DbError> {
        self.db.tell_task_hosts(tasks, hosts).await
    }

    /// A host has asked all workers to wait so long: its gate is closed until then, for an hour at most.
    ///
    /// # Errors
    /// The database did not take it down.
    pub async fn host_asked(&self, host: &str, wait: Duration, reason: &str) -> Result<(), DbError> {
        self.db.host_asked(host, wait, reason).await
    }

    /// A request has failed in a way that says that its host is down. Called before the outcome is stored, and says
    /// what it is.
    ///
    /// # Errors
    /// The database did not take it down.
    pub async fn host_failed(&self, failure: HostFailure<'_>) -> Result<HostVerdict, DbError> {
        self.db.host_failed(&self.worker_id, failure).await
    }

    /// This worker has used a host that is closed or suspected. Returns whether that has opened it.
    ///
    /// # Errors
    /// The database did not take it down.
    pub async fn host_succeeded(&self, host: &str) -> Result<bool, DbError> {
        self.db.host_succeeded(&self.worker_id, host).await
    }

    /// Gives back the listed claims, as job id and epoch; returns how many.
    pub async fn release(&self, claims: &[(i64, i64)]) -> Result<usize, DbError> {
        self.db.release(self.instance.id, claims).await
    }

    /// Gives back all this instance holds but what functions have, and ends its registration. Returns how many, and
    /// whether that was all.
    pub async fn leave(&self) -> Result<(usize, bool), DbError> {
        self.db.leave(self.instance.id).await
    }
}
