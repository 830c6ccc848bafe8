//! What a listener is told of attempts, however they end: each that starts ends, once.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use job_testkit::{Answer, FakeFunction, eventually};
use job_utils::events::Source;
use job_worker::{Context, Db, Event, Outcome, Shutdown, TaskOptions, Worker, WorkerConfig};

use super::support::{Bench, LIMIT};

/// What was told of attempts and of what became of their jobs.
#[derive(Default)]
struct Told {
    /// How often each attempt has started and ended.
    attempts: BTreeMap<(i64, Option<i32>), (usize, usize)>,
    /// What each job's events were.
    jobs: BTreeMap<i64, Vec<String>>,
}

impl Told {
    fn add(&mut self, event: &Event<'_>) {
        let name = format!("{event:?}").split([' ', '(']).next().unwrap_or_default().to_owned();
        let job = match event {
            Event::AttemptStarted(attempt) => {
                self.attempts.entry((attempt.job_id, attempt.number)).or_default().0 += 1;
                attempt.job_id
            }
            Event::AttemptEnded(attempt) => {
                assert!(attempt.duration.is_some());
                self.attempts.entry((attempt.job_id, attempt.number)).or_default().1 += 1;
                attempt.job_id
            }
            Event::JobFailed { attempt, error } if attempt.source == Source::Rescue => {
                let task = attempt.task.unwrap_or_default();
                let told = format!("{name} {task} {:?} of {:?}: {error}", attempt.number, attempt.max_attempts);
                return self.jobs.entry(attempt.job_id).or_default().push(told);
            }
            Event::JobAccepted(attempt)
            | Event::JobCompleted(attempt)
            | Event::JobRetrying { attempt, .. }
            | Event::JobFailed { attempt, .. }
            | Event::JobSnoozed { attempt, .. }
            | Event::JobReleased { attempt, .. }
            | Event::OutcomeRefused { attempt, .. } => attempt.job_id,
            Event::CallbackOverdue { job_id } => *job_id,
            Event::JobsTakenAway { jobs: [job] } => *job,
            Event::JobsRescued { jobs: [job], .. } => *job,
            // What came too late is told beside what happened.
            _ => return,
        };
        self.jobs.entry(job).or_default().push(name);
    }
}

/// Records what a worker tells.
fn recorded(config: WorkerConfig, db: Db) -> (job_worker::WorkerBuilder, Arc<Mutex<Told>>) {
    let told = Arc::new(Mutex::new(Told::default()));
    let adding = told.clone();
    (Worker::builder(db).config(config).on_event(move |event| adding.lock().unwrap().add(event)), told)
}

/// Waits until these events were told of a job, first and in this order. A later attempt may follow.
async fn is_told(told: &Mutex<Told>, job: i64, events: &[&str]) {
    let of_job = || told.lock().unwrap().jobs.get(&job).cloned().unwrap_or_default();
    eventually(LIMIT, async || of_job().len() >= events.len()).await;
    assert_eq!(of_job()[..events.len()], *events);
}

#[tokio::test]
async fn each_attempt_that_starts_ends_once_however_it_ends() {
    let bench = Bench::new().await;
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
                  $$ BEGIN RAISE EXCEPTION 'it stays'; END $$; \
                  CREATE TRIGGER refuse BEFORE DELETE ON app_jobs.jobs FOR EACH ROW \
                  WHEN (old.task_identifier = 'refused') EXECUTE FUNCTION refuse()";
    bench.run(refuse).await;
    let function = FakeFunction::start(async |request| match &*request.target {
        "/answers" => Answer::complete(),
        "/fails" => Answer::text(500, "no"),
        "/accepts" => Answer::accepted(),
        _ => pending().await,
    })
    .await;
    let mut config = WorkerConfig::default();
    config.lease = Duration::from_secs(1);
    config.shutdown_grace = Duration::from_millis(300);
    let (worker, told) = recorded(config, Db::from_url(bench.db.url()).unwrap());
    let mut worker = worker.dispatch(&function.url(), "http://127.0.0.1:9");
    let ending = async |context: Context| match &*context.job().task {
        "completes" | "refused" => Outcome::Complete,
        "retries" => Outcome::retry("no"),
        "discards" => Outcome::discard("no"),
        "snoozes" => Outcome::snooze(Duration::from_secs(3600)),
        "panics" => panic!("a bug"),
        _ => pending().await,
    };
    for task in ["completes", "refused", "retries", "discards", "snoozes", "panics", "hangs", "is_taken"] {
        worker = worker.raw_task(task, TaskOptions::new(), ending);
    }
    let short = TaskOptions::new().timeout(Duration::from_millis(100));
    let worker = worker.raw_task("is_late", short, ending).build().unwrap();
    let shutdown = Shutdown::new();
    let running = tokio::spawn(worker.run(shutdown.clone()));

    for (task, becomes) in [
        ("completes", "JobCompleted"),
        ("retries", "JobRetrying"),
        ("discards", "JobFailed"),
        ("snoozes", "JobSnoozed"),
        ("panics", "JobRetrying"),
        ("is_late", "JobRetrying"),
        ("answers", "JobCompleted"),
        ("fails", "JobRetrying"),
        ("accepts", "JobAccepted"),
    ] {
        let job = bench.add(task).await;
        is_told(&told, job, &["AttemptStarted", "AttemptEnded", becomes]).await;
    }
    let refused = bench.add("refused").await;
    let sees = |job: i64, event: &'static str| {
        let told = told.clone();
        eventually(LIMIT, async move || {
            told.lock().unwrap().jobs.get(&job).is_some_and(|events| events.iter().any(|told| told == event))
        })
    };
    sees(refused, "OutcomeRefused").await;
    for task in ["is_taken", "is_taken_over_there"] {
        let taken = bench.add(task).await;
        sees(taken, "AttemptStarted").await;
        bench.run(&format!("DELETE FROM app_jobs.jobs WHERE id = {taken}")).await;
        sees(taken, "JobsTakenAway").await;
        sees(taken, "AttemptEnded").await;
    }
    // A stop gives them back while they run.
    let (here, there) = (bench.add("hangs").await, bench.add("hangs_over_there").await);
    sees(here, "AttemptStarted").await;
    sees(there, "AttemptStarted").await;
    shutdown.trigger();
    let stopped = running.await.unwrap().unwrap();
    assert!(stopped.released >= 2, "{stopped:?}");
    is_told(&told, here, &["AttemptStarted", "AttemptEnded"]).await;
    is_told(&told, there, &["AttemptStarted", "AttemptEnded"]).await;

    let attempts = &told.lock().unwrap().attempts;
    assert!(attempts.len() >= 14, "{attempts:?}");
    assert!(attempts.values().all(|(starts, ends)| starts == ends), "{attempts:?}");
    // What was refused is interrupted, which is not counted: it starts again as the first.
    let mut others = attempts.iter().filter(|((job, _), _)| *job != refused);
    assert!(others.all(|(_, each)| *each == (1, 1)), "{attempts:?}");
}

#[tokio::test]
async fn a_job_that_ends_by_its_last_interruption_or_without_its_callback_has_failed_with_its_task() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::accepted()).await;
    let mut config = WorkerConfig::default();
    config.lease = Duration::from_secs(1);
    config.callback_timeout = Duration::from_secs(1);
    let (worker, told) = recorded(config, Db::from_url(bench.db.url()).unwrap());
    let worker = worker.dispatch(&function.url(), "http://127.0.0.1:9").build().unwrap();
    let shutdown = Shutdown::new();
    let running = tokio::spawn(worker.run(shutdown.clone()));

    let last = bench.add_with("accepts", "{}", ", max_attempts := 1").await;
    let started = ["AttemptStarted", "AttemptEnded", "JobAccepted", "CallbackOverdue"];
    let failed = "JobFailed accepts Some(1) of Some(1): no callback within 1s";
    is_told(&told, last, &[&started[..], &[failed]].concat()).await;
    let first = bench.add_with("accepts", "{}", ", max_attempts := 2").await;
    is_told(&told, first, &started).await;

    // Jobs of a worker that went silent: the one's attempt counts, and is its last; the other's does not count.
    let dead = "00000000-0000-4000-8000-00000000000a";
    for (attempts, interruptions) in [(2, 3), (2, 2)] {
        bench
            .run(&format!(
                "BEGIN; \
                 SELECT app_jobs.add_job('interrupted', max_attempts := {attempts}, queue_name := 'a'); \
                 UPDATE app_jobs.jobs SET attempts = {attempts}, interruptions = {interruptions}, last_error = 'no', \
                        locked_by = 'dead-1', locked_at = now() - interval '1 h', instance = '{dead}', epoch = 1 \
                  WHERE id = (SELECT max(id) FROM app_jobs.jobs); \
                 INSERT INTO app_jobs.workers (instance, worker_id, lease, listens, heartbeat_at, steady_since) \
                 VALUES ('{dead}', 'dead-1', '1 s', false, now() - interval '1 h', now() - interval '2 h'); \
                 COMMIT"
            ))
            .await;
        let job = bench.last_id().await;
        let error = "worker dead-1 gave no sign of life for 1.0 s (JOBS_LEASE) while it ran the job";
        let failed = format!("JobFailed interrupted Some(2) of Some(2): {error}");
        if interruptions == 3 {
            is_told(&told, job, &["JobsRescued", &failed]).await;
        } else {
            is_told(&told, job, &["JobsRescued", "AttemptStarted", "AttemptEnded", "JobAccepted"]).await;
        }
    }
    shutdown.trigger();
    running.await.unwrap().unwrap();
}
