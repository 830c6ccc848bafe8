//! A worker that has no descriptor left for a connection.

use job_testkit::{Answer, FakeFunction, Gate, eventually};

use super::support::{Bench, LIMIT};

#[tokio::test]
async fn a_job_for_which_no_descriptor_is_left_loses_no_attempt() {
    const JOBS: usize = 30;
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let function = FakeFunction::waiting(&gate, |_| true, Answer::complete()).await;
    let mut worker = bench.worker(&function.url()).env("JOBS_CONCURRENCY", JOBS.to_string()).spawn();
    worker.wait_for_line("worker looks for jobs", LIMIT).await;
    // What it opens for its own work is open.
    let first = bench.add("first").await;
    eventually(LIMIT, async || function.requests().len() == 1).await;
    worker.limit_descriptors(8);
    for _ in 1..JOBS {
        bench.add_with("task", "{}", ", max_attempts := 1").await;
    }
    // Others may say as much of their connections before.
    let line = worker.wait_for_line("lower JOBS_CONCURRENCY", LIMIT).await;
    assert!(line.contains("WARN") && line.contains("Too many open files"), "{line}");
    eventually(LIMIT, async || bench.count("last_error LIKE '%Too many open files%' AND attempts = 0").await > 0).await;
    assert_eq!(bench.count("attempts > 1 OR attempts = 1 AND locked_at IS NULL").await, 0);
    gate.open();
    // Those that were put off run when there is room.
    bench.empty().await;
    assert_eq!(function.requests().len(), JOBS, "each was sent once");
    assert!(bench.job(first).await.is_none());
}
