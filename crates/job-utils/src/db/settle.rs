//! Settle: store how attempts ended, by group commit.
//!
//! Outcomes that arrive while a statement is in flight share the next one: a lone outcome is stored at once, without a
//! timer, and a flood of them costs one commit per few hundred. An outcome is kept and tried again for as long as the
//! database is away.
//!
//! A producer's open transaction may hold a row that a settlement needs (its named queue's, or that of a job whose key it
//! replaces). The statement does not wait long for it: the batch moves to a second lane, where each outcome is tried
//! alone, and the next batch goes on.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::backoff::Backoff;
use crate::db::{Db, DbError};
use crate::error::chain;
use crate::wire::callback::Outcome;

/// Outcomes in one statement: past a few hundred a batch gains nothing and holds its rows longer.
const BATCH: usize = 500;

/// How long blocked outcomes rest after each of them has been tried.
const BLOCKED_REST: Duration = Duration::from_millis(100);

/// What became of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The job was held by that worker; its attempt has ended.
    Done,
    /// The job is gone or held by somebody else; nothing changed.
    Stale,
}

/// An outcome that could not be stored.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SettleError {
    /// Postgres refuses this outcome.
    #[error("the outcome cannot be stored: {0}")]
    Refused(String),
    /// The settler has stopped.
    #[error("stopping: the outcome was not stored")]
    Stopped,
}

struct Item {
    worker_id: String,
    job_id: i64,
    outcome: Outcome,
    done: oneshot::Sender<Result<Settled, SettleError>>,
}

/// Stores outcomes in batches. Clones share one queue; the task ends when the last clone is gone.
#[derive(Clone)]
pub struct Settler {
    items: mpsc::Sender<Item>,
}

impl Settler {
    /// Starts the task that stores outcomes.
    pub fn spawn(db: Db) -> Self {
        let (items, receiver) = mpsc::channel(2 * BATCH);
        tokio::spawn(run(db, receiver));
        Self { items }
    }

    /// Stores one outcome; returns when it is stored. Dropping the future does not take it back.
    pub async fn settle(&self, worker_id: &str, job_id: i64, outcome: Outcome) -> Result<Settled, SettleError> {
        let (done, stored) = oneshot::channel();
        let item = Item { worker_id: worker_id.to_owned(), job_id, outcome, done };
        self.items.send(item).await.map_err(|_| SettleError::Stopped)?;
        stored.await.map_err(|_| SettleError::Stopped)?
    }
}

async fn run(db: Db, mut receiver: mpsc::Receiver<Item>) {
    // Unbounded, and yet no more than there are jobs in dispatch and callbacks held.
    let (blocked, waiting) = mpsc::unbounded_channel();
    tokio::spawn(run_blocked(db.clone(), waiting));
    let mut batch = Vec::with_capacity(BATCH);
    while receiver.recv_many(&mut batch, BATCH).await > 0 {
        let (completed, failed): (Vec<Item>, Vec<Item>) =
            batch.drain(..).partition(|item| item.outcome == Outcome::Complete);
        tokio::join!(store_all(&db, completed, &blocked), store_all(&db, failed, &blocked));
    }
}

/// Stores a batch of one kind. When Postgres refuses the batch or a row of it is held by somebody, each item is tried
/// alone, so that one item harms nobody else.
async fn store_all(db: &Db, mut items: Vec<Item>, blocked: &mpsc::UnboundedSender<Item>) {
    if items.is_empty() {
        return;
    }
    // A function that answers and calls back settles a job twice, in the worker's batch and in the server's: in one
    // order of rows they take turns rather than block each other.
    items.sort_unstable_by_key(|item| item.job_id);
    match store(db, &items).await {
        Ok(settled) => answer(items, &settled),
        Err(error) if items.len() > 1 || error.is_blocked() => {
            for item in items {
                // The other lane ends only after this one.
                let _ = blocked.send(item);
            }
        }
        Err(error) => refuse(items, &error),
    }
}

/// The second lane: one outcome at a time, newcomers first. Most of them were only in company of the one that is blocked.
async fn run_blocked(db: Db, mut receiver: mpsc::UnboundedReceiver<Item>) {
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
            Ok(settled) => answer(alone, &settled),
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
                        item = receiver.recv() => waiting.extend(item.map(|item| (item, false))),
                    }
                }
            }
            Err(error) => refuse(alone, &error),
        }
    }
}

/// Runs the statement until the database has carried it out or refused it.
async fn store(db: &Db, items: &[Item]) -> Result<HashSet<(i64, String)>, DbError> {
    let ids: Vec<i64> = items.iter().map(|item| item.job_id).collect();
    let workers: Vec<&str> = items.iter().map(|item| item.worker_id.as_str()).collect();
    let messages: Vec<&str> = items
        .iter()
        .filter_map(|item| match &item.outcome {
            Outcome::Fail(message) => Some(message.as_str()),
            Outcome::Complete => None,
        })
        .collect();
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    let mut said = false;
    loop {
        let result = if messages.is_empty() {
            db.complete(&ids, &workers).await
        } else {
            db.fail(&ids, &workers, &messages).await
        };
        match result {
            Ok(settled) => return Ok(settled.into_iter().collect()),
            Err(error) if error.is_transient() && !error.is_blocked() => {
                if !said {
                    tracing::warn!(jobs = items.len(), "outcomes wait for Postgres: {}", chain(&error));
                    said = true;
                }
                tokio::time::sleep(backoff.next_wait()).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn answer(items: Vec<Item>, settled: &HashSet<(i64, String)>) {
    for item in items {
        let done = settled.contains(&(item.job_id, item.worker_id));
        // Whoever asked may have stopped waiting; the outcome is stored all the same.
        let _ = item.done.send(Ok(if done { Settled::Done } else { Settled::Stale }));
    }
}

fn refuse(items: Vec<Item>, error: &DbError) {
    let message = chain(error);
    for item in items {
        tracing::error!(job.id = item.job_id, worker.id = item.worker_id, "outcome refused: {message}");
        let _ = item.done.send(Err(SettleError::Refused(message.clone())));
    }
}
