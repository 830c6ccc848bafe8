//! How a worker ends, and what it leaves behind.

use std::time::{Duration, Instant};

use job_testkit::cluster::free_port;
use job_testkit::{Answer, FakeFunction, Gate, Signal, eventually};

use super::support::{Bench, ID, LIMIT};

/// A function that answers when the gate is open.
async fn gated(gate: &Gate) -> FakeFunction {
    let gate = gate.clone();
    FakeFunction::start(move |_| {
        let gate = gate.clone();
        async move {
            gate.passed().await;
            Answer::complete()
        }
    })
    .await
}

#[tokio::test]
async fn a_stop_waits_for_the_jobs_in_flight_and_claims_no_more() {
    for signal in [Signal::Term, Signal::Int] {
        let bench = Bench::new().await;
        let gate = Gate::closed();
        let function = gated(&gate).await;
        let mut worker = bench.worker(&function.url()).spawn();
        bench.run("SELECT app_jobs.add_job('running') FROM generate_series(1, 5)").await;
        function.wait_for(5, LIMIT).await;
        worker.signal(signal);
        worker.wait_for_line("waiting for jobs in flight", LIMIT).await;
        let late = bench.add("late").await;
        gate.open();
        assert_eq!(worker.exit_code(LIMIT).await, 0);
        assert_eq!(bench.count("true").await, 1, "the running ones are done");
        let late = bench.job(late).await.unwrap();
        assert_eq!((late.locked, late.attempts), (false, 0));
        assert_eq!(function.requests().len(), 5);
        worker.wait_for_line("worker stopped finished=5 released=0 orphaned=0", LIMIT).await;
    }
}

#[tokio::test]
async fn a_stop_with_a_hundred_jobs_in_flight_repeats_none() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let function = gated(&gate).await;
    let mut worker = bench.worker(&function.url()).env("JOBS_CONCURRENCY", "100").spawn();
    bench.run("SELECT app_jobs.add_job('running') FROM generate_series(1, 150)").await;
    function.wait_for(100, LIMIT).await;
    worker.signal(Signal::Term);
    worker.wait_for_line("waiting for jobs in flight jobs=100", LIMIT).await;
    gate.open();
    assert_eq!(worker.exit_code(LIMIT).await, 0);
    worker.wait_for_line("worker stopped finished=100 released=0 orphaned=0 accepted=0", LIMIT).await;
    let _next = bench.worker(&function.url()).spawn();
    bench.empty().await;
    let requests = function.requests();
    let ids: std::collections::BTreeSet<_> = requests.iter().filter_map(|request| request.header("x-job-id")).collect();
    assert_eq!((requests.len(), ids.len()), (150, 150));
}

#[tokio::test]
async fn an_idle_worker_stops_at_once() {
    let bench = Bench::new().await;
    let mut worker = bench.worker("http://127.0.0.1:9").spawn();
    worker.wait_for_line("worker looks for jobs", LIMIT).await;
    let started = Instant::now();
    worker.signal(Signal::Term);
    assert_eq!(worker.exit_code(LIMIT).await, 0);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test]
async fn jobs_that_outlast_the_grace_are_given_back_with_their_attempt() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let function = gated(&gate).await;
    let mut worker = bench.worker(&function.url()).env("JOBS_SHUTDOWN_GRACE", "1s").spawn();
    let id = bench.add("long").await;
    let queued = bench.add_with("long", "{}", ", queue_name := 'line'").await;
    function.wait_for(2, LIMIT).await;
    worker.signal(Signal::Term);
    assert_eq!(worker.exit_code(Duration::from_secs(10)).await, 0);
    for id in [id, queued] {
        let job = bench.job(id).await.expect("no job is lost");
        assert_eq!((job.locked, job.locked_by.as_deref(), job.attempts, job.last_error), (false, None, 0, None));
    }
    let locked = "SELECT count(*) FROM app_jobs.job_queues WHERE locked_at IS NOT NULL";
    assert_eq!(bench.sql.query_one(locked, &[]).await.unwrap().get::<_, i64>(0), 0);
    worker.wait_for_line("worker stopped finished=0 released=2 orphaned=0", LIMIT).await;

    // The next worker takes them at once.
    gate.open();
    let _next = bench.worker(&function.url()).env("HOSTNAME", "next-worker").spawn();
    bench.empty().await;
}

#[tokio::test]
async fn an_accepted_job_can_be_called_back_during_the_stop_which_then_ends_early() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::accepted()).await;
    let port = free_port().unwrap();
    let mut server = bench.server(port).spawn();
    server.wait_for_line("callback server listens", LIMIT).await;
    let url = format!("http://127.0.0.1:{port}");
    let mut worker = bench.worker(&function.url()).env("INTERNAL_JOBS_CALLBACK_URL", &url).spawn();
    let id = bench.add("accepted").await;
    worker.wait_for_line("job accepted", LIMIT).await;
    worker.signal(Signal::Term);
    worker.wait_for_line("waiting for callbacks", LIMIT).await;
    let started = Instant::now();
    assert_eq!(function.requests()[0].call_back().await.0, 200);
    assert_eq!(bench.job(id).await, None);
    assert_eq!(worker.exit_code(LIMIT).await, 0);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn an_accepted_job_that_is_not_called_back_during_the_grace_is_left_to_its_function() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::accepted()).await;
    let port = free_port().unwrap();
    let _server = bench.server(port).spawn();
    let url = format!("http://127.0.0.1:{port}");
    let worker = bench.worker(&function.url()).env("JOBS_SHUTDOWN_GRACE", "1s");
    let mut worker = worker.env("INTERNAL_JOBS_CALLBACK_URL", &url).spawn();
    let id = bench.add("accepted").await;
    worker.wait_for_line("job accepted", LIMIT).await;
    worker.signal(Signal::Term);
    assert_eq!(worker.exit_code(Duration::from_secs(10)).await, 0);
    worker.wait_for_line("worker stopped finished=0 released=0 orphaned=0 accepted=1", LIMIT).await;
    let job = bench.job(id).await.unwrap();
    assert_eq!((job.locked_by.as_deref(), job.attempts, job.last_error), (Some(ID), 1, None));
    assert_eq!(bench.count("deadline > now() + interval '3 h'").await, 1);
    // Nobody takes it from the function, not even a worker of the same name; and the callback counts.
    let mut next = bench.worker(&function.url()).spawn();
    next.wait_for_line("worker looks for jobs", LIMIT).await;
    assert_eq!(function.requests()[0].call_back().await.0, 200);
    assert_eq!(bench.job(id).await, None);
    assert_eq!(function.requests().len(), 1);
}

#[tokio::test]
async fn a_signal_a_second_after_the_first_ends_the_worker_at_once_and_an_earlier_one_is_the_same_stop() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let function = gated(&gate).await;
    let mut worker = bench.worker(&function.url()).spawn();
    bench.add("running").await;
    function.wait_for(1, LIMIT).await;
    let first = Instant::now();
    worker.signal(Signal::Term);
    worker.wait_for_line("waiting for jobs in flight", LIMIT).await;
    let ended = loop {
        worker.signal(Signal::Term);
        if let Some(status) = worker.try_exit(Duration::from_millis(100)).await {
            break status;
        }
        assert!(first.elapsed() < Duration::from_secs(5), "{:?}", first.elapsed());
    };
    assert_eq!(ended.code(), Some(130));
    assert!(first.elapsed() >= Duration::from_secs(1), "{:?}", first.elapsed());
}

#[tokio::test]
async fn after_kill_9_a_restart_under_the_same_name_takes_the_jobs_back_at_once() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let function = gated(&gate).await;
    let mut worker = bench.worker(&function.url()).spawn();
    let id = bench.add("running").await;
    let queued = bench.add_with("running", "{}", ", queue_name := 'line'").await;
    function.wait_for(2, LIMIT).await;
    worker.signal(Signal::Kill);
    worker.exit(LIMIT).await;
    assert!(bench.job(id).await.unwrap().locked && bench.job(queued).await.unwrap().locked);
    gate.open();
    let started = Instant::now();
    let _again = bench.worker(&function.url()).spawn();
    bench.gone(id).await;
    bench.gone(queued).await;
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    assert_eq!(function.requests().len(), 4);
}

#[tokio::test]
async fn a_second_live_worker_of_the_same_name_is_told_and_takes_nothing_from_the_first() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let function = gated(&gate).await;
    let mut first = bench.worker(&function.url()).spawn();
    let id = bench.add("running").await;
    function.wait_for(1, LIMIT).await;
    let mut second = bench.worker(&function.url()).spawn();
    let warning = second.wait_for_line("another live process has this worker id", LIMIT).await;
    assert!(warning.contains(ID) && warning.contains("HOSTNAME"), "{warning}");
    second.wait_for_line("worker looks for jobs", LIMIT).await;
    second.signal(Signal::Term);
    assert_eq!(second.exit_code(LIMIT).await, 0);
    let job = bench.job(id).await.unwrap();
    assert_eq!((job.locked_by.as_deref(), job.attempts), (Some(ID), 1));
    assert_eq!(function.requests().len(), 1);
    assert!(first.is_running());
    gate.open();
    bench.gone(id).await;
}

#[tokio::test]
async fn the_first_of_two_workers_of_one_name_leaves_without_the_jobs_of_the_second() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let function = FakeFunction::waiting(&gate, |target| target == "/running", Answer::accepted()).await;
    let first = bench.worker(&function.url()).env("JOBS_SUPPORT_ANY", "false").env("JOBS_SUPPORTED", "none");
    let mut first = first.spawn();
    first.wait_for_line("worker looks for jobs", LIMIT).await;
    let mut second = bench.worker(&function.url()).env("JOBS_SHUTDOWN_GRACE", "1s").spawn();
    second.wait_for_line("worker looks for jobs", LIMIT).await;
    let (running, accepted) = (bench.add("running").await, bench.add("accepted").await);
    function.wait_for(2, LIMIT).await;
    second.wait_for_line("job accepted", LIMIT).await;
    first.signal(Signal::Term);
    assert_eq!(first.exit_code(LIMIT).await, 0);
    first.wait_for_line("worker stopped finished=0 released=0 orphaned=0", LIMIT).await;
    for id in [running, accepted] {
        let job = bench.job(id).await.unwrap();
        assert_eq!((job.locked_by.as_deref(), job.attempts), (Some(ID), 1));
    }
    // The second gives back what no function has accepted.
    second.signal(Signal::Term);
    assert_eq!(second.exit_code(LIMIT).await, 0);
    let given_back = bench.job(running).await.unwrap();
    assert_eq!((given_back.locked, given_back.attempts), (false, 0));
    assert!(bench.job(accepted).await.unwrap().locked);
    gate.open();
}

#[tokio::test]
async fn the_jobs_of_a_killed_worker_are_taken_back_although_a_twin_of_it_lives_and_those_of_the_twin_are_not() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let function = gated(&gate).await;
    let only =
        |task: &str| bench.worker(&function.url()).env("JOBS_SUPPORT_ANY", "false").env("JOBS_SUPPORTED", task).spawn();
    let (mut first, mut second) = (only("one"), only("two"));
    first.wait_for_line("worker looks for jobs", LIMIT).await;
    second.wait_for_line("worker looks for jobs", LIMIT).await;
    let (one, two) = (bench.add("one").await, bench.add("two").await);
    function.wait_for(2, LIMIT).await;
    first.signal(Signal::Kill);
    first.exit(LIMIT).await;
    let started = Instant::now();
    let _again = bench.worker(&function.url()).spawn();
    assert_eq!(function.wait_for(3, LIMIT).await[2].target, "/one");
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    assert_eq!(bench.count("attempts = 1 AND locked_by = 'worker-test'").await, 2);
    assert!(second.is_running());
    gate.open();
    bench.gone(one).await;
    bench.gone(two).await;
    assert_eq!(function.requests().len(), 3);
}

#[tokio::test]
async fn a_stop_ends_in_time_while_statements_hang_and_a_hanging_claim_takes_no_job_afterwards() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let mut worker = bench.worker(&function.url()).env("JOBS_SHUTDOWN_GRACE", "2s").spawn();
    worker.wait_for_line("worker looks for jobs", LIMIT).await;
    bench.idle().await;
    bench.run("BEGIN; LOCK TABLE app_jobs.jobs IN ACCESS EXCLUSIVE MODE").await;
    let id = bench.add("task").await;
    let other = bench.db.connect().await;
    other.batch_execute("NOTIFY \"jobs:insert\"").await.unwrap();
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                   AND application_name = 'jobs' AND wait_event_type = 'Lock' AND query LIKE '%claim_instance_jobs%'";
    eventually(LIMIT, async || other.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) > 0).await;
    let before = Instant::now();
    worker.signal(Signal::Term);
    assert_eq!(worker.exit_code(Duration::from_secs(20)).await, 0);
    assert!(before.elapsed() < Duration::from_secs(2 + 4), "{:?}", before.elapsed());
    bench.run("COMMIT").await;
    let sessions =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'jobs'";
    eventually(LIMIT, async || other.query_one(sessions, &[]).await.unwrap().get::<_, i64>(0) == 0).await;
    let job = bench.job(id).await.unwrap();
    assert_eq!((job.locked, job.attempts), (false, 0));
}

#[tokio::test]
async fn jobs_that_cannot_be_given_back_are_counted_as_orphaned_and_others_take_them_over_after_the_lease() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let function = gated(&gate).await;
    let short = |id: &str| bench.worker(&function.url()).env("HOSTNAME", id).env("JOBS_LEASE", "5s");
    let mut worker = short(ID).env("JOBS_SHUTDOWN_GRACE", "1s").spawn();
    bench.run("SELECT app_jobs.add_job('running') FROM generate_series(1, 3)").await;
    function.wait_for(3, LIMIT).await;
    bench.run("BEGIN; LOCK TABLE app_jobs.jobs IN ACCESS EXCLUSIVE MODE").await;
    worker.signal(Signal::Term);
    assert_eq!(worker.exit_code(LIMIT).await, 0);
    worker.wait_for_line("worker stopped finished=0 released=0 orphaned=3", LIMIT).await;
    bench.run("COMMIT").await;
    let mut other = short("other-worker").spawn();
    let line = other.wait_for_line("rescued jobs of workers that went silent", LIMIT).await;
    assert!(line.contains("jobs=3") && line.contains("ids=\"1, 2, 3\""), "{line}");
    gate.open();
    bench.empty().await;
    assert_eq!(function.requests().len(), 6);
}

#[tokio::test]
async fn a_job_whose_lock_has_expired_is_taken_by_another_worker() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let id = bench.add("stuck").await;
    bench.run("SELECT app_jobs.get_job('dead-worker')").await;
    bench.run("UPDATE app_jobs.jobs SET locked_at = now() - interval '5 hours'").await;
    let _worker = bench.worker(&function.url()).spawn();
    bench.gone(id).await;
    assert_eq!(function.requests().len(), 1);
}
