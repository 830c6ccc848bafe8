//! The network between a worker and Postgres breaks, goes silent, and comes back.

use std::time::{Duration, Instant};

use job_testkit::{Answer, FakeFunction, Gate, Proxy, Signal, throughout};

use super::support::{Bench, LIMIT};

/// Answers `/slow` and `/held` when their gates are open, everything else at once.
async fn function(slow: &Gate, held: &Gate) -> FakeFunction {
    let gates = (slow.clone(), held.clone());
    FakeFunction::start(move |request| {
        let (slow, held) = gates.clone();
        async move {
            match request.target.as_str() {
                "/slow" => slow.passed().await,
                "/held" => held.passed().await,
                _ => {}
            }
            Answer::complete()
        }
    })
    .await
}

#[tokio::test]
async fn ten_seconds_without_a_network_and_a_cut_cost_no_job_and_no_second_run() {
    let bench = Bench::new().await;
    let proxy = Proxy::start(bench.db.address().1).await.unwrap();
    let (slow, held) = (Gate::closed(), Gate::closed());
    let function = function(&slow, &held).await;
    let first = bench.worker(&function.url()).env("HOSTNAME", "worker-1").env("PGHOST", "127.0.0.1");
    let first = first.env("PGPORT", proxy.port().to_string()).env("JOBS_STATEMENT_TIMEOUT", "2s");
    let mut first = first.spawn();
    first.wait_for_line("worker looks for jobs", LIMIT).await;
    bench.run("SELECT app_jobs.add_job('slow') FROM generate_series(1, 10)").await;
    function.wait_for(10, LIMIT).await;
    let mut second = bench.worker(&function.url()).env("HOSTNAME", "worker-2").spawn();
    second.wait_for_line("worker looks for jobs", LIMIT).await;

    proxy.blackhole();
    let silent_since = Instant::now();
    slow.open();
    bench.run("SELECT app_jobs.add_job('other') FROM generate_series(1, 10)").await;
    function.wait_for(20, LIMIT).await;
    first.wait_for_line("outcomes wait for Postgres: complete got no answer within 2s", LIMIT).await;
    // Its jobs are kept, and not rescued.
    let kept = "locked_by = 'worker-1' AND task_identifier = 'slow'";
    let rest = Duration::from_secs(10).saturating_sub(silent_since.elapsed());
    throughout(rest, async || bench.count(kept).await == 10).await;
    proxy.restore();
    bench.empty().await;
    assert_eq!(function.requests().len(), 20);

    // With an hour between two polls, only a new LISTEN can tell of the next job.
    second.signal(Signal::Term);
    assert_eq!(second.exit_code(LIMIT).await, 0);
    first.wait_for_line("listening again", LIMIT).await;
    let added = Instant::now();
    bench.gone(bench.add("after").await).await;
    assert!(added.elapsed() < Duration::from_secs(3), "{:?}", added.elapsed());

    bench.run("SELECT app_jobs.add_job('held') FROM generate_series(1, 10)").await;
    function.wait_for(31, LIMIT).await;
    proxy.cut();
    held.open();
    bench.empty().await;
    bench.gone(bench.add("after").await).await;
    assert_eq!(function.requests().len(), 32);
    first.signal(Signal::Term);
    assert_eq!(first.exit_code(LIMIT).await, 0, "{}", first.output());
}

#[tokio::test]
async fn a_half_open_connection_is_noticed_and_left_within_the_lease() {
    let bench = Bench::new().await;
    let port = bench.db.address().1;
    let (one, other) = (Proxy::start(port).await.unwrap(), Proxy::start(port).await.unwrap());
    let (slow, held) = (Gate::closed(), Gate::closed());
    let function = function(&slow, &held).await;
    let url =
        format!("postgres://127.0.0.1:{},127.0.0.1:{}/{}?connect_timeout=1", one.port(), other.port(), bench.db.name());
    let worker = |id: &str| bench.worker(&function.url()).env("HOSTNAME", id).env("JOBS_LEASE", "10s");
    let mut first = worker("worker-1").env("DATABASE_URL", url).env("JOBS_STATEMENT_TIMEOUT", "1s").spawn();
    first.wait_for_line("worker looks for jobs", LIMIT).await;
    let id = bench.add("slow").await;
    function.wait_for(1, LIMIT).await;
    // Would take over the job after the lease, and takes no other.
    let tasks = [("JOBS_SUPPORT_ANY", "false"), ("JOBS_SUPPORTED", "slow")];
    let mut second = worker("worker-2").envs(tasks).spawn();
    second.wait_for_line("worker looks for jobs", LIMIT).await;
    bench.idle().await;

    // Everything it has leads into silence for good. It has nothing to do but listen.
    one.blackhole();
    let silent_since = Instant::now();
    bench.gone(bench.add("heard").await).await;
    let took = silent_since.elapsed();
    assert!(took < Duration::from_secs(9), "{took:?}: {}", first.output());
    first.wait_for_line("listening again", LIMIT).await;
    // Until the lease has passed since, and a heartbeat of the other: it has been kept.
    let kept = "locked_by = 'worker-1' AND last_error IS NULL";
    throughout(Duration::from_secs(13), async || bench.count(kept).await == 1).await;
    slow.open();
    bench.gone(id).await;
    assert_eq!(function.requests().len(), 2);
    assert_eq!(first.lines().iter().filter(|line| line.contains("listening connection is lost")).count(), 1);
}
