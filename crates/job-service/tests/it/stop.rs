//! A stop ends the callback server last; what is left is given back; a killed service takes its jobs back.

use std::time::{Duration, Instant};

use job_testkit::{Answer, FakeFunction, Gate, Signal, eventually};
use tokio::net::TcpStream;

use super::support::{Bench, ID, LIMIT, get};

async fn locked(bench: &Bench) -> i64 {
    let sql = "SELECT (SELECT count(*) FROM app_jobs.jobs WHERE locked_at IS NOT NULL) \
               + (SELECT count(*) FROM app_jobs.scheduled_jobs WHERE locked_at IS NOT NULL) \
               + (SELECT count(*) FROM app_jobs.job_queues WHERE locked_at IS NOT NULL)";
    bench.sql.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn accepted_jobs_can_call_back_during_the_stop() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::accepted()).await;
    let (mut service, port) = bench.service(&function.url(), &[]).await;
    let add = "SELECT app_jobs.add_scheduled_job('x', '{}', '{\"rule\": \"0 0 1 1 *\"}'::json)";
    bench.sql.batch_execute(add).await.unwrap();
    let (done, failed) = (bench.add("done").await, bench.add("failed").await);
    let requests = function.wait_for(2, LIMIT).await;
    eventually(LIMIT, async || {
        service.lines().iter().filter(|line| line.contains("job accepted")).count() == 2 && locked(&bench).await == 3
    })
    .await;
    service.signal(Signal::Term);
    service.wait_for_line("waiting for callbacks", LIMIT).await;
    let late = bench.add("late").await;
    assert_eq!(get(port, "/healthz").await, Some(200));
    let report = |task: &str| requests.iter().find(|request| request.target == task).unwrap();
    assert_eq!(report("/done").call_back().await.0, 200);
    assert_eq!(bench.job(done).await, None);
    assert!(service.is_running(), "another job has not called back yet");
    assert_eq!(report("/failed").call_back_error("no").await.0, 200);
    let before = Instant::now();
    assert_eq!(service.exit_code(LIMIT).await, 0);
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    assert_eq!(bench.job(failed).await, Some((1, Some("no".to_owned()), false)));
    assert_eq!(bench.job(late).await, Some((0, None, false)), "a stopping service claims nothing");
    assert_eq!(locked(&bench).await, 0);
}

#[tokio::test]
async fn jobs_in_flight_end_and_are_not_lost() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let passed = gate.clone();
    let function = FakeFunction::start(move |request| {
        let gate = passed.clone();
        async move {
            gate.passed().await;
            match request.target.as_str() {
                "/complete" => Answer::complete(),
                "/fail" => Answer::text(500, "down"),
                _ => {
                    // Accepted during the stop; the callback comes a moment later.
                    tokio::spawn(async move { request.call_back().await });
                    Answer::accepted()
                }
            }
        }
    })
    .await;
    let (mut service, _) = bench.service(&function.url(), &[]).await;
    let (complete, fail, accept) = (bench.add("complete").await, bench.add("fail").await, bench.add("accept").await);
    function.wait_for(3, LIMIT).await;
    service.signal(Signal::Int);
    service.wait_for_line("waiting for jobs in flight", LIMIT).await;
    gate.open();
    assert_eq!(service.exit_code(LIMIT).await, 0);
    assert_eq!(bench.job(complete).await, None);
    assert_eq!(bench.job(accept).await, None);
    let told = format!("HTTP 500: down (POST {}/fail)", function.url());
    assert_eq!(bench.job(fail).await, Some((1, Some(told), false)));
}

#[tokio::test]
async fn a_stop_ends_within_the_grace_whoever_is_connected_and_gives_back_what_no_function_has_accepted() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let function = FakeFunction::waiting(&gate, |target| target == "/slow", Answer::accepted()).await;
    let (mut service, port) = bench.service(&function.url(), &[("JOBS_SHUTDOWN_GRACE", "8s")]).await;
    let (slow, accepted) = (bench.add("slow").await, bench.add("accepted").await);
    function.wait_for(2, LIMIT).await;
    service.wait_for_line("job accepted", LIMIT).await;
    let _silent = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    assert_eq!(get(port, "/healthz").await, Some(200));
    let before = Instant::now();
    service.signal(Signal::Term);
    assert_eq!(service.exit_code(LIMIT).await, 0);
    // Docker and Kubernetes kill 5 s after the default grace of 25 s.
    assert!(before.elapsed() < Duration::from_secs(8 + 5), "{:?}", before.elapsed());
    assert_eq!(bench.job(slow).await, Some((0, None, false)));
    // Its function holds it, and calls back to whatever server there is.
    assert_eq!(bench.job(accepted).await, Some((1, None, true)));
    gate.open();
}

#[tokio::test]
async fn with_a_database_that_hangs_a_stop_ends_within_the_grace_and_5_seconds_and_answers_the_callbacks_it_holds() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::accepted()).await;
    let (mut service, port) = bench.service(&function.url(), &[("JOBS_SHUTDOWN_GRACE", "6s")]).await;
    let id = bench.add("accepted").await;
    service.wait_for_line("job accepted", LIMIT).await;
    bench.sql.batch_execute("BEGIN; LOCK TABLE app_jobs.jobs IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let callback = reqwest::Client::new().post(format!("http://127.0.0.1:{port}/callback"));
    let callback = tokio::spawn(callback.header("X-Worker-Id", ID).header("X-Job-Id", id).send());
    let other = bench.db.connect().await;
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                   AND wait_event_type = 'Lock' AND query LIKE '%complete_held_jobs%'";
    eventually(LIMIT, async || other.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) > 0).await;
    let before = Instant::now();
    service.signal(Signal::Term);
    let answer = callback.await.unwrap().expect("an answer");
    assert_eq!(answer.status().as_u16(), 503);
    assert_eq!(answer.headers()["retry-after"], "1");
    assert_eq!(service.exit_code(LIMIT).await, 0);
    assert!(before.elapsed() < Duration::from_secs(6 + 5), "{:?}", before.elapsed());
    bench.sql.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test]
async fn after_kill_9_a_restart_under_the_same_name_takes_jobs_and_schedules_back_at_once() {
    let bench = Bench::new().await;
    let gate = Gate::closed();
    let function = FakeFunction::waiting(&gate, |target| target == "/running", Answer::accepted()).await;
    let (mut service, _) = bench.service(&function.url(), &[]).await;
    let id = bench.add("running").await;
    let add = "SELECT app_jobs.add_scheduled_job('tick', '{}', '{\"rule\": \"* * * * * *\"}'::json)";
    bench.sql.batch_execute(add).await.unwrap();
    eventually(LIMIT, async || {
        let requests = function.requests();
        ["/running", "/tick"].iter().all(|task| requests.iter().any(|request| request.target == *task))
    })
    .await;
    service.signal(Signal::Kill);
    service.exit(LIMIT).await;
    bench.sql.batch_execute("DELETE FROM app_jobs.jobs WHERE task_identifier = 'tick'").await.unwrap();
    assert_eq!(bench.job(id).await, Some((1, None, true)));
    let before = function.requests().len();
    let (_again, _) = bench.service(&function.url(), &[]).await;
    eventually(Duration::from_secs(8), async || {
        let requests = &function.requests()[before..];
        ["/running", "/tick"].iter().all(|task| requests.iter().any(|request| request.target == *task))
    })
    .await;
    let why = format!("worker {ID} ended while it ran the job");
    assert_eq!(bench.job(id).await, Some((1, Some(why), true)), "the first attempt does not count");
    gate.open();
}

/// How often each of the jobs `{"n": …}` was sent.
fn times_sent(function: &FakeFunction) -> std::collections::BTreeMap<u64, usize> {
    let mut times = std::collections::BTreeMap::new();
    for request in function.requests() {
        *times.entry(request.json()["n"].as_u64().unwrap()).or_default() += 1;
    }
    times
}

/// A function, and 1500 jobs for it, a third of them in named queues.
async fn under_load(bench: &Bench) -> FakeFunction {
    let jobs = "SELECT app_jobs.add_job('load', json_build_object('n', n), \
                queue_name := CASE WHEN n % 3 = 0 THEN 'line-' || n % 8 END) FROM generate_series(1, 1500) n";
    bench.sql.batch_execute(jobs).await.unwrap();
    FakeFunction::answering(Answer::complete()).await
}

async fn all_gone(bench: &Bench) {
    let count = "SELECT count(*) FROM app_jobs.jobs";
    eventually(LIMIT, async || bench.sql.query_one(count, &[]).await.unwrap().get::<_, i64>(0) == 0).await;
}

#[tokio::test]
async fn stopped_again_and_again_under_load_the_service_sends_every_job_exactly_once() {
    let bench = Bench::new().await;
    let function = under_load(&bench).await;
    for turn in 1..=4 {
        let (mut service, _) = bench.service(&function.url(), &[]).await;
        function.wait_for(turn * 200, LIMIT).await;
        service.signal(Signal::Term);
        assert_eq!(service.exit_code(LIMIT).await, 0);
        assert_eq!(locked(&bench).await, 0, "turn {turn}");
    }
    let (_service, _) = bench.service(&function.url(), &[]).await;
    all_gone(&bench).await;
    let times = times_sent(&function);
    assert!(times.len() == 1500 && times.values().all(|times| *times == 1), "{} jobs", times.len());
}

#[tokio::test]
async fn killed_again_and_again_under_load_the_service_loses_no_job() {
    let bench = Bench::new().await;
    let function = under_load(&bench).await;
    let mut kills = Vec::new();
    for turn in 1..=4 {
        let (mut service, _) = bench.service(&function.url(), &[]).await;
        function.wait_for(turn * 200, LIMIT).await;
        service.signal(Signal::Kill);
        service.exit(LIMIT).await;
        let left = "SELECT (payload ->> 'n')::bigint FROM app_jobs.jobs";
        let left = bench.sql.query(left, &[]).await.unwrap();
        let left: std::collections::BTreeSet<i64> = left.iter().map(|row| row.get(0)).collect();
        kills.push((function.requests().len(), left));
    }
    let (_service, _) = bench.service(&function.url(), &[]).await;
    all_gone(&bench).await;
    assert_eq!(times_sent(&function).len(), 1500);
    // What was in flight at a kill, and what was done but not stored yet, is sent again; nothing else is.
    for (sent, left) in kills {
        for request in &function.requests()[sent..] {
            let n = request.json()["n"].as_i64().unwrap();
            assert!(left.contains(&n), "job {n} was done, and was sent again");
        }
    }
}
