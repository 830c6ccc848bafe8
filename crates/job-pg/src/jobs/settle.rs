//! Settle: store how attempts ended, by group commit.
//!
//! Outcomes that arrive while a statement is in flight share the next one: a lone outcome is stored at once, without a
//! timer, and a flood of them costs one commit per few hundred. An outcome is kept and tried again for as long as the
//! database is away. No more than [`UNSETTLED`] are on their way, whatever they wait for.
//!
//! A batch can fail although the server is there. Somebody holds a row that one of its outcomes needs, or a trigger of
//! the application's refuses one. Such a batch leaves this lane, and the next one goes on (`settle/stragglers.rs`).

mod stragglers;

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::connection::{Db, SettlerStatus};
use crate::error::DbError;
use crate::jobs::claim::epochs;
use crate::jobs::end::Endings;
use crate::jobs::succession::{Completions, Succession};
use job_utils::backoff::Backoff;
use job_utils::error::chain;
use job_utils::outcome::Outcome;

/// Outcomes in one statement: past a few hundred a batch gains nothing and holds its rows longer.
const BATCH: usize = 500;

/// How many outcomes may be on their way: whoever has another one waits. A worker that is killed repeats the jobs of
/// those.
const UNSETTLED: usize = 1000;

/// For so long no next jobs are claimed after Postgres has refused one: as long as a worker claims carefully.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);

/// The longest wait: beyond it lies the end of PostgreSQL's time.
const LONGEST_WAIT: Duration = Duration::from_secs(1000 * 366 * 24 * 3600);

/// What became of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The worker held the job by that claim; the attempt has ended.
    Done,
    /// The job is gone or was claimed anew; nothing changed.
    Stale,
}

/// An outcome that could not be stored.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SettleError {
    /// Postgres refuses this outcome.
    #[error("the outcome cannot be stored: {0}")]
    Refused(String),
    /// The settler has stopped.
    #[error("stopping: the outcome was not stored")]
    Stopped,
}

job_utils::debug_as_chain!(SettleError);

/// An outcome on its way. The ticket comes back with what became of it.
#[derive(Debug)]
pub struct Settlement<T> {
    /// Who held the job.
    pub worker_id: Arc<str>,
    /// The id of the job, in the jobs table.
    pub job_id: i64,
    /// By which claim; None: whatever claim the worker holds, as the original did.
    pub epoch: Option<i64>,
    /// How the attempt ended.
    pub outcome: Outcome,
    /// How long it ran, where that counts for its tenant; None: since its claim.
    pub run_time: Option<Duration>,
    /// What the sender wants back.
    pub ticket: T,
}

/// What became of each outcome of a batch.
pub type SettleResults<T> = Vec<(Settlement<T>, Result<Settled, SettleError>)>;

/// Stores outcomes in batches. Clones share one queue; the tasks end when the last clone is gone and all is stored.
pub struct Settler<T> {
    /// Unbounded: the status's `room` bounds it.
    items: mpsc::UnboundedSender<Queued<T>>,
    status: Arc<SettlerStatus>,
}

impl<T> Clone for Settler<T> {
    fn clone(&self) -> Self {
        Self { items: self.items.clone(), status: self.status.clone() }
    }
}

impl<T: Send + Sync + 'static> Settler<T> {
    /// Starts the tasks that store outcomes and call `settled` after each batch. `task_of` gives the name of an
    /// outcome's task, for the log, where the ticket knows it.
    pub fn spawn(
        db: Db,
        task_of: fn(&T) -> Option<&str>,
        settled: impl Fn(SettleResults<T>) + Send + Sync + 'static,
    ) -> Self {
        Self::spawn_with(db, task_of, None, settled)
    }

    /// [`Self::spawn`] for a worker that takes the next jobs of the queues whose jobs it completes.
    pub fn spawn_with_succession(
        db: Db,
        task_of: fn(&T) -> Option<&str>,
        succession: impl Succession<T>,
        settled: impl Fn(SettleResults<T>) + Send + Sync + 'static,
    ) -> Self {
        Self::spawn_with(db, task_of, Some(Box::new(succession)), settled)
    }

    fn spawn_with(
        db: Db,
        task_of: fn(&T) -> Option<&str>,
        succession: Option<Box<dyn Succession<T>>>,
        settled: impl Fn(SettleResults<T>) + Send + Sync + 'static,
    ) -> Self {
        let (items, receiver) = mpsc::unbounded_channel();
        let status = db.settlers().register(UNSETTLED);
        let (settled, claims_paused_until) = (Box::new(settled), Mutex::default());
        let store = Store { db, task_of, succession, claims_paused_until, settled, status: status.clone() };
        tokio::spawn(run(Arc::new(store), receiver));
        Self { items, status }
    }

    /// Hands over one outcome to be stored; waits only while too many are on their way. Nothing takes it back.
    pub async fn settle(&self, settlement: Settlement<T>) -> Result<(), SettleError> {
        // It is never closed. The permit comes back when the outcome has been reported.
        self.status.room.acquire().await.map_err(|_| SettleError::Stopped)?.forget();
        let queued = Queued { settlement, tries: 0, said: false };
        self.items.send(queued).map_err(|_| SettleError::Stopped)
    }
}

/// An outcome within the settler.
struct Queued<T> {
    settlement: Settlement<T>,
    /// How often Postgres has answered it with an error, alone.
    tries: u32,
    /// The log has it that it waits for somebody's row.
    said: bool,
}

/// What the lanes share.
struct Store<T> {
    db: Db,
    task_of: fn(&T) -> Option<&str>,
    succession: Option<Box<dyn Succession<T>>>,
    /// Until when no next jobs are claimed, since Postgres has refused one.
    claims_paused_until: Mutex<Option<Instant>>,
    settled: Box<dyn Fn(SettleResults<T>) + Send + Sync>,
    status: Arc<SettlerStatus>,
}

async fn run<T: Send + Sync + 'static>(store: Arc<Store<T>>, mut receiver: mpsc::UnboundedReceiver<Queued<T>>) {
    let (failed, waiting) = mpsc::unbounded_channel();
    tokio::spawn(stragglers::run(store.clone(), waiting));
    let mut batch = Vec::with_capacity(BATCH);
    while receiver.recv_many(&mut batch, BATCH).await > 0 {
        let mut completed = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
        let staying: Vec<_> = completed.extract_if(.., |item| item.settlement.outcome != Outcome::Complete).collect();
        tokio::join!(store.first(completed, &failed), store.first(staying, &failed));
    }
}

impl<T: 'static> Store<T> {
    /// Stores a batch of one kind, or hands it on to the stragglers.
    async fn first(&self, mut items: Vec<Queued<T>>, failed: &mpsc::UnboundedSender<Failed<T>>) {
        if items.is_empty() {
            return;
        }
        // A function that answers and calls back settles a job twice, in the worker's batch and in the server's: in one
        // order of rows they take turns rather than block each other.
        items.sort_unstable_by_key(|item| item.settlement.job_id);
        let stored = match self.store_with_successors(&mut items).await {
            Some(stored) => stored,
            None => self.store(&items).await,
        };
        match stored {
            Ok(stale) => self.stored(items, &stale),
            Err(error) => {
                // Their lane ends only after this one.
                let _ = failed.send((items, error));
            }
        }
    }

    /// Stores completed jobs and claims the next ones of their queues and tasks, where those are wanted. None: nothing
    /// has been tried, the database is away, or it refuses to have a next job claimed.
    async fn store_with_successors(&self, items: &mut [Queued<T>]) -> Option<Result<Vec<i32>, DbError>> {
        let succession = self.succession.as_deref()?;
        if items.iter().any(|item| item.settlement.run_time.is_some()) {
            // Tenants are served fairly, and no job is of a queue alone.
            return None;
        }
        if self.claims_paused().is_some_and(|until| until > Instant::now()) {
            return None;
        }
        let mut completions = Completions::default();
        for (index, item) in items.iter().enumerate() {
            let settlement = &item.settlement;
            if settlement.outcome != Outcome::Complete || !succession.may_follow(&settlement.ticket) {
                continue;
            }
            // Without randomness the database has to draw the numbers.
            let Some(epoch) = epochs(1).first().map(|epoch| epoch & i64::MAX) else { continue };
            let Some(wanted) = succession.reserve(&settlement.ticket, epoch) else { continue };
            if completions.queues.is_empty() {
                completions.queues = vec![None; items.len()];
                completions.of_tasks = vec![None; items.len()];
                completions.own_tasks = vec![None; items.len()];
                completions.next_epochs = vec![0; items.len()];
            }
            completions.queues[index] = wanted.queue;
            completions.of_tasks[index] = Some(wanted.task).filter(|_| wanted.queue.is_none());
            completions.own_tasks[index] = wanted.own_task;
            completions.next_epochs[index] = epoch;
        }
        if completions.queues.is_empty() {
            return None;
        }
        completions.ids = items.iter().map(|item| item.settlement.job_id).collect();
        completions.workers = items.iter().map(|item| &*item.settlement.worker_id).collect();
        completions.epochs = items.iter().map(|item| item.settlement.epoch).collect();
        let result = self.db.complete_and_claim_next(&completions, &succession.claimant()).await;
        let next_epochs = completions.next_epochs;
        let (result, mut jobs) = match result {
            Ok((stale, jobs)) => (Ok(stale), jobs),
            Err(error) => (Err(error), Vec::new()),
        };
        for (item, epoch) in items.iter_mut().zip(next_epochs).filter(|(_, epoch)| *epoch != 0) {
            let job = jobs.iter().position(|job| job.epoch == epoch).map(|index| jobs.swap_remove(index));
            succession.ended(&mut item.settlement.ticket, epoch, job);
        }
        match result {
            Ok(stale) => Some(Ok(stale)),
            Err(error) => {
                if error.is_ambiguous() {
                    succession.lost();
                }
                if error.is_refusal() {
                    // A trigger or a constraint of the application's: claims leave such a job out.
                    *self.claims_paused() = Some(Instant::now() + REFUSED_PAUSE);
                    return None;
                }
                (!self.is_away(&error).await).then_some(Err(error))
            }
        }
    }

    fn claims_paused(&self) -> MutexGuard<'_, Option<Instant>> {
        self.claims_paused_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the statement until the database has carried it out, or answers it with an error although it is there;
    /// returns the positions, from 1, of those that changed nothing.
    async fn store(&self, items: &[Queued<T>]) -> Result<Vec<i32>, DbError> {
        let ids: Vec<i64> = items.iter().map(|item| item.settlement.job_id).collect();
        let workers: Vec<&str> = items.iter().map(|item| &*item.settlement.worker_id).collect();
        let epochs: Vec<Option<i64>> = items.iter().map(|item| item.settlement.epoch).collect();
        let endings = endings(items);
        let run_times = run_times(items);
        let run_times = run_times.as_deref();
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        let mut said = false;
        loop {
            let result = if endings.messages.is_empty() {
                self.db.complete(&ids, &workers, &epochs, run_times).await
            } else {
                self.db.end(&ids, &workers, &epochs, &endings, run_times).await
            };
            match result {
                Err(error) if self.is_away(&error).await => {
                    if !std::mem::replace(&mut said, true) {
                        tracing::warn!(jobs = items.len(), "outcomes wait for Postgres: {}", chain(&error));
                    }
                    tokio::time::sleep(backoff.next_wait()).await;
                }
                stored => return stored,
            }
        }
    }

    /// Whether the error is the server's and not the outcome's: the server cannot be reached, takes no writes, or has
    /// no jobs schema at this moment. A trigger of the application's can raise any error. So whoever has answered is
    /// asked what is the matter with it.
    async fn is_away(&self, error: &DbError) -> bool {
        if !error.is_transient() || error.is_blocked() {
            return false;
        }
        if !error.is_answer() && !error.took_too_long() {
            return true;
        }
        self.db.ready().await.is_err() || self.db.takes_no_writes().await.unwrap_or(true)
    }

    /// Reports what the statement has done.
    fn stored(&self, items: Vec<Queued<T>>, stale: &[i32]) {
        let mut results: SettleResults<T> =
            items.into_iter().map(|item| (item.settlement, Ok(Settled::Done))).collect();
        for position in stale {
            let index = usize::try_from(*position).unwrap_or_default().wrapping_sub(1);
            if let Some((_, result)) = results.get_mut(index) {
                *result = Ok(Settled::Stale);
            }
        }
        self.report(results);
    }

    /// Reports an outcome that Postgres refuses.
    fn refused(&self, item: Queued<T>, error: &DbError) {
        let (settlement, message) = (item.settlement, chain(error));
        tracing::error!(
            job.id = settlement.job_id,
            job.task = (self.task_of)(&settlement.ticket),
            worker.id = &*settlement.worker_id,
            "outcome refused: {message}"
        );
        self.report(vec![(settlement, Err(SettleError::Refused(message)))]);
    }

    fn report(&self, results: SettleResults<T>) {
        let count = results.len();
        (self.settled)(results);
        self.status.room.add_permits(count);
    }
}

/// Outcomes of one kind that could not be stored together, and why.
type Failed<T> = (Vec<Queued<T>>, DbError);

/// What the attempts of a batch took, in seconds by the id of the job, as a JSON object; None: nothing was measured.
fn run_times<T>(items: &[Queued<T>]) -> Option<String> {
    let mut json = String::new();
    for item in items {
        if let Some(run_time) = item.settlement.run_time {
            json.push(if json.is_empty() { '{' } else { ',' });
            // Writing to a text cannot fail.
            let _ = write!(json, "\"{}\":{}", item.settlement.job_id, run_time.as_secs_f64());
        }
    }
    (!json.is_empty()).then(|| json + "}")
}

/// How the attempts of a batch ended after which the job stays; empty for completed ones.
fn endings<T>(items: &[Queued<T>]) -> Endings<'_> {
    let mut endings = Endings::default();
    for item in items {
        let (delay, counted, discarded) = match &item.settlement.outcome {
            Outcome::Complete => continue,
            Outcome::Retry { after, .. } => (*after, true, false),
            Outcome::Discard { .. } => (None, true, true),
            Outcome::Snooze { after, .. } => (Some(*after), false, false),
            Outcome::Release { .. } => (Some(Duration::ZERO), false, false),
        };
        endings.messages.push(item.settlement.outcome.error());
        endings.delays.push(delay.map(|delay| delay.min(LONGEST_WAIT).as_secs_f64()));
        endings.counted.push(counted);
        endings.discarded.push(discarded);
    }
    endings
}
