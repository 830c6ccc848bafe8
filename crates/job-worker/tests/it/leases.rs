//! What becomes of the jobs of a worker that is killed, halted or cut off.

use std::time::{Duration, Instant};

use job_testkit::{Answer, FakeFunction, Gate, Signal, eventually};

use super::support::{Bench, LIMIT};

/// Answers `/slow` when the gate is open, everything else at once.
async fn function(gate: &Gate) -> FakeFunction {
    let gate = gate.clone();
    FakeFunction::start(move |request| {
        let gate = gate.clone();
        async move {
            if request.target == "/slow" {
                gate.passed().await;
            }
            if request.target == "/accepted" { Answer::accepted() } else { Answer::complete() }
        }
    })
    .await
}

#[tokio::test]
async fn a_killed_workers_hundred_jobs_are_done_by_another_after_its_lease() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let function = function(&gate).await;
    let worker = |id: &str| {
        bench.worker(&function.url()).env("HOSTNAME", id).env("JOBS_LEASE", "3s").env("JOBS_CONCURRENCY", "100")
    };
    let mut first = worker("worker-1").spawn();
    bench.run("SELECT app_jobs.add_job('slow') FROM generate_series(1, 100)").await;
    function.wait_for(100, LIMIT).await;
    let mut second = worker("worker-2").spawn();
    second.wait_for_line("worker looks for jobs", LIMIT).await;
    first.signal(Signal::Kill);
    first.exit(LIMIT).await;
    let killed = Instant::now();
    function.wait_for(200, LIMIT).await;
    let took = killed.elapsed();
    // The lease, a heartbeat of each of the two, and what a busy machine takes.
    assert!(took < Duration::from_secs(3 + 7), "{took:?}");
    let interrupted = "attempts = 1 AND interruptions = 1 AND locked_by = 'worker-2' AND last_error LIKE 'worker worker-1 gave no sign%'";
    assert_eq!(bench.count(interrupted).await, 100);
    gate.open();
    bench.empty().await;
    assert_eq!(function.requests().len(), 200);
}

#[tokio::test]
async fn a_halted_worker_loses_its_jobs_and_what_it_says_of_them_afterwards_changes_nothing() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let function = function(&gate).await;
    let worker = |id: &str| bench.worker(&function.url()).env("HOSTNAME", id).env("JOBS_LEASE", "2s");
    let mut first = worker("worker-1").spawn();
    let id = bench.add("slow").await;
    function.wait_for(1, LIMIT).await;
    let mut second = worker("worker-2").spawn();
    second.wait_for_line("worker looks for jobs", LIMIT).await;
    first.signal(Signal::Stop);
    function.wait_for(2, LIMIT).await;
    let live = bench.job(id).await.unwrap();
    assert_eq!(live.locked_by.as_deref(), Some("worker-2"));
    first.signal(Signal::Continue);
    gate.open();
    bench.gone(id).await;
    first.wait_for_line("job already settled", LIMIT).await;
    assert_eq!(function.requests().len(), 2);
    // It has registered again, and works on.
    second.signal(Signal::Kill);
    second.exit(LIMIT).await;
    bench.gone(bench.add("quick").await).await;
}

#[tokio::test]
async fn an_accepted_job_outlives_its_worker() {
    let bench = Bench::new().await;
    let function = function(&Gate::closed()).await;
    let worker = |id: &str| bench.worker(&function.url()).env("HOSTNAME", id).env("JOBS_LEASE", "1s");
    let mut first = worker("worker-1").spawn();
    let id = bench.add("accepted").await;
    eventually(LIMIT, async || bench.count("deadline IS NOT NULL").await == 1).await;
    let mut second = worker("worker-2").spawn();
    second.wait_for_line("worker looks for jobs", LIMIT).await;
    first.signal(Signal::Kill);
    first.exit(LIMIT).await;
    let gone = "SELECT count(*) FROM app_jobs.workers WHERE worker_id = 'worker-1'";
    eventually(LIMIT, async || bench.sql.query_one(gone, &[]).await.unwrap().get::<_, i64>(0) == 0).await;
    let job = bench.job(id).await.unwrap();
    assert_eq!((job.locked_by.as_deref(), job.attempts), (Some("worker-1"), 1), "its function holds it");
    // Whoever lives sees to the deadline.
    bench.run("UPDATE app_jobs.jobs SET deadline = now()").await;
    assert_eq!(bench.failed(id).await.last_error.as_deref(), Some("no callback within 4h"));
    assert_eq!(function.requests().len(), 1);
}

#[tokio::test]
async fn a_claim_whose_answer_is_lost_does_not_keep_its_job_for_as_long_as_its_worker_lives() {
    let bench = Bench::new().await;
    let function = function(&Gate::closed()).await;
    let mut worker = bench.worker(&function.url()).spawn();
    worker.wait_for_line("worker looks for jobs", LIMIT).await;
    bench.idle().await;
    // As such a claim leaves it: locked for the instance, which has never heard of it.
    bench
        .run(
            "BEGIN;
             SELECT app_jobs.add_job('lost');
             SELECT app_jobs.claim_jobs('worker-test', NULL, 1, NULL, instance := w.instance) FROM app_jobs.workers w;
             COMMIT",
        )
        .await;
    let lost = bench.last_id().await;
    // The worker begins to doubt when a claim fails.
    bench.run("ALTER FUNCTION app_jobs.next_run_at(text[], text[], interval) RENAME TO next_run_at_gone").await;
    bench.run("SELECT pg_notify('jobs:insert', '')").await;
    worker.wait_for_line("cannot claim, trying again", LIMIT).await;
    bench.run("ALTER FUNCTION app_jobs.next_run_at_gone(text[], text[], interval) RENAME TO next_run_at").await;
    bench.gone(lost).await;
    worker.wait_for_line("gave up jobs that this worker had lost track of", LIMIT).await;
}
