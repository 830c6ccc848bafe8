//! Named queues through real workers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use job_testkit::cluster::free_port;
use job_testkit::{Answer, FakeFunction, Gate};
use tokio::sync::watch;

use super::support::{Bench, LIMIT};

#[tokio::test]
async fn the_jobs_of_a_named_queue_run_in_order_and_never_overlap_with_two_workers() {
    let bench = Bench::new().await;
    let running = Arc::new([watch::Sender::new(0), watch::Sender::new(0)]);
    let seen = Arc::new(Mutex::new([Vec::new(), Vec::new()]));
    let order = seen.clone();
    let function = FakeFunction::start(move |request| {
        let (running, order) = (running.clone(), order.clone());
        async move {
            let payload = request.json();
            let queue = usize::from(payload["queue"] == "b");
            let running = &running[queue];
            let others = *running.borrow();
            running.send_modify(|count| *count += 1);
            order.lock().unwrap()[queue].push((payload["n"].as_i64().unwrap(), others));
            // Somebody else is given time to break the rule.
            let _ =
                tokio::time::timeout(Duration::from_millis(5), running.subscribe().wait_for(|count| *count > 1)).await;
            running.send_modify(|count| *count -= 1);
            Answer::complete()
        }
    })
    .await;
    let worker = |name: &str| bench.worker(&function.url()).env("HOSTNAME", name).spawn();
    let _workers = [worker("worker-1"), worker("worker-2")];
    bench
        .run(
            "SELECT app_jobs.add_job('step', json_build_object('queue', q, 'n', n), queue_name := q) \
             FROM generate_series(1, 60) n, unnest(ARRAY['a', 'b']) q ORDER BY n",
        )
        .await;
    bench.empty().await;
    for queue in seen.lock().unwrap().iter() {
        let expected: Vec<_> = (1..=60).map(|n| (n, 0)).collect();
        assert_eq!(queue, &expected, "(number, others running at its start)");
    }
}

#[tokio::test]
async fn a_queue_is_held_by_an_accepted_job_until_its_callback() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::accepted()).await;
    let port = free_port().unwrap();
    let mut server = bench.server(port).spawn();
    server.wait_for_line("callback server listens", LIMIT).await;
    let url = format!("http://127.0.0.1:{port}");
    let mut worker = bench.worker(&function.url()).env("INTERNAL_JOBS_CALLBACK_URL", &url).spawn();
    bench.add_with("first", "{}", ", queue_name := 'line'").await;
    let first = function.wait_for(1, LIMIT).await.remove(0);
    worker.wait_for_line("job accepted", LIMIT).await;
    let second = bench.add_with("second", "{}", ", queue_name := 'line'").await;
    // A job outside the queue shows that the worker has looked since.
    bench.add("outside").await;
    let requests = function.wait_for(2, LIMIT).await;
    assert_eq!(requests[1].target, "/outside");
    assert!(!bench.job(second).await.unwrap().locked);
    // The freed queue wakes the worker, without a poll.
    assert_eq!(first.call_back().await.0, 200);
    assert_eq!(function.wait_for(3, LIMIT).await[2].target, "/second");
}

#[tokio::test]
async fn a_failed_job_that_waits_for_its_retry_does_not_block_its_queue() {
    let bench = Bench::new().await;
    let function = FakeFunction::start(
        async |request| {
            if request.target == "/bad" { Answer::status(500) } else { Answer::complete() }
        },
    )
    .await;
    let bad = bench.add_with("bad", "{}", ", queue_name := 'line'").await;
    let good = bench.add_with("good", "{}", ", queue_name := 'line'").await;
    let _worker = bench.worker(&function.url()).spawn();
    bench.gone(good).await;
    let waiting = bench.job(bad).await.unwrap();
    assert_eq!((waiting.attempts, waiting.locked), (1, false));
}

#[tokio::test]
async fn a_busy_queue_does_not_hold_up_other_queues_or_jobs_without_one() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let function = FakeFunction::waiting(&gate, |target| target == "/slow", Answer::complete()).await;
    bench.add_with("slow", "{}", ", queue_name := 'busy', priority := -1").await;
    bench
        .run("SELECT app_jobs.add_job('next', queue_name := 'busy', priority := -1) FROM generate_series(1, 50)")
        .await;
    let _worker = bench.worker(&function.url()).spawn();
    function.wait_for(1, LIMIT).await;
    let other = bench.add_with("other", "{}", ", queue_name := 'idle'").await;
    let none = bench.add("none").await;
    bench.gone(other).await;
    bench.gone(none).await;
    assert_eq!(bench.count("task_identifier = 'next'").await, 50);
    gate.open();
    bench.empty().await;
}
