//! What wakes a worker that polls once an hour.

use std::time::{Duration, Instant};

use job_testkit::wait::try_poll;
use job_testkit::{Answer, FakeFunction, Process, eventually};

use super::support::{Bench, LIMIT};

/// A worker that has looked, found nothing, and sleeps for an hour.
async fn asleep(bench: &Bench, function: &FakeFunction) -> Process {
    let mut worker = bench.worker(&function.url()).spawn();
    worker.wait_for_line("worker looks for jobs", LIMIT).await;
    // A job that runs shows that it listens, and the looks after it are done when its sessions are idle.
    bench.gone(bench.add("warm-up").await).await;
    bench.idle().await;
    worker
}

/// How soon a wake-up must have led to a request, on a busy machine.
const SOON: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_new_job_starts_at_once() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let _worker = asleep(&bench, &function).await;
    let mut waits = Vec::new();
    for n in 2..=21 {
        let added = Instant::now();
        bench.add("new").await;
        let arrived = function.wait_for(n, LIMIT).await[n - 1].at;
        waits.push(arrived.saturating_duration_since(added));
        bench.idle().await;
    }
    waits.sort_unstable();
    assert!(waits[10] < Duration::from_millis(200), "half of them took longer: {waits:?}");
    assert!(waits[19] < SOON, "{waits:?}");
}

#[tokio::test]
async fn a_job_that_was_inserted_by_hand_starts_at_once() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let _worker = asleep(&bench, &function).await;
    bench.run("INSERT INTO app_jobs.jobs (task_identifier) VALUES ('by-hand')").await;
    function.wait_for(2, SOON).await;
}

#[tokio::test]
async fn jobs_that_a_look_ahead_cannot_see_start_at_once_too() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    // It has met jobs of priority 0 only, the last of them just now.
    let _worker = asleep(&bench, &function).await;
    bench.add_with("unknown-priority", "{}", ", priority := -7").await;
    assert_eq!(function.wait_for(2, SOON).await[1].target, "/unknown-priority");
    bench.empty().await;
    bench.idle().await;
    bench.add_with("overdue", "{}", ", run_at := now() - interval '1 day'").await;
    assert_eq!(function.wait_for(3, SOON).await[2].target, "/overdue");
    bench.empty().await;
    bench.idle().await;
    // One that is seen at once, and two that are not.
    bench
        .run(
            "SELECT app_jobs.add_job('x'), app_jobs.add_job('x', '{}', priority := 9),
                    app_jobs.add_job('x', '{}', run_at := now() - interval '1 day')",
        )
        .await;
    function.wait_for(6, SOON).await;
}

#[tokio::test]
async fn a_job_committed_late_starts_while_a_stream_of_others_keeps_the_worker_busy() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let _worker = asleep(&bench, &function).await;
    bench.run("BEGIN; SELECT app_jobs.add_job('late')").await;
    let other = bench.db.connect().await;
    let stream = tokio::spawn(async move {
        loop {
            other.batch_execute("SELECT app_jobs.add_job('stream')").await.unwrap();
        }
    });
    // The worker's position is past the time at which the late job was written.
    function.wait_for(20, LIMIT).await;
    bench.run("COMMIT").await;
    eventually(SOON, async || function.requests().iter().any(|request| request.target == "/late")).await;
    assert!(!stream.is_finished());
    stream.abort();
}

#[tokio::test]
async fn a_job_is_started_after_its_commit_and_not_before() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let _worker = asleep(&bench, &function).await;
    bench.run("BEGIN; SELECT app_jobs.add_job('later')").await;
    let other = bench.db.connect().await;
    other.batch_execute("SELECT app_jobs.add_job('now')").await.unwrap();
    assert_eq!(function.wait_for(2, SOON).await[1].target, "/now");
    bench.run("COMMIT").await;
    assert_eq!(function.wait_for(3, SOON).await[2].target, "/later");
}

#[tokio::test]
async fn a_job_due_in_a_second_starts_then() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let _worker = asleep(&bench, &function).await;
    let added = Instant::now();
    bench.add_with("soon", "{}", ", run_at := now() + interval '1 second'").await;
    let started = function.wait_for(2, SOON).await[1].at - added;
    assert!(started >= Duration::from_millis(950), "{started:?}");
}

#[tokio::test]
async fn a_job_of_tomorrow_that_is_rescheduled_starts_at_once() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let tomorrow = ", run_at := now() + interval '1 day'";
    let id = bench.add_with("tomorrow", "{}", tomorrow).await;
    let by_hand = bench.add_with("tomorrow-too", "{}", tomorrow).await;
    let _worker = asleep(&bench, &function).await;
    bench.run(&format!("SELECT app_jobs.reschedule_jobs(ARRAY[{id}], now())")).await;
    assert_eq!(function.wait_for(2, SOON).await[1].target, "/tomorrow");
    bench.run(&format!("UPDATE app_jobs.jobs SET run_at = now() WHERE id = {by_hand}")).await;
    assert_eq!(function.wait_for(3, SOON).await[2].target, "/tomorrow-too");
}

#[tokio::test]
async fn a_replaced_key_that_is_due_now_starts_at_once() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let key = ", job_key := 'key', run_at := now()";
    bench.add_with("old", "{}", &format!("{key} + interval '1 day'")).await;
    let _worker = asleep(&bench, &function).await;
    bench.add_with("new", "{}", key).await;
    assert_eq!(function.wait_for(2, SOON).await[1].target, "/new");
    bench.empty().await;
}

#[tokio::test]
async fn a_job_that_another_worker_releases_or_fails_is_taken_at_once() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    bench.add("released").await;
    bench.run("SELECT app_jobs.get_job('other-worker')").await;
    let _worker = asleep(&bench, &function).await;
    bench.run("SELECT app_jobs.release_jobs('other-worker')").await;
    assert_eq!(function.wait_for(2, SOON).await[1].target, "/released");
    bench.empty().await;

    bench.run("BEGIN").await;
    let failed = bench.add("failed").await;
    bench.run("SELECT app_jobs.get_job('other-worker'); COMMIT").await;
    bench.run(&format!("SELECT app_jobs.fail_job('other-worker', {failed}, 'once')")).await;
    // e seconds after the failure.
    assert_eq!(function.wait_for(3, SOON + Duration::from_secs(3)).await[2].target, "/failed");
}

#[tokio::test]
async fn a_named_queue_freed_by_another_worker_goes_on_at_once() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let queue = ", queue_name := 'line'";
    for free in ["complete_job('other-worker', id)", "fail_job('other-worker', id, 'no')"] {
        let held = bench.add_with("held", "{}", &format!("{queue}, max_attempts := 1")).await;
        bench.run("SELECT app_jobs.get_job('other-worker')").await;
        let _worker = asleep(&bench, &function).await;
        let sent = function.requests().len();
        let next = bench.add_with("next", "{}", queue).await;
        bench.run(&format!("SELECT app_jobs.{free} FROM app_jobs.jobs WHERE id = {held}")).await;
        assert_eq!(function.wait_for(sent + 1, SOON).await[sent].target, "/next", "{free}");
        bench.gone(next).await;
        bench.run("DELETE FROM app_jobs.jobs").await;
    }
}

#[tokio::test]
async fn a_job_that_comes_due_while_the_worker_looks_is_not_left_until_the_next_poll() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let _worker = asleep(&bench, &function).await;
    let id = bench.add_with("due", "{}", ", run_at := now() + interval '1.5 seconds'").await;
    bench.idle().await;
    // A look that begins before the job is due and ends after: the table is locked meanwhile. A claim would give up.
    bench
        .run(
            "DO $$ BEGIN EXECUTE (SELECT string_agg(format('ALTER FUNCTION %s RESET lock_timeout', oid::regprocedure), ';')
                                    FROM pg_proc WHERE proname = 'claim_instance_jobs'); END $$",
        )
        .await;
    bench.run("BEGIN; LOCK TABLE app_jobs.jobs IN ACCESS EXCLUSIVE MODE").await;
    let other = bench.db.connect().await;
    other.batch_execute("NOTIFY \"jobs:insert\"").await.unwrap();
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                   AND application_name = 'jobs' AND wait_event_type = 'Lock'";
    eventually(LIMIT, async || other.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) > 0).await;
    let due = "SELECT run_at < clock_timestamp() - interval '100 ms' FROM due";
    bench.run(&format!("CREATE TEMPORARY TABLE due AS SELECT run_at FROM app_jobs.jobs WHERE id = {id}")).await;
    eventually(LIMIT, async || bench.sql.query_one(due, &[]).await.unwrap().get(0)).await;
    bench.run("COMMIT").await;
    assert_eq!(function.wait_for(2, SOON).await[1].target, "/due");
}

#[tokio::test]
async fn a_worker_without_notifications_finds_jobs_by_polling() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let mut worker = bench.worker(&function.url()).env("JOBS_POLL_INTERVAL", "300ms").spawn();
    worker.wait_for_line("worker looks for jobs", LIMIT).await;
    bench.idle().await;
    // Without triggers, nothing tells the worker.
    bench.run("SET session_replication_role = replica").await;
    bench.add("quiet").await;
    function.wait_for(1, SOON).await;
}

#[tokio::test]
async fn an_idle_worker_hardly_asks_the_database() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let _worker = asleep(&bench, &function).await;
    let last = "SELECT max(state_change) FROM pg_stat_activity \
                WHERE datname = current_database() AND application_name = 'jobs'";
    let mut seen = std::collections::BTreeSet::new();
    let watched = try_poll(Duration::from_secs(3), async || {
        seen.insert(bench.sql.query_one(last, &[]).await.unwrap().get::<_, std::time::SystemTime>(0));
        (seen.len() > 4).then_some(())
    });
    // One look for overdue callbacks may fall into the span.
    assert!(watched.await.is_err(), "its sessions were used more than 4 times within 3 s");
}

/// How many sessions wait to be woken by writes that notify on demand.
async fn waiters(bench: &Bench) -> i64 {
    let sql = "SELECT count(DISTINCT pid) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock' AND granted \
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND (classid::bigint << 32) + objid::bigint = app_jobs_internal.waiter_lock(0)";
    bench.sql.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn on_demand_a_job_that_was_written_before_the_worker_waited_and_committed_after_is_not_lost() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    bench.run("SELECT app_jobs.set_notify('on_demand')").await;
    // Its trigger finds nobody to notify. The worker's look does not see the row.
    let producer = bench.db.connect().await;
    producer.batch_execute("BEGIN; SELECT app_jobs.add_job('early')").await.unwrap();
    let _worker = asleep(&bench, &function).await;
    eventually(LIMIT, async || waiters(&bench).await == 1).await;
    producer.batch_execute("COMMIT").await.unwrap();
    assert_eq!(function.wait_for(2, SOON).await[1].target, "/early");
    // From now on it is notified, also after its session was replaced.
    bench.empty().await;
    bench.idle().await;
    bench.gone(bench.add("second").await).await;
    let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE datname = current_database() AND application_name = 'jobs'";
    bench.run(terminate).await;
    eventually(LIMIT, async || waiters(&bench).await == 1).await;
    bench.idle().await;
    bench.gone(bench.add("third").await).await;
}

#[tokio::test]
async fn on_demand_a_busy_worker_is_not_notified_and_an_idle_one_is() {
    let bench = Bench::new().await;
    // A request takes as long as a connection, so that the worker is busy for a while.
    let url = bench.db.url().to_owned();
    let function = FakeFunction::start(move |request| {
        let url = url.clone();
        async move {
            if request.target == "/slow" {
                job_testkit::postgres::connect(&url).await;
            }
            Answer::complete()
        }
    })
    .await;
    let _worker = asleep(&bench, &function).await;
    assert_eq!(waiters(&bench).await, 0, "every write notifies");
    // The switch itself wakes, so that a sleeping worker follows.
    bench.run("SELECT app_jobs.set_notify('on_demand')").await;
    eventually(LIMIT, async || waiters(&bench).await == 1).await;
    bench.run("SELECT app_jobs.add_job('slow') FROM generate_series(1, 1000)").await;
    eventually(LIMIT, async || waiters(&bench).await == 0).await;
    assert!(bench.count("true").await > 0, "it is busy");
    bench.empty().await;
    eventually(LIMIT, async || waiters(&bench).await == 1).await;
    bench.gone(bench.add("next").await).await;
}
