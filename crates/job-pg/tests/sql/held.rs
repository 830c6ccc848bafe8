//! Operators' functions wait for nobody's rows, and leave no lock on a job that runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use job_testkit::eventually;

use crate::sql::support::{LIMIT, Notices, Session, database};

#[tokio::test]
async fn what_another_transaction_holds_is_skipped_and_told_and_the_rest_is_changed() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("INSERT INTO app_jobs.jobs (task_identifier) SELECT 'x' FROM generate_series(1, 3000)").await;
    let holder = Session::open(&db).await;
    holder.run("BEGIN; SELECT FROM app_jobs.jobs WHERE id IN (7, 1007, 2007) FOR UPDATE").await;
    let mut operator = Notices::open(&db).await;
    let held = "jobs that another transaction holds were left alone: 3 in all, of them 7, 1007, 2007";
    for (call, changed) in [
        ("reschedule_jobs(ARRAY(SELECT id FROM app_jobs.jobs), run_at := '2030-01-01')", 2997),
        ("permanently_fail_jobs(ARRAY(SELECT id FROM app_jobs.jobs))", 2997),
        ("complete_jobs(ARRAY(SELECT id FROM app_jobs.jobs))", 2997),
    ] {
        let (count, told) = operator.call(call).await;
        assert_eq!((count, told), (changed, vec![held.to_owned()]), "{call}");
    }
    holder.run("COMMIT").await;
    assert_eq!(operator.call("complete_jobs('{7,1007,2007}')").await, (3, vec![]));
}

#[tokio::test]
async fn what_somebody_holds_for_a_moment_is_changed_all_the_same() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("INSERT INTO app_jobs.jobs (task_identifier) SELECT 'x' FROM generate_series(1, 10)").await;
    let holder = Session::open(&db).await;
    holder.run("BEGIN; SELECT FROM app_jobs.jobs WHERE id = 5 FOR UPDATE").await;
    let mut operator = Notices::open(&db).await;
    let call = tokio::spawn(async move { operator.call("reschedule_jobs('{4,5,6}', priority := 1)").await });
    let waits =
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    eventually(LIMIT, async || s.is(waits).await).await;
    holder.run("COMMIT").await;
    assert_eq!(call.await.unwrap(), (3, vec![]));
}

#[tokio::test]
async fn claims_that_another_transaction_holds_are_left_and_told() {
    let db = database().await;
    let s = Session::open(&db).await;
    let mut operator = Notices::open(&db).await;
    let held = "jobs that another transaction holds were left alone: 1 in all, of them 2";
    for call in ["release_jobs('worker')", "force_unlock_workers('{worker}')"] {
        s.run("DELETE FROM app_jobs.jobs; INSERT INTO app_jobs.jobs (id, task_identifier) VALUES (1, 'x'), (2, 'x'), (3, 'x');
               SELECT app_jobs_internal.claim_jobs('worker', NULL, 3, '4 hours')")
            .await;
        let holder = Session::open(&db).await;
        holder.run("BEGIN; SELECT FROM app_jobs.jobs WHERE id = 2 FOR UPDATE").await;
        assert_eq!(operator.call(call).await, (1, vec![held.to_owned()]), "{call}");
        assert_eq!(s.show("SELECT id FROM app_jobs.jobs WHERE locked_at IS NOT NULL").await, "2", "{call}");
        holder.run("COMMIT").await;
        assert_eq!(operator.call(call).await, (1, vec![]), "{call}");
        assert_eq!(s.number("SELECT count(*) FROM app_jobs.jobs WHERE locked_at IS NOT NULL").await, 0, "{call}");
    }
}

/// Jobs begin while an operator reschedules them. PostgreSQL itself would leave locks on some of those that have begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_call_among_claims_holds_no_job_that_runs() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("INSERT INTO app_jobs.jobs (task_identifier) SELECT 'x' FROM generate_series(1, 20000)").await;
    let stop = Arc::new(AtomicBool::new(false));
    let claimer = Session::open(&db).await;
    let claiming = tokio::spawn({
        let stop = stop.clone();
        async move {
            while !stop.load(SeqCst) {
                let sql = "SELECT FROM app_jobs_internal.claim_jobs('worker', NULL, 5, '4 hours')";
                // A claim that had to wait gives up.
                let _ = claimer.client.batch_execute(sql).await;
            }
        }
    });
    let operator = Session::open(&db).await;
    for _ in 0..5 {
        operator.run("BEGIN; SELECT FROM app_jobs.reschedule_jobs(ARRAY(SELECT id FROM app_jobs.jobs), run_at := now() - interval '1 h')").await;
        let running = "SELECT array_agg(id) FROM app_jobs.jobs WHERE locked_at IS NOT NULL";
        let before = s.show(running).await;
        let sql = format!("SELECT FROM app_jobs.jobs WHERE id = ANY ('{before}') FOR UPDATE SKIP LOCKED");
        let free = s.number(&format!("SELECT count(*) FROM ({sql}) j")).await;
        assert_eq!(free, s.number(&format!("SELECT cardinality('{before}'::bigint[])")).await);
        operator.run("COMMIT").await;
    }
    stop.store(true, SeqCst);
    claiming.await.unwrap();
}

#[tokio::test]
async fn remove_job_waits_for_two_seconds_and_says_what_it_waited_for() {
    let db = database().await;
    let s = Session::open(&db).await;
    let id = s.add_job("'x', job_key := 'it''s'").await;
    let holder = Session::open(&db).await;
    holder.run(&format!("BEGIN; SELECT FROM app_jobs.jobs WHERE id = {id} FOR UPDATE")).await;
    let error = s.error("SELECT app_jobs.remove_job('it''s')").await;
    let told = "another transaction holds the job with the key 'it''s'";
    assert_eq!((error.code().code(), error.message(), error.hint().is_some()), ("55P03", told, true));
    holder.run("COMMIT").await;
    assert_eq!(s.number("SELECT id FROM app_jobs.remove_job('it''s')").await, id);
}

#[tokio::test]
async fn functions_for_gates_wait_two_seconds_for_another_operators_transaction() {
    let db = database().await;
    let s = Session::open(&db).await;
    let other = Session::open(&db).await;
    other.run("BEGIN; SELECT app_jobs.pause('task', 't')").await;
    for call in ["pause('task', 't')", "set_limit('task', 't', 3)"] {
        let error = s.error(&format!("SELECT app_jobs.{call}")).await;
        assert_eq!((error.code().code(), error.hint().is_some()), ("55P03", true), "{call}");
        assert!(error.message().starts_with("another transaction holds the gate task t"), "{call}: {error:?}");
    }
    other.run("COMMIT; BEGIN; SELECT app_jobs.pause('task', 't', reason := 'again')").await;
    let error = s.error("SELECT app_jobs.resume('task', 't')").await;
    assert_eq!((error.code().code(), error.hint().is_some()), ("55P03", true));
    other.run("COMMIT").await;
    s.run("SELECT app_jobs.resume('task', 't'), app_jobs.set_limit('task', 't', 3)").await;
}
