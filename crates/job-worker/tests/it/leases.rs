//! What becomes of the jobs of a worker that is killed, halted or cut off.

use std::time::{Duration, Instant};

use job_testkit::{Answer, FakeFunction, Gate, Proxy, Signal, eventually};

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
        bench.worker(&function.url()).env("HOSTNAME", id).env("JOBS_LEASE", "5s").env("JOBS_CONCURRENCY", "100")
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
    assert!(took < Duration::from_secs(5 + 10), "{took:?}");
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
    let worker = |id: &str| bench.worker(&function.url()).env("HOSTNAME", id).env("JOBS_LEASE", "5s");
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
    let worker = |id: &str| bench.worker(&function.url()).env("HOSTNAME", id).env("JOBS_LEASE", "5s");
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
    let url = url::Url::parse(bench.db.url()).unwrap();
    let proxy = Proxy::start(url.port().unwrap()).await.unwrap();
    let worker = bench.worker(&function.url()).env("PGHOST", "127.0.0.1").env("PGPORT", proxy.port().to_string());
    let mut worker = worker.spawn();
    worker.wait_for_line("worker looks for jobs", LIMIT).await;
    bench.idle().await;
    // The claim is carried out; its answer is on its way, and never arrives.
    proxy.delay(Duration::from_secs(1));
    let id = bench.add("quick").await;
    bench.held(id).await;
    proxy.cut();
    proxy.restore();
    worker.wait_for_line("gave up jobs that this worker had lost track of", LIMIT).await;
    bench.gone(id).await;
    assert_eq!(function.requests().len(), 1);
}
