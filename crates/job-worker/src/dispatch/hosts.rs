//! Hosts: what workers tell each other of the hosts of functions, by the database, and which jobs are not sent for it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use job_pg::{ClaimId, HostFailure, HostNews, HostVerdict, Job, WorkerDb};
use job_utils::error::chain;
use job_utils::outcome::Outcome;
use job_utils::telemetry::LogLimit;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::dispatch::host::{Permission, Sign, Turn, Why};
use crate::dispatch::origin::Origin;
use crate::dispatch::target::{Target, Targets};

/// Of so many tasks a process tells where they go, unless their host has a gate. A task's name can be anything.
const MOST_TASKS: usize = 10_000;

/// So many jobs of closed hosts may be on their way to a slot.
const MOST_ADMITTED: usize = 10_000;

/// The first and the longest pause between two tries to connect to a host without a connection.
const FIRST_TEST: Duration = Duration::from_secs(1);
const LONGEST_TEST: Duration = Duration::from_secs(5);

/// How long a job waits, on average, whose worker cannot reach a host that others can: one of those may take it.
const ELSEWHERE: Duration = Duration::from_secs(5);

/// For how long a worker claims no more jobs of a host that it cannot reach and others can.
const LEFT: Duration = Duration::from_secs(30);

/// Of so many tasks at most.
const MOST_LEFT: usize = 100;

/// How often it is told at most that the database does not take something down.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// What is known of all hosts together.
pub(crate) struct Hosts {
    /// None until the worker runs.
    db: OnceLock<WorkerDb>,
    /// Whether there is anything to be known of any host.
    said: AtomicBool,
    /// Whether jobs of some host may be left to others.
    leaves: AtomicBool,
    /// Claims that have passed the gate of a host that is closed.
    admitted: Mutex<HashSet<ClaimId>>,
    /// Tasks of which it has to be told where they go, and whoever does that.
    untold: Mutex<Vec<(String, Arc<Target>)>>,
    telling: tokio::sync::Mutex<()>,
    told: AtomicUsize,
    /// What goes on beside the jobs. It ends with the worker.
    beside: Mutex<JoinSet<()>>,
    failing: LogLimit,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is complete before anything could panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hosts {
    pub(crate) fn new() -> Self {
        Self {
            db: OnceLock::new(),
            said: AtomicBool::default(),
            leaves: AtomicBool::default(),
            admitted: Mutex::default(),
            untold: Mutex::default(),
            telling: tokio::sync::Mutex::default(),
            told: AtomicUsize::default(),
            beside: Mutex::default(),
            failing: LogLimit::once_in(LOG_INTERVAL),
        }
    }

    /// From now on it is told to the others.
    pub(crate) fn tell_by(&self, db: WorkerDb) {
        let _ = self.db.set(db);
    }

    /// Waits until a job may be sent to its host, in turn where there is one; None: it has to be given back.
    pub(crate) async fn admit(&self, job: &Job, target: &Arc<Target>, targets: &Targets) -> Option<Option<Turn>> {
        if !target.is_told() {
            self.tell(&job.task, target, targets).await;
        }
        let host = &target.origin.host;
        let mut turn = None;
        loop {
            match host.permission(job, self.said.load(Ordering::Relaxed) && self.take_admitted(job)) {
                Permission::Send => return Some(None),
                Permission::InTurn if turn.is_some() => return Some(turn),
                Permission::InTurn => turn = Some(host.turn().await),
                Permission::GiveBack => return None,
                Permission::Untold => {
                    target.set_told(false);
                    self.tell(&job.task, target, targets).await;
                    return None;
                }
            }
        }
    }

    /// Tasks whose jobs are left to others, as far as they are known.
    pub(crate) fn left_tasks(&self, targets: &Targets) -> Vec<String> {
        if !self.leaves.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let now = Instant::now();
        let mut tasks = targets.tasks_of(|host| host.is_left(now));
        tasks.truncate(MOST_LEFT);
        if tasks.is_empty() {
            self.leaves.store(false, Ordering::Relaxed);
        }
        tasks
    }

    fn take_admitted(&self, job: &Job) -> bool {
        locked(&self.admitted).remove(&job.claim_id())
    }

    /// Tells where a task goes, and others that wait to be told together with it.
    async fn tell(&self, task: &str, target: &Arc<Target>, targets: &Targets) {
        let Some(db) = self.db.get() else { return };
        locked(&self.untold).push((task.to_owned(), target.clone()));
        let _alone = self.telling.lock().await;
        if target.is_told() {
            return;
        }
        let mut batch = std::mem::take(&mut *locked(&self.untold));
        // Whoever took it may have been cancelled.
        if batch.iter().all(|(told, _)| told != task) {
            batch.push((task.to_owned(), target.clone()));
        }
        let began = Instant::now();
        let (tasks, hosts): (Vec<_>, Vec<_>) =
            batch.iter().map(|(task, target)| (task.clone(), target.origin.host.name.clone())).unzip();
        // Of a host with a gate every task has to be known: no job passes it otherwise.
        if self.told.fetch_add(batch.len(), Ordering::Relaxed) < MOST_TASKS || !target.origin.host.is_unsaid() {
            match db.tell_task_hosts(&tasks, &hosts).await {
                Ok(news) => self.heard(&news, true, began, targets),
                // With the task's next job it is tried again.
                Err(error) => return self.warn("cannot tell where the jobs of a task go", &chain(&error)),
            }
        }
        batch.iter().for_each(|(_, target)| target.set_told(true));
    }

    /// A claim that began then has brought this of hosts, and these jobs.
    pub(crate) fn claimed(&self, news: &[HostNews], whole: bool, began: Instant, jobs: &[Job], targets: &Targets) {
        if news.is_empty() && !self.said.load(Ordering::Relaxed) {
            return;
        }
        self.heard(news, whole, began, targets);
        let mut admitted = locked(&self.admitted);
        if admitted.len() > MOST_ADMITTED {
            admitted.clear();
        }
        for job in jobs.iter().filter(|job| job.gate.is_some()) {
            if targets.of(&job.task).is_ok_and(|target| target.origin.host.admits(began)) {
                admitted.insert(job.claim_id());
            }
        }
    }

    fn heard(&self, news: &[HostNews], whole: bool, began: Instant, targets: &Targets) {
        let mut said = false;
        for origin in targets.origins() {
            match origin.host.told(news, whole, began) {
                Some(true) => tracing::warn!(host = origin.host.name, "the host is closed: its jobs wait"),
                Some(false) => tell_opened(origin),
                None => {}
            }
            self.test_connection(origin);
            said |= !origin.host.is_unsaid();
        }
        self.said.store(said, Ordering::Relaxed);
        if !said {
            locked(&self.admitted).clear();
        }
    }

    /// What the exchange of a job says of its host; returns the outcome, which may be another one by that.
    pub(crate) async fn met(
        &self,
        origin: &Arc<Origin>,
        sign: Sign,
        job: &Job,
        outcome: Option<Outcome>,
    ) -> Option<Outcome> {
        let error = outcome.as_ref().and_then(Outcome::error).unwrap_or_default();
        match (sign, self.db.get()) {
            (Sign::Up, Some(db)) => {
                if origin.host.used() {
                    let (db, origin) = (db.clone(), origin.clone());
                    self.beside(async move { tell_used(&db, &origin).await.unwrap_or(()) });
                }
            }
            (Sign::Connected | Sign::Up, _) => origin.host.connected(),
            (Sign::Asked(wait), Some(db)) => match db.host_asked(&origin.host.name, wait, error).await {
                Ok(()) => self.closed(origin, Why::Asked, error),
                Err(failure) => self.warn("cannot close a host that asks to wait", &chain(&failure)),
            },
            (Sign::Down { unreachable }, Some(db)) => {
                let anew = origin.host.failed();
                self.said.store(true, Ordering::Relaxed);
                let failure = HostFailure { host: &origin.host.name, unreachable, anew, job, error };
                match db.host_failed(failure).await {
                    Ok(HostVerdict::Closed) => {
                        self.closed(origin, Why::Down { unreachable }, error);
                        return Some(Outcome::release(error));
                    }
                    Ok(HostVerdict::ReachedElsewhere) if unreachable => {
                        origin.host.leave(Instant::now() + LEFT);
                        self.leaves.store(true, Ordering::Relaxed);
                        let after = ELSEWHERE.mul_f64(0.5 + fastrand::f64());
                        return Some(Outcome::Snooze { after, error: Some(error.to_owned()) });
                    }
                    Ok(_) => {}
                    Err(failure) => self.warn("cannot tell that a host is down", &chain(&failure)),
                }
            }
            (Sign::Nothing | Sign::Asked(_) | Sign::Down { .. }, _) => {}
        }
        outcome
    }

    fn closed(&self, origin: &Arc<Origin>, why: Why, error: &str) {
        self.said.store(true, Ordering::Relaxed);
        if origin.host.close(why) {
            tracing::warn!(host = origin.host.name, "the host is closed: its jobs wait. The last answer: {error}");
        }
        self.test_connection(origin);
    }

    /// Tries from time to time to connect to a host, while it is closed because there was no connection. Then its jobs
    /// go on at once, and not with the next one that finds out.
    fn test_connection(&self, origin: &Arc<Origin>) {
        let Some(db) = self.db.get().filter(|_| origin.host.begin_test()) else { return };
        let (db, origin) = (db.clone(), origin.clone());
        self.beside(async move {
            let mut pause = FIRST_TEST;
            loop {
                tokio::time::sleep(pause.mul_f64(0.8 + 0.4 * fastrand::f64())).await;
                if !origin.host.is_unreachable()
                    || origin.reach().await.is_ok() && tell_used(&db, &origin).await.is_some()
                {
                    break;
                }
                pause = (pause * 3 / 2).min(LONGEST_TEST);
            }
            origin.host.end_test();
        });
    }

    fn beside(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut beside = locked(&self.beside);
        while beside.try_join_next().is_some() {}
        beside.spawn(work);
    }

    fn warn(&self, what: &str, error: &str) {
        if self.failing.pass().is_some() {
            tracing::warn!("{what}: {error}");
        }
    }
}

fn tell_opened(origin: &Origin) {
    tracing::info!(host = origin.host.name, "the host is open: its jobs go on");
}

/// Tells that a host has been used; None when the database does not take it down.
async fn tell_used(db: &WorkerDb, origin: &Origin) -> Option<()> {
    match db.host_succeeded(&origin.host.name).await {
        Ok(_) => {
            if origin.host.open() {
                tell_opened(origin);
            }
            Some(())
        }
        Err(error) => {
            tracing::debug!(host = origin.host.name, "cannot tell that the host is up: {}", chain(&error));
            None
        }
    }
}
