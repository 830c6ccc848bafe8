//! Outcomes that Postgres does not take: they hold up no others, and no more than a thousand wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use job_testkit::{Answer, FakeFunction, eventually};
use job_utils::events::Event;
use job_worker::{Context, Db, HandlerResult, Shutdown, TaskOptions, Worker};

use super::support::{Bench, LIMIT};

/// A trigger of the application's that refuses the end of the jobs of task `poison`, with the SQLSTATE in the payload.
const POISON: &str = "
    CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE 'poisoned' USING ERRCODE = OLD.payload->>'code';
    END $$;
    CREATE TRIGGER poison BEFORE DELETE ON app_jobs.jobs FOR EACH ROW WHEN (OLD.task_identifier = 'poison')
        EXECUTE FUNCTION poison()";

/// What looks as if the server were away, or the schema being restored, and is neither.
const TRANSIENT: [&str; 9] = ["42P01", "42883", "3F000", "08006", "53200", "57014", "57P01", "25006", "40001"];

#[tokio::test]
async fn an_outcome_that_a_trigger_answers_with_any_transient_error_holds_up_no_other_and_is_tried_again() {
    let bench = Bench::new().await;
    bench.run(POISON).await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let mut worker = bench.worker(&function.url()).env("JOBS_CONCURRENCY", "20").spawn();
    let mut poisoned = Vec::new();
    for code in TRANSIENT {
        poisoned.push(bench.add_with("poison", &format!("{{\"code\": \"{code}\"}}"), "").await);
        bench.run("SELECT app_jobs.add_job('good') FROM generate_series(1, 50)").await;
    }
    eventually(LIMIT, async || bench.count("task_identifier = 'good'").await == 0).await;
    let line = worker.wait_for_line("Postgres answers the outcome with an error", LIMIT).await;
    assert!(line.contains("poison"), "{line}");
    let named = |line: &str| poisoned.iter().any(|id| line.contains(&format!("job.id={id} ")));
    assert!(named(&line), "{line}");
    // More of them after that are settled as well.
    let last = bench.add("good").await;
    bench.gone(last).await;
    assert_eq!(bench.count("attempts = 1 AND locked_at IS NOT NULL").await, 9, "each is held by its first attempt");

    bench.run("DROP TRIGGER poison ON app_jobs.jobs").await;
    bench.empty().await;
    let sent = function.requests().iter().filter(|request| request.target == "/poison").count();
    assert_eq!(sent, 9, "none was sent twice");
}

/// What /readyz of a worker says comes of it as well.
#[tokio::test]
async fn no_more_than_a_thousand_outcomes_wait_whatever_for_and_then_the_slots_wait() {
    const SLOTS: usize = 20;
    #[derive(Default)]
    struct Counts {
        ended: AtomicUsize,
        settled: AtomicUsize,
        most: AtomicUsize,
    }
    async fn quick(context: Context<Arc<Counts>>) -> HandlerResult {
        let counts = context.state();
        let ended = counts.ended.fetch_add(1, SeqCst) + 1;
        counts.most.fetch_max(ended - counts.settled.load(SeqCst), SeqCst);
        Ok(())
    }
    let bench = Bench::new().await;
    bench
        .run(
            "CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 RAISE lock_not_available;
             END $$;
             CREATE TRIGGER held BEFORE DELETE ON app_jobs.jobs FOR EACH ROW EXECUTE FUNCTION held();
             INSERT INTO app_jobs.jobs (task_identifier) SELECT 'quick' FROM generate_series(1, 3000)",
        )
        .await;
    let counts = Arc::<Counts>::default();
    let settled = counts.clone();
    let db = Db::from_url(bench.db.url()).unwrap();
    let worker = Worker::builder(db.clone())
        .concurrency(SLOTS)
        .state(counts.clone())
        .raw_task("quick", TaskOptions::new(), quick)
        .on_event(move |event| {
            if matches!(event, Event::JobCompleted(_)) {
                settled.settled.fetch_add(1, SeqCst);
            }
        })
        .build()
        .unwrap();
    let shutdown = Shutdown::new();
    let running = tokio::spawn(worker.run(shutdown.clone()));
    eventually(LIMIT, async || counts.ended.load(SeqCst) == 1000 + SLOTS).await;
    let stuck = db.settles().unwrap_err().to_string();
    assert!(stuck.contains(" outcomes of jobs are not stored") && stuck.contains("holds their rows"), "{stuck}");
    bench.run("DROP TRIGGER held ON app_jobs.jobs").await;
    bench.empty().await;
    db.settles().unwrap();
    assert_eq!(counts.ended.load(SeqCst), 3000, "each ran once");
    let most = counts.most.load(SeqCst);
    assert!((1000..=1000 + SLOTS).contains(&most), "{most} outcomes waited");
    shutdown.trigger();
    running.await.unwrap().unwrap();
}

/// Whoever holds rows of running jobs holds up their outcomes, and those of no others.
#[tokio::test]
async fn outcomes_whose_rows_somebody_holds_are_asked_about_and_the_others_stored() {
    let bench = Bench::new().await;
    let gate = job_testkit::Gate::closed();
    let function = FakeFunction::waiting(&gate, |target| target == "/held", Answer::complete()).await;
    let worker = bench.worker(&function.url()).env("JOBS_CONCURRENCY", "40");
    let mut worker = worker.spawn();
    bench.run("SELECT app_jobs.add_job('held') FROM generate_series(1, 30)").await;
    eventually(LIMIT, async || bench.count("locked_at IS NOT NULL").await == 30).await;
    let holder = bench.db.connect().await;
    holder.batch_execute("BEGIN; SELECT FROM app_jobs.jobs WHERE id % 3 = 0 FOR UPDATE").await.unwrap();
    gate.open();
    eventually(LIMIT, async || bench.count("true").await == 10).await;
    let line = worker.wait_for_line("waits for a row that another transaction holds", LIMIT).await;
    assert!(line.contains("held") && line.contains("job.id="), "{line}");
    let last = bench.add("good").await;
    bench.gone(last).await;
    holder.batch_execute("COMMIT").await.unwrap();
    bench.empty().await;
    assert_eq!(function.requests().len(), 31);
}
