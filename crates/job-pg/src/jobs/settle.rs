//! Settle: store how attempts ended, by group commit.
//!
//! Outcomes that arrive while a statement is in flight share the next one: a lone outcome is stored at once, without a
//! timer, and a flood of them costs one commit per few hundred. An outcome is kept and tried again for as long as the
//! database is away.
//!
//! A producer's open transaction may hold a row that a settlement needs (its named queue's, or that of a job whose key
//! it replaces). The statement does not wait long for it: the batch moves to a second queue, where each outcome is
//! tried alone, and the next batch goes on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::connection::Db;
use crate::error::DbError;
use crate::jobs::end::Endings;
use job_utils::backoff::Backoff;
use job_utils::error::chain;
use job_utils::outcome::Outcome;

/// Outcomes in one statement: past a few hundred a batch gains nothing and holds its rows longer.
const BATCH: usize = 500;

/// How long blocked outcomes rest after each of them has been tried.
const BLOCKED_REST: Duration = Duration::from_millis(100);

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
    /// What the sender wants back.
    pub ticket: T,
}

/// What became of each outcome of a batch.
pub type SettleResults<T> = Vec<(Settlement<T>, Result<Settled, SettleError>)>;

/// Stores outcomes in batches. Clones share one queue; the task ends when the last clone is gone.
pub struct Settler<T> {
    items: mpsc::Sender<Settlement<T>>,
}

impl<T> Clone for Settler<T> {
    fn clone(&self) -> Self {
        Self { items: self.items.clone() }
    }
}

impl<T: Send + Sync + 'static> Settler<T> {
    /// Starts the task that stores outcomes and calls `settled` after each batch.
    pub fn spawn(db: Db, settled: impl Fn(SettleResults<T>) + Send + Sync + 'static) -> Self {
        let (items, receiver) = mpsc::channel(2 * BATCH);
        tokio::spawn(run(db, receiver, Arc::new(settled)));
        Self { items }
    }

    /// Hands over one outcome to be stored; waits only while too many are on their way. Nothing takes it back.
    pub async fn settle(&self, settlement: Settlement<T>) -> Result<(), SettleError> {
        self.items.send(settlement).await.map_err(|_| SettleError::Stopped)
    }
}

type OnSettled<T> = Arc<dyn Fn(SettleResults<T>) + Send + Sync>;

async fn run<T: Send + Sync + 'static>(db: Db, mut receiver: mpsc::Receiver<Settlement<T>>, report: OnSettled<T>) {
    // Unbounded, and yet no more than there are rows that others hold.
    let (blocked, waiting) = mpsc::unbounded_channel();
    tokio::spawn(run_blocked(db.clone(), waiting, report.clone()));
    let mut batch = Vec::with_capacity(BATCH);
    while receiver.recv_many(&mut batch, BATCH).await > 0 {
        let mut completed = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
        let staying: Vec<_> = completed.extract_if(.., |item| item.outcome != Outcome::Complete).collect();
        tokio::join!(store_all(&db, completed, &blocked, &report), store_all(&db, staying, &blocked, &report));
    }
}

/// Stores a batch of one kind. When Postgres refuses the batch or a row of it is held by somebody, each item is tried
/// alone, so that one item harms nobody else.
async fn store_all<T>(
    db: &Db,
    mut items: Vec<Settlement<T>>,
    blocked: &mpsc::UnboundedSender<Settlement<T>>,
    report: &OnSettled<T>,
) {
    if items.is_empty() {
        return;
    }
    // A function that answers and calls back settles a job twice, in the worker's batch and in the server's: in one
    // order of rows they take turns rather than block each other.
    items.sort_unstable_by_key(|item| item.job_id);
    match store(db, &items).await {
        Ok(stale) => report(results(items, &stale)),
        Err(error) if items.len() > 1 || error.is_blocked() => {
            for item in items {
                // The other lane ends only after this one.
                let _ = blocked.send(item);
            }
        }
        Err(error) => report(refused(items, &error)),
    }
}

/// The second lane: one outcome at a time, newcomers first. Most of them were only in company of the one that is
/// blocked.
async fn run_blocked<T>(db: Db, mut receiver: mpsc::UnboundedReceiver<Settlement<T>>, report: OnSettled<T>) {
    let mut waiting = VecDeque::new();
    loop {
        if waiting.is_empty() {
            let Some(item) = receiver.recv().await else { return };
            waiting.push_back((item, false));
        }
        while let Ok(item) = receiver.try_recv() {
            waiting.push_front((item, false));
        }
        let Some((item, said)) = waiting.pop_front() else { continue };
        let alone = vec![item];
        match store(&db, &alone).await {
            Ok(stale) => report(results(alone, &stale)),
            Err(error) if error.is_blocked() => {
                for item in alone {
                    if !said {
                        tracing::warn!(
                            job.id = item.job_id,
                            "the outcome waits for a row that another transaction holds: look for one that is idle"
                        );
                    }
                    waiting.push_back((item, true));
                }
                // Everybody here has been tried: rest, unless somebody new comes.
                if waiting.iter().all(|(_, said)| *said) {
                    tokio::select! {
                        () = tokio::time::sleep(BLOCKED_REST) => {}
                        Some(item) = receiver.recv() => waiting.push_back((item, false)),
                    }
                }
            }
            Err(error) => report(refused(alone, &error)),
        }
    }
}

/// Runs the statement until the database has carried it out or refused it; returns the positions, from 1, of those that
/// changed nothing.
async fn store<T>(db: &Db, items: &[Settlement<T>]) -> Result<Vec<i32>, DbError> {
    let ids: Vec<i64> = items.iter().map(|item| item.job_id).collect();
    let workers: Vec<&str> = items.iter().map(|item| &*item.worker_id).collect();
    let epochs: Vec<Option<i64>> = items.iter().map(|item| item.epoch).collect();
    let endings = endings(items);
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    let (mut said, mut again) = (false, false);
    loop {
        let result = if endings.messages.is_empty() {
            db.complete(&ids, &workers, &epochs).await
        } else {
            db.end(&ids, &workers, &epochs, &endings).await
        };
        match result {
            // A batch may take longer than a statement may, where each row costs much: then each item is tried alone.
            Err(error) if error.took_too_long() && items.len() > 1 && std::mem::replace(&mut again, true) => {
                return Err(error);
            }
            Err(error) if error.is_transient() && !error.is_blocked() => {
                if !said {
                    tracing::warn!(jobs = items.len(), "outcomes wait for Postgres: {}", chain(&error));
                    said = true;
                }
                tokio::time::sleep(backoff.next_wait()).await;
            }
            stored => return stored,
        }
    }
}

/// How the attempts of a batch ended after which the job stays; empty for completed ones.
fn endings<T>(items: &[Settlement<T>]) -> Endings<'_> {
    let mut endings = Endings::default();
    for item in items {
        let (delay, counted, discarded) = match &item.outcome {
            Outcome::Complete => continue,
            Outcome::Retry { after, .. } => (*after, true, false),
            Outcome::Discard { .. } => (None, true, true),
            Outcome::Snooze { after, .. } => (Some(*after), false, false),
            Outcome::Release { .. } => (Some(Duration::ZERO), false, false),
        };
        endings.messages.push(item.outcome.error());
        endings.delays.push(delay.map(|delay| delay.min(LONGEST_WAIT).as_secs_f64()));
        endings.counted.push(counted);
        endings.discarded.push(discarded);
    }
    endings
}

fn results<T>(items: Vec<Settlement<T>>, stale: &[i32]) -> SettleResults<T> {
    let mut results: SettleResults<T> = items.into_iter().map(|item| (item, Ok(Settled::Done))).collect();
    for position in stale {
        let index = usize::try_from(*position).unwrap_or_default().wrapping_sub(1);
        if let Some((_, result)) = results.get_mut(index) {
            *result = Ok(Settled::Stale);
        }
    }
    results
}

fn refused<T>(items: Vec<Settlement<T>>, error: &DbError) -> SettleResults<T> {
    let message = chain(error);
    let refuse = |item: Settlement<T>| {
        tracing::error!(job.id = item.job_id, worker.id = &*item.worker_id, "outcome refused: {message}");
        (item, Err(SettleError::Refused(message.clone())))
    };
    items.into_iter().map(refuse).collect()
}
