//! Context: what a handler is told and given besides the payload.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use job_pg::{
    CompleteError, Db, EnqueueClient, IsolationLevel, Job, PoolWaits, Transaction, TransactionOptions, attempt_token,
    complete_in_transaction,
};
use job_utils::events::Events;
use job_utils::shutdown::Shutdown;
use tracing::Span;

use crate::cancelled::Cancelled;
use crate::monitor::{SlotMonitor, Taken};

/// A transaction that is without a statement for as long as the handler had left, and this, is taken for that of a
/// halted process.
const IDLE_MARGIN: Duration = Duration::from_secs(5);

/// What a handler is told and given besides the payload: its job, the worker's state `S`, the pool, and when to end.
/// Cheap to clone.
pub struct Context<S = ()> {
    attempt: Arc<AttemptContext>,
    state: Arc<S>,
}

/// What is the same for all attempts of a worker.
pub(crate) struct WorkerContext {
    pub(crate) db: Db,
    /// Tells handlers of a stop.
    stopping: Shutdown,
    pub(crate) events: Events,
    /// The state of a context that has none.
    none: Arc<()>,
}

impl WorkerContext {
    pub(crate) fn new(db: Db, stopping: Shutdown, events: Events) -> Arc<Self> {
        Arc::new(Self { db, stopping, events, none: Arc::new(()) })
    }
}

/// What is the same for all clones.
struct AttemptContext {
    job: Arc<Job>,
    /// Those of the job, or fewer by the task's policy.
    max_attempts: i32,
    /// Whether the handler waits for a connection.
    pool_waits: PoolWaits,
    /// When the handler's time is up. A hook has no time of its own.
    deadline: OnceLock<Instant>,
    worker: Arc<WorkerContext>,
    /// That of its slot; a test has none.
    monitor: Option<Arc<SlotMonitor>>,
    /// There once somebody has asked for it, or the handler is to end.
    ending: OnceLock<Shutdown>,
    /// That is because the job was taken away or cancelled.
    taken: OnceLock<Taken>,
    /// The handler has asked whether it is to end.
    cancellation_observed: AtomicBool,
    /// A transaction is open or waited for.
    open: AtomicBool,
    /// The last transaction got so far that its work began, if there was one.
    begun: AtomicBool,
    /// The job has been completed in a transaction.
    completed: AtomicBool,
    span: Span,
}

/// An open transaction, or one that is waited for. Dropped, it is neither.
struct OpenTransaction<'a>(&'a AtomicBool);

impl Drop for OpenTransaction<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl<S> Clone for Context<S> {
    fn clone(&self) -> Self {
        Self { attempt: self.attempt.clone(), state: self.state.clone() }
    }
}

impl Context {
    pub(crate) fn new(
        job: Arc<Job>,
        max_attempts: i32,
        worker: Arc<WorkerContext>,
        monitor: Option<Arc<SlotMonitor>>,
    ) -> Self {
        let span = tracing::info_span!(
            "job.run",
            job.id = job.id,
            job.task = job.task,
            job.attempts = job.attempts,
            job.max_attempts = max_attempts
        );
        let state = worker.none.clone();
        let attempt = AttemptContext {
            job,
            max_attempts,
            pool_waits: PoolWaits::default(),
            deadline: OnceLock::new(),
            worker,
            monitor,
            ending: OnceLock::new(),
            taken: OnceLock::new(),
            cancellation_observed: AtomicBool::new(false),
            open: AtomicBool::new(false),
            begun: AtomicBool::new(true),
            completed: AtomicBool::new(false),
            span,
        };
        Self { attempt: Arc::new(attempt), state }
    }
}

impl<S> Context<S> {
    /// The same attempt with another state.
    pub(crate) fn with_state<T>(self, state: Arc<T>) -> Context<T> {
        Context { attempt: self.attempt, state }
    }

    /// The job: id, attempt, tenant, actor, and the payload as it was written. Its `max_attempts` are its own; the
    /// task's policy may allow fewer: [`Context::max_attempts`].
    pub fn job(&self) -> &Job {
        &self.attempt.job
    }

    /// How many attempts the job has, by what it was enqueued with and by its task's [`Retry`](crate::Retry). This one
    /// is the last when `context.job().attempts` is as many.
    pub fn max_attempts(&self) -> i32 {
        self.attempt.max_attempts
    }

    /// Whether the handler waits for a connection, is to be known.
    pub(crate) fn pool_waits(&self) -> &PoolWaits {
        &self.attempt.pool_waits
    }

    /// The application's own state, as the worker's builder got it.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// The worker's pool. The worker itself needs some of its connections, and nothing keeps handlers from taking the
    /// last of them here: those that hold one for long want a larger pool ([`Db::builder`], JOBS_POOL_SIZE), or one of
    /// their own.
    pub fn db(&self) -> &Db {
        &self.attempt.worker.db
    }

    /// The span in which the handler runs, for what it spawns.
    pub fn span(&self) -> &Span {
        &self.attempt.span
    }

    /// Names this attempt for the SQL function `complete_in_transaction`, where [`Context::complete_in`] is of no use:
    /// in another client's transaction, such as sqlx's. Whoever has it can end the attempt.
    pub fn token(&self) -> String {
        self.ends_itself();
        attempt_token(self.attempt.job.id, self.attempt.job.epoch)
    }

    /// Waits until the handler is to end, because the worker stops, its time is up, or its job was taken away or
    /// cancelled. Nobody ends it before the grace of the stop is over, or a second after the others.
    pub async fn cancelled(&self) -> Cancelled {
        let AttemptContext { worker, ending, cancellation_observed, .. } = &*self.attempt;
        cancellation_observed.store(true, Ordering::Relaxed);
        tokio::select! {
            biased;
            () = ending.get_or_init(Shutdown::new).triggered() => self.ended_by(),
            () = worker.stopping.triggered() => Cancelled::Stopping,
        }
    }

    /// Whether the handler is to end, and why: for those that go round in a loop.
    pub fn is_cancelled(&self) -> Option<Cancelled> {
        let AttemptContext { worker, ending, deadline, cancellation_observed, .. } = &*self.attempt;
        cancellation_observed.store(true, Ordering::Relaxed);
        if ending.get().is_some_and(Shutdown::is_triggered) {
            return Some(self.ended_by());
        }
        // Nothing tells a handler whose loop never awaits anything.
        if deadline.get().is_some_and(|deadline| *deadline <= Instant::now()) {
            return Some(Cancelled::TimedOut);
        }
        worker.stopping.is_triggered().then_some(Cancelled::Stopping)
    }

    /// Why the job was cancelled, when it was and somebody has said so.
    pub fn cancel_reason(&self) -> Option<&str> {
        match self.attempt.taken.get() {
            Some(Taken::Cancelled(reason)) => reason.as_deref(),
            _ => None,
        }
    }

    /// Does the job's work in a transaction that completes the job as well: both are committed or neither is. When the
    /// job has been taken over by another worker meanwhile, or started again, nothing is committed, and this is an
    /// error.
    ///
    /// The transaction acts for whom the job is: `jwt.claims.database_id`, `user_id`, `entity_id` and `organization_id`
    /// are set where the job has them, so row level security by them holds, and jobs that are enqueued in it inherit
    /// them.
    ///
    /// ```no_run
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Charge { order: i64, cents: i64 }
    /// use job_worker::{Context, HandlerResult, NewJob, enqueue};
    ///
    /// async fn charge(job: Charge, context: Context) -> HandlerResult {
    ///     context
    ///         .transaction(async |transaction| {
    ///             let sql = "INSERT INTO charges (order_id, cents) VALUES ($1, $2)";
    ///             transaction.execute(sql, &[&job.order, &job.cents]).await?;
    ///             enqueue(&*transaction, NewJob::raw("receipt:send", "{}")).await?;
    ///             Ok(())
    ///         })
    ///         .await
    /// }
    /// ```
    ///
    /// The closure's error is any type that a [`CompleteError`] becomes by `From`: that of
    /// [`HandlerResult`](crate::HandlerResult), as above, `anyhow::Error`, or one of the application's own, which then
    /// needs a variant for it:
    ///
    /// ```no_run
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Charge { order: i64, cents: i64 }
    /// use job_worker::{CompleteError, Context, tokio_postgres};
    ///
    /// #[derive(Debug, thiserror::Error)]
    /// enum ChargeError {
    ///     #[error("order {0} has been charged")]
    ///     Charged(i64),
    ///     #[error(transparent)]
    ///     Database(#[from] tokio_postgres::Error),
    ///     #[error(transparent)]
    ///     Complete(#[from] CompleteError),
    /// }
    ///
    /// async fn charge(job: Charge, context: Context) -> Result<(), ChargeError> {
    ///     context
    ///         .transaction(async |transaction| {
    ///             let sql = "UPDATE orders SET charged = $2 WHERE id = $1 AND charged IS NULL";
    ///             match transaction.execute(sql, &[&job.order, &job.cents]).await? {
    ///                 0 => Err(ChargeError::Charged(job.order)),
    ///                 _ => Ok(()),
    ///             }
    ///         })
    ///         .await
    /// }
    /// ```
    ///
    /// What the handler returns afterwards no longer matters to the job. Where more follows, the closure says what it
    /// returns, since `?` takes any error. A savepoint keeps an error within the transaction from being its end:
    ///
    /// ```no_run
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Charge { order: i64 }
    /// # use job_worker::{Context, HandlerResult, SqlState};
    /// async fn charge(job: Charge, context: Context) -> HandlerResult {
    ///     let charged = context
    ///         .transaction(async |transaction| -> HandlerResult<bool> {
    ///             let savepoint = transaction.transaction().await?;
    ///             let charged = savepoint.execute("INSERT INTO charges (order_id) VALUES ($1)", &[&job.order]).await;
    ///             match charged {
    ///                 Ok(_) => savepoint.commit().await?,
    ///                 Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
    ///                     savepoint.rollback().await?; // charged already
    ///                     return Ok(false);
    ///                 }
    ///                 Err(error) => return Err(error.into()),
    ///             }
    ///             Ok(true)
    ///         })
    ///         .await?;
    ///     println!("charged: {charged}");
    ///     Ok(())
    /// }
    /// ```
    ///
    /// In the closure, all that belongs to the work is done on its transaction, `enqueue` as well. Another connection,
    /// such as one of [`Context::db`], sees nothing of it and is not undone with it, it waits for good for what this
    /// one has locked, and handlers that each hold one connection and want a second can wait for each other.
    ///
    /// The transaction does not know the schema of the [`Db`]: `enqueue(&*transaction, …)` goes into `app_jobs`. For
    /// another it is `enqueue_in(&*transaction, context.db().schema(), …)`.
    ///
    /// It waits for a connection until the task's time is up. The pool gives these transactions all of its connections
    /// but two (half of them, where it has less than four), which remain for the worker itself. Before the work has
    /// begun, an error or the end of the time is no failed attempt: [`Outcome::Release`](crate::Outcome::Release). Nor
    /// is a deadlock.
    ///
    /// From beginning to end it holds the job's row: a job that was taken over is not begun, and a producer who
    /// enqueues with this job's key waits, as does an operator who wants to end the job. So it is no place for long
    /// work. PostgreSQL ends it, and its session, when it is without a statement for as long as the task had left at
    /// its beginning and 5 s more: its process is halted then.
    ///
    /// # Errors
    /// What `work` returns, and everything is rolled back; [`CompleteError`] when the job could not be completed. When
    /// the connection is lost during the commit it is not known whether it was committed; then the outcome that the
    /// handler returns counts if it was not, and does nothing if it was.
    pub async fn transaction<T, E>(&self, work: impl AsyncFnOnce(&mut Transaction<'_>) -> Result<T, E>) -> Result<T, E>
    where
        E: From<CompleteError>,
    {
        self.complete_with(None, work).await
    }

    /// [`Context::transaction`] at another isolation level than the session's. A serialization failure gives the
    /// attempt back, so that it is made again without being counted.
    ///
    /// # Errors
    /// As there.
    pub async fn transaction_at<T, E>(
        &self,
        isolation: IsolationLevel,
        work: impl AsyncFnOnce(&mut Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<CompleteError>,
    {
        self.complete_with(Some(isolation), work).await
    }

    async fn complete_with<T, E>(
        &self,
        isolation: Option<IsolationLevel>,
        work: impl AsyncFnOnce(&mut Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<CompleteError>,
    {
        let AttemptContext { job, deadline, open, begun, completed, .. } = &*self.attempt;
        // A second one would wait for the row that the first one holds, and that one perhaps for it.
        if open.swap(true, Ordering::Relaxed) {
            return Err(CompleteError::Open(job.id).into());
        }
        let _open = OpenTransaction(open);
        begun.store(false, Ordering::Relaxed);
        let mut options = TransactionOptions::default();
        (options.isolation, options.begun) = (isolation, Some(begun));
        options.idle = deadline.get().map(|deadline| deadline.saturating_duration_since(Instant::now()) + IDLE_MARGIN);
        let value = self.db().complete_with(job, options, work).await?;
        completed.store(true, Ordering::Relaxed);
        self.ends_itself();
        Ok(value)
    }

    /// Completes the job in a transaction that the handler has begun itself, on any connection to the database of the
    /// jobs: it is the last statement before the commit. The handler returns that it is done.
    ///
    /// # Errors
    /// The attempt is no longer live, or the database did not do it: roll back.
    pub async fn complete_in<C: EnqueueClient>(&self, transaction: C) -> Result<(), CompleteError> {
        self.ends_itself();
        complete_in_transaction(transaction, self.db().schema(), self.job()).await
    }

    /// From now on the job may be gone by the handler's own doing.
    fn ends_itself(&self) {
        if let Some(monitor) = &self.attempt.monitor {
            monitor.ends_itself(self.attempt.job.claim_id());
        }
    }

    /// Why it is to end, when it is and the worker does not stop.
    fn ended_by(&self) -> Cancelled {
        self.attempt.taken.get().map_or(Cancelled::TimedOut, Cancelled::from)
    }

    /// Waits until the job has been taken away or cancelled.
    pub(crate) async fn taken(&self) -> Taken {
        match &self.attempt.monitor {
            Some(monitor) => monitor.taken().await,
            None => std::future::pending().await,
        }
    }

    /// When the handler's time is up.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.attempt.deadline.get().copied()
    }

    /// The monitor of the slot that it runs in.
    pub(crate) fn monitor(&self) -> Option<&SlotMonitor> {
        self.attempt.monitor.as_deref()
    }

    /// Whether the last transaction failed, or is waited for, before its work began.
    pub(crate) fn has_not_begun(&self) -> bool {
        !self.attempt.begun.load(Ordering::Relaxed)
    }

    /// Whether the job has been completed by [`Context::transaction`].
    pub(crate) fn is_completed(&self) -> bool {
        self.attempt.completed.load(Ordering::Relaxed)
    }

    /// The handler begins, and has so much time.
    pub(crate) fn begin(&self, timeout: Duration) {
        // An attempt begins once.
        let _ = self.attempt.deadline.set(Instant::now() + timeout);
    }

    /// The handler's time is up. Returns whether it has asked for it.
    pub(crate) fn time_out(&self) -> bool {
        self.attempt.ending.get_or_init(Shutdown::new).trigger();
        self.observes_cancellation()
    }

    /// The job was taken away or cancelled. Returns whether the handler has asked for that.
    pub(crate) fn take_away(&self, taken: Taken) -> bool {
        // It is taken once.
        let _ = self.attempt.taken.set(taken);
        self.time_out()
    }

    /// How the job was taken away, if it was.
    pub(crate) fn taken_away(&self) -> Option<&Taken> {
        self.attempt.taken.get()
    }

    /// Whether the handler has asked whether it is to end.
    pub(crate) fn observes_cancellation(&self) -> bool {
        self.attempt.cancellation_observed.load(Ordering::Relaxed)
    }
}

impl<S> std::fmt::Debug for Context<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither payload nor epoch.
        let Job { id, task, attempts, .. } = self.job();
        f.debug_struct("Context").field("id", id).field("task", task).field("attempts", attempts).finish()
    }
}
