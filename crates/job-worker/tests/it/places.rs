//! Several jobs in flight at once, up to JOBS_CONCURRENCY.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use job_testkit::{Answer, FakeFunction, Gate, eventually};

use super::support::{Bench, LIMIT};

/// A function that answers when the gate is open, and the number of requests waiting at it.
async fn gated(gate: &Gate, answer: Answer) -> FakeFunction {
    let gate = gate.clone();
    FakeFunction::start(move |_| {
        let (gate, answer) = (gate.clone(), answer.clone());
        async move {
            gate.passed().await;
            answer
        }
    })
    .await
}

#[tokio::test]
async fn jobs_are_in_flight_together_up_to_the_concurrency() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let function = gated(&gate, Answer::complete()).await;
    let _worker = bench.worker(&function.url()).env("JOBS_CONCURRENCY", "3").spawn();
    bench.run("SELECT app_jobs.add_job('batch', json_build_object('n', n)) FROM generate_series(1, 5) n").await;
    function.wait_for(3, LIMIT).await;
    assert_eq!(bench.count("locked_at IS NOT NULL").await, 3, "what has no place is not claimed");
    assert_eq!(function.requests().len(), 3);
    gate.open();
    bench.empty().await;
    assert_eq!(function.requests().len(), 5);
}

#[tokio::test]
async fn by_default_sixteen_jobs_are_in_flight() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let function = gated(&gate, Answer::complete()).await;
    bench.run("SELECT app_jobs.add_job('batch') FROM generate_series(1, 20)").await;
    let _worker = bench.worker(&function.url()).spawn();
    function.wait_for(16, LIMIT).await;
    assert_eq!(bench.count("locked_at IS NOT NULL").await, 16);
    gate.open();
    bench.empty().await;
}

#[tokio::test]
async fn a_free_place_is_taken_as_soon_as_one_job_ends() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let function = FakeFunction::waiting(&gate, |target| target == "/slow", Answer::complete()).await;
    let _worker = bench.worker(&function.url()).env("JOBS_CONCURRENCY", "2").spawn();
    bench.add("slow").await;
    bench.run("SELECT app_jobs.add_job('quick') FROM generate_series(1, 30)").await;
    // One place is held all the time; the other does everything else.
    eventually(LIMIT, async || bench.count("task_identifier = 'quick'").await == 0).await;
    assert_eq!(bench.count("task_identifier = 'slow' AND locked_at IS NOT NULL").await, 1);
    gate.open();
    bench.empty().await;
}

#[tokio::test]
async fn an_accepted_job_holds_no_place() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::accepted()).await;
    let _worker = bench.worker(&function.url()).env("JOBS_CONCURRENCY", "1").spawn();
    bench.run("SELECT app_jobs.add_job('long') FROM generate_series(1, 40)").await;
    function.wait_for(40, LIMIT).await;
    assert_eq!(bench.count("locked_by = 'worker-test' AND attempts = 1").await, 40);
}

#[tokio::test]
async fn a_job_is_sent_once_by_four_workers_and_no_two_take_the_same() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    bench.run("SELECT app_jobs.add_job('once', json_build_object('n', n)) FROM generate_series(1, 1000) n").await;
    let worker = |n| bench.worker(&function.url()).env("HOSTNAME", format!("worker-{n}")).spawn();
    let _workers: Vec<_> = (1..=4).map(worker).collect();
    bench.empty().await;
    let requests = function.requests();
    let mut numbers: Vec<u64> = requests.iter().map(|request| request.json()["n"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=1000).collect::<Vec<_>>());
}

#[tokio::test]
async fn jobs_start_in_the_order_of_priority_then_run_at_then_id() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    for (task, priority, ago) in [("e", 5, 9), ("c", 0, 3), ("d", 0, 2), ("b", 0, 9), ("a", -5, 1)] {
        let more = format!(", priority := {priority}, run_at := now() - interval '{ago} minutes'");
        bench.add_with(task, "{}", &more).await;
    }
    let _worker = bench.worker(&function.url()).env("JOBS_CONCURRENCY", "1").spawn();
    bench.empty().await;
    let order: Vec<_> = function.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(order, ["/a", "/b", "/c", "/d", "/e"]);
}

#[tokio::test]
async fn a_slow_function_does_not_hold_up_another() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let slow = gated(&gate, Answer::complete()).await;
    let running = Arc::new(AtomicUsize::new(0));
    let counter = running.clone();
    let quick = FakeFunction::start(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Answer::complete())
    })
    .await;
    let map = format!(r#"{{"slow": "{}"}}"#, slow.url());
    let _worker = bench.worker(&quick.url()).env("INTERNAL_GATEWAY_DEVELOPMENT_MAP", map).spawn();
    bench.add("slow").await;
    slow.wait_for(1, Duration::from_secs(20)).await;
    bench.gone(bench.add("quick").await).await;
    assert_eq!(running.load(Ordering::Relaxed), 1);
    gate.open();
    bench.empty().await;
}
