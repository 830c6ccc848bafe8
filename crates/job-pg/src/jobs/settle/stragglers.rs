//! Stragglers: outcomes that could not be stored together with others.
//!
//! ```text
//!   batch ─▶ rows of others?  ─▶ blocked   asked about every 100 ms, all together, without waiting for a row
//!              │ no
//!              ▼
//!            parts ─▶ … ─▶ one alone ─▶ refused    Postgres will not have it: reported
//!              └▶ stored           └──▶ culprit    it may work later: tried again after a pause that grows
//! ```
//!
//! A part that fails is split again, after the other parts have had their turn. So an outcome that only was in company
//! of another is stored after a few statements. Those that were alone do not hold up the batches behind them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Failed, Queued, Store};
use crate::error::DbError;
use job_utils::config::in_words;
use job_utils::error::chain;

/// In how many parts a batch is split that has failed. Three levels make one outcome of 500. A part that fails can take
/// long, since it waits for a lock or runs into a time limit, so there should be few levels.
const PARTS: usize = 8;

/// How long outcomes rest whose rows others hold.
const BLOCKED_REST: Duration = Duration::from_millis(100);

/// How long an outcome rests that Postgres has answered with an error, the first time and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// One statement of each kind is under way at most.
enum Tried<T> {
    /// A batch, or a part of one.
    Part(Vec<Queued<T>>, Result<Vec<i32>, DbError>),
    /// An outcome that has failed before, alone.
    Culprit(Queued<T>, Result<Vec<i32>, DbError>),
    /// Which of these are blocked by others.
    Asked(Vec<Queued<T>>, Result<Vec<i32>, DbError>),
}

struct Stragglers<T> {
    store: Arc<Store<T>>,
    /// What is to be tried at once.
    parts: VecDeque<Vec<Queued<T>>>,
    /// What is to be asked about at once.
    asks: VecDeque<Vec<Queued<T>>>,
    /// Somebody holds their rows.
    blocked: Vec<Queued<T>>,
    blocked_until: Instant,
    culprits: Vec<(Instant, Queued<T>)>,
    trying: JoinSet<Tried<T>>,
    trying_part: bool,
    trying_culprit: bool,
    asking: bool,
}

/// Deals with batches that have failed, until there are no more to come and all is stored.
pub(super) async fn run<T: Send + Sync + 'static>(
    store: Arc<Store<T>>,
    mut receiver: mpsc::UnboundedReceiver<Failed<T>>,
) {
    let mut stragglers = Stragglers {
        store,
        parts: VecDeque::new(),
        asks: VecDeque::new(),
        blocked: Vec::new(),
        blocked_until: Instant::now(),
        culprits: Vec::new(),
        trying: JoinSet::new(),
        trying_part: false,
        trying_culprit: false,
        asking: false,
    };
    let mut closed = false;
    loop {
        stragglers.start();
        if closed && stragglers.is_empty() {
            return;
        }
        let wake_at = stragglers.wake_at();
        tokio::select! {
            received = receiver.recv(), if !closed => match received {
                Some((items, error)) => {
                    stragglers.store.status.failing.fetch_add(items.len(), Relaxed);
                    stragglers.failed(items, &error);
                }
                None => closed = true,
            },
            Some(tried) = stragglers.trying.join_next() => if let Ok(tried) = tried { stragglers.tried(tried) },
            () = tokio::time::sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => {}
        }
    }
}

impl<T: Send + Sync + 'static> Stragglers<T> {
    fn is_empty(&self) -> bool {
        let waiting = self.parts.len() + self.asks.len() + self.blocked.len() + self.culprits.len();
        waiting + self.trying.len() == 0
    }

    /// When something that rests is due, unless one of its kind is under way.
    fn wake_at(&self) -> Option<Instant> {
        let blocked = (!self.asking && !self.blocked.is_empty()).then_some(self.blocked_until);
        let culprit = self.culprits.iter().map(|(at, _)| *at).min().filter(|_| !self.trying_culprit);
        blocked.into_iter().chain(culprit).min()
    }

    /// Starts what is due.
    fn start(&mut self) {
        let now = Instant::now();
        if !self.trying_part
            && let Some(items) = self.parts.pop_front()
        {
            self.trying_part = true;
            let store = self.store.clone();
            self.trying.spawn(async move {
                let result = store.store(&items).await;
                Tried::Part(items, result)
            });
        }
        let due = self.culprits.iter().enumerate().min_by_key(|(_, (at, _))| *at).filter(|(_, (at, _))| *at <= now);
        if !self.trying_culprit
            && let Some((index, _)) = due
        {
            self.trying_culprit = true;
            let (store, (_, item)) = (self.store.clone(), self.culprits.swap_remove(index));
            self.trying.spawn(async move {
                let result = store.store(std::slice::from_ref(&item)).await;
                Tried::Culprit(item, result)
            });
        }
        if !self.asking {
            if !self.blocked.is_empty() && self.blocked_until <= now {
                self.asks.extend(split(std::mem::take(&mut self.blocked)));
            }
            if let Some(items) = self.asks.pop_front() {
                self.asking = true;
                let store = self.store.clone();
                self.trying.spawn(async move {
                    let ids: Vec<i64> = items.iter().map(|item| item.settlement.job_id).collect();
                    let epochs: Vec<Option<i64>> = items.iter().map(|item| item.settlement.epoch).collect();
                    let result = store.db.held_elsewhere(&ids, &epochs).await;
                    Tried::Asked(items, result)
                });
            }
        }
    }

    fn tried(&mut self, tried: Tried<T>) {
        match tried {
            Tried::Part(items, result) => {
                self.trying_part = false;
                self.ended(items, result);
            }
            Tried::Culprit(item, result) => {
                self.trying_culprit = false;
                self.ended(vec![item], result);
            }
            Tried::Asked(items, result) => {
                self.asking = false;
                self.asked(items, result);
            }
        }
    }

    fn ended(&mut self, items: Vec<Queued<T>>, result: Result<Vec<i32>, DbError>) {
        match result {
            Ok(stale) => {
                self.store.status.failing.fetch_sub(items.len(), Relaxed);
                self.store.stored(items, &stale);
            }
            Err(error) => self.failed(items, &error),
        }
    }

    /// They could not be stored together.
    fn failed(&mut self, mut items: Vec<Queued<T>>, error: &DbError) {
        if items.len() > 1 {
            if error.is_blocked() {
                self.asks.push_back(items);
            } else {
                self.parts.extend(split(items));
            }
            return;
        }
        let Some(item) = items.pop() else { return };
        if error.is_blocked() {
            self.block(vec![item]);
        } else if error.is_transient() {
            self.suspect(item, error);
        } else {
            self.store.status.failing.fetch_sub(1, Relaxed);
            self.store.refused(item, error);
        }
    }

    /// Postgres has answered which rows others hold.
    fn asked(&mut self, mut items: Vec<Queued<T>>, result: Result<Vec<i32>, DbError>) {
        let held = match result {
            Ok(held) => held,
            // Somebody holds the whole table, or Postgres is away: all wait.
            Err(error) if error.is_transient() => return self.block(items),
            Err(_) => Vec::new(),
        };
        let mut position = 0;
        let blocked: Vec<_> = items
            .extract_if(.., |_| {
                position += 1;
                held.contains(&position)
            })
            .collect();
        if blocked.is_empty() {
            // They wait for something else, as for the row of a queue, or did.
            self.parts.extend(split(items));
        } else {
            self.block(blocked);
            if !items.is_empty() {
                self.parts.push_back(items);
            }
        }
    }

    /// Somebody holds their rows.
    fn block(&mut self, mut items: Vec<Queued<T>>) {
        self.store.status.fails("another transaction holds their rows".to_owned());
        let mut new = items.iter().filter(|item| !item.said);
        if let Some(Queued { settlement, .. }) = new.next() {
            tracing::warn!(
                job.id = settlement.job_id,
                job.task = (self.store.task_of)(&settlement.ticket),
                jobs = 1 + new.count(),
                "the outcome waits for a row that another transaction holds: look for one that is idle"
            );
        }
        items.iter_mut().for_each(|item| item.said = true);
        if self.blocked.is_empty() {
            self.blocked_until = Instant::now() + BLOCKED_REST;
        }
        self.blocked.extend(items);
    }

    /// Postgres answers others, and this one with an error that may pass.
    fn suspect(&mut self, mut item: Queued<T>, error: &DbError) {
        let pause = LONGEST_PAUSE.min(FIRST_PAUSE * 2u32.saturating_pow(item.tries.min(16)));
        item.tries = item.tries.saturating_add(1);
        let (settlement, error) = (&item.settlement, chain(error));
        tracing::warn!(
            job.id = settlement.job_id,
            job.task = (self.store.task_of)(&settlement.ticket),
            tries = item.tries,
            "Postgres answers the outcome with an error, and others not; it is tried again in {}: {}",
            in_words(pause),
            error
        );
        self.store.status.fails(format!("job {}: {error}", settlement.job_id));
        self.culprits.push((Instant::now() + pause, item));
    }
}

/// In parts of one size, none of them empty.
fn split<T>(mut items: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    let size = items.len().div_ceil(PARTS).max(1);
    std::iter::from_fn(move || {
        let rest = items.split_off(size.min(items.len()));
        let part = std::mem::replace(&mut items, rest);
        (!part.is_empty()).then_some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn a_batch_of_500_is_split_into_single_ones_in_three_steps() {
        for (count, parts) in [(500, 8), (63, 8), (8, 8), (3, 3), (1, 1), (0, 0)] {
            let split: Vec<_> = split((0..count).collect()).collect();
            assert_eq!(split.len(), parts, "{count}");
            assert_eq!(split.concat(), (0..count).collect::<Vec<_>>());
        }
    }
}
