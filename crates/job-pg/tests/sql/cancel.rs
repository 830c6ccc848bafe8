//! cancel_jobs: jobs that wait, run, were accepted, have failed, or are held by somebody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use job_testkit::eventually;

use crate::sql::support::{Ear, LIMIT, Notices, Session, database};

const INSTANCE: &str = "00000000-0000-4000-8000-000000000001";

/// Claims up to `count` jobs for an instance; their ids and epochs.
fn claim(count: u32) -> String {
    format!(
        "SELECT j.id, j.epoch FROM app_jobs_internal.claim_instance_jobs('{INSTANCE}', 'worker', NULL, NULL, {count}, '4 h') j"
    )
}

const TOLD: &str = "SELECT instance, job_id, reason FROM app_jobs.cancelled_attempts ORDER BY job_id";

#[tokio::test]
async fn what_waits_runs_or_was_accepted_is_gone_and_only_whoever_runs_it_is_told() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("INSERT INTO app_jobs.jobs (id, task_identifier, priority) SELECT n, 'x', n FROM generate_series(1, 3) n")
        .await;
    s.run(&claim(2)).await;
    s.run("UPDATE app_jobs.jobs SET accepted = true, deadline = now() + interval '1 h' WHERE id = 2").await;
    assert_eq!(s.get_job("'by-hand'").await, Some(3));
    s.run("INSERT INTO app_jobs.jobs (id, task_identifier, queue_name, run_at, attempts, max_attempts) VALUES
             (4, 'x', NULL, now(), 0, 25), (5, 'x', 'q', now() + interval '1 day', 3, 25), (6, 'x', NULL, now(), 25, 25),
             (7, 'x', NULL, now(), 0, 25)")
        .await;
    let mut ear = Ear::on(&db, "jobs:cancel").await;
    let mut operator = Notices::open(&db).await;
    let failed = "jobs that have failed for good were left alone: 1 in all, of them 6".to_owned();
    assert_eq!(operator.call("cancel_jobs('{1,2,3,4,5,6,99,NULL}', 'why not')").await, (5, vec![failed]));
    assert_eq!(s.show("SELECT id FROM app_jobs.jobs ORDER BY id").await, "6\n7");
    assert_eq!(s.show(TOLD).await, format!("{INSTANCE}|1|why not"));
    assert_eq!(ear.count().await, 1);
    for (worker, id) in [("worker", 1), ("worker", 2), ("by-hand", 3)] {
        assert_eq!(s.show(&format!("SELECT id FROM app_jobs.complete_job('{worker}', {id})")).await, "~");
        assert_eq!(s.show(&format!("SELECT id FROM app_jobs.fail_job('{worker}', {id}, 'no')")).await, "~");
    }
    // Nothing runs of these, so that nobody is to be told.
    assert_eq!(operator.call("cancel_jobs('{7}')").await, (1, vec![]));
    assert_eq!(operator.call("cancel_jobs('{}')").await, (0, vec![]));
    assert_eq!(operator.call("cancel_jobs(NULL)").await, (0, vec![]));
    assert_eq!(ear.count().await, 0);
    // What nobody has asked for goes with time.
    s.run("UPDATE app_jobs.cancelled_attempts SET cancelled_at = now() - interval '11 minutes'").await;
    s.run("SELECT app_jobs_internal.heartbeat('worker', gen_random_uuid(), '30 s', false, 'overdue', '4 h')").await;
    assert_eq!(s.show(TOLD).await, "");
    let error = s.error("SELECT app_jobs.cancel_jobs('{6}', repeat('x', 1001))").await;
    assert_eq!((error.code().code(), error.hint()), ("22023", Some("Give a shorter reason.")));
}

#[tokio::test]
async fn ten_thousand_jobs_are_cancelled_at_once_but_for_what_another_transaction_holds() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(
        "INSERT INTO app_jobs.jobs (task_identifier, queue_name)
           SELECT 'x', CASE WHEN n % 3 = 0 THEN 'q' || n % 7 END FROM generate_series(1, 10000) n",
    )
    .await;
    let holder = Session::open(&db).await;
    holder.run("BEGIN; SELECT FROM app_jobs.jobs WHERE id IN (7, 5000) FOR UPDATE").await;
    let mut operator = Notices::open(&db).await;
    let held = "jobs that another transaction holds were left alone: 2 in all, of them 7, 5000".to_owned();
    assert_eq!(operator.call("cancel_jobs(ARRAY(SELECT id FROM app_jobs.jobs))").await, (9998, vec![held]));
    holder.run("COMMIT").await;
    assert_eq!(operator.call("cancel_jobs('{7,5000}')").await, (2, vec![]));
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 0);
}

#[tokio::test]
async fn while_it_waits_for_a_job_that_another_transaction_holds_it_holds_none() {
    let db = database().await;
    let (s, holder, operator) = (Session::open(&db).await, Session::open(&db).await, Session::open(&db).await);
    s.run("INSERT INTO app_jobs.jobs (task_identifier) SELECT 'x' FROM generate_series(1, 3)").await;
    holder.run("BEGIN; SELECT FROM app_jobs.jobs WHERE id = 2 FOR UPDATE").await;
    let cancel = "SELECT id FROM app_jobs.cancel_jobs('{1,2,3}') ORDER BY id";
    let cancel = tokio::spawn(async move { operator.show(cancel).await });
    s.run("SET lock_timeout = '200 ms'").await;
    eventually(LIMIT, async || {
        s.is("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'
                                AND datname = current_database())")
            .await
    })
    .await;
    s.run("UPDATE app_jobs.jobs SET priority = 1 WHERE id IN (1, 3)").await;
    holder.run("COMMIT").await;
    // On a machine that is busy it has given up the second one.
    let cancelled = cancel.await.unwrap();
    assert!(["1\n2\n3", "1\n3"].contains(&&*cancelled), "{cancelled}");
    assert_eq!(s.show("SELECT id FROM app_jobs.cancel_jobs(NULL)").await, "");
}

/// Each job that was claimed before it was cancelled is told to its worker, and no other is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_among_claims_each_job_is_either_never_claimed_or_its_worker_is_told() {
    let db = database().await;
    let s = Session::open(&db).await;
    let stop = Arc::new(AtomicBool::new(false));
    let claimer = Session::open(&db).await;
    let claiming = tokio::spawn({
        let stop = stop.clone();
        async move {
            let mut claims = Vec::new();
            while !stop.load(SeqCst) {
                // A claim that had to wait gives up.
                let claimed = claimer.client.query(&claim(5), &[]).await.unwrap_or_default();
                tokio::task::yield_now().await;
                claims.extend(claimed.iter().map(|row| (row.get::<_, i64>(0), row.get::<_, i64>(1))));
            }
            claims
        }
    });
    let mut operator = Notices::open(&db).await;
    for _ in 0..20 {
        s.run("INSERT INTO app_jobs.jobs (task_identifier) SELECT 'x' FROM generate_series(1, 500)").await;
        let (_, told) = operator.call("cancel_jobs(ARRAY(SELECT id FROM app_jobs.jobs))").await;
        assert_eq!(told, [""; 0]);
    }
    stop.store(true, SeqCst);
    let mut claims = claiming.await.unwrap();
    operator.call("cancel_jobs(ARRAY(SELECT id FROM app_jobs.jobs))").await;
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs").await, 0);
    let rows =
        s.client.query("SELECT job_id, epoch FROM app_jobs.cancelled_attempts ORDER BY 1, 2", &[]).await.unwrap();
    let told: Vec<(i64, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    claims.sort_unstable();
    assert!(!claims.is_empty());
    assert_eq!(told, claims);
}
