//! Rates: no more starts in any window than the bucket gives, and none fewer than it has.

use job_testkit::eventually;
use tokio::task::JoinSet;

use crate::sql::gates::claim;
use crate::sql::support::{LIMIT, Session, database};

const TENANT: &str = "7b0e6c2e-1111-4222-8333-944455566677";

/// The most starts in excess of the bucket over all windows: of jobs by their locked_at, with at most `burst` at once
/// and `rate` a second.
fn excess(rate: i32, burst: i32) -> String {
    format!(
        "WITH s AS (SELECT locked_at, row_number() OVER (ORDER BY locked_at) AS n FROM app_jobs.jobs
                     WHERE locked_at IS NOT NULL)
         SELECT ceil(max(b.n - a.n + 1 - {burst} - {rate} * extract(epoch FROM b.locked_at - a.locked_at)) - 0.001)::int
           FROM s a JOIN s b ON b.n >= a.n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_is_never_exceeded_in_any_window() {
    const RATE: i32 = 100;
    const BURST: i32 = 20;
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(&format!(
        "INSERT INTO app_jobs.jobs (task_identifier, queue_name)
         SELECT 't', CASE WHEN g % 3 = 0 THEN 'q' || g END FROM generate_series(1, 1000) g;
         SELECT app_jobs.set_limit('task', 't', rate => {RATE}, burst => {BURST})"
    ))
    .await;
    let mut workers = JoinSet::new();
    for worker in 0..4 {
        let s = Session::open(&db).await;
        workers.spawn(async move {
            while s.is("SELECT count(*) < 400 FROM app_jobs.jobs WHERE locked_at IS NOT NULL").await {
                claim(&s, &format!("'worker-{worker}', NULL, {}, NULL", 1 + worker)).await;
            }
        });
    }
    workers.join_all().await;
    let excess = s.number(&excess(RATE, BURST)).await;
    assert!(excess <= 0, "{excess} starts more than the bucket had");
}

#[tokio::test]
async fn every_token_that_a_bucket_has_is_used() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(
        "SELECT app_jobs.set_limit('task', 't', rate => 1, per => '1 hour', burst => 20);
           SELECT app_jobs.add_job('t') FROM generate_series(1, 60)",
    )
    .await;
    assert_eq!(claim(&s, "'worker', NULL, 50, NULL").await.len(), 20);
    assert_eq!(claim(&s, "'worker', NULL, 50, NULL").await.len(), 0);
    for hours in [1, 7, 2] {
        s.run(&format!(
            "UPDATE app_jobs.gate_tokens SET full_at = full_at - interval '{hours} hours' WHERE name = 't'"
        ))
        .await;
        assert_eq!(claim(&s, "'worker', NULL, 50, NULL").await.len(), hours);
    }
}

#[tokio::test]
async fn workers_know_when_the_next_token_comes() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(
        "SELECT app_jobs.set_limit('queue', '*', max_running => 9, rate => 6, per => '1 hour', burst => 2);
           SELECT app_jobs.add_job('x', queue_name := 'q') FROM generate_series(1, 4);
           SELECT app_jobs.add_job('x', queue_name := 'r')",
    )
    .await;
    assert_eq!(claim(&s, "'worker', NULL, 9, NULL").await.len(), 3, "each queue has a bucket of its own");
    assert_eq!(claim(&s, "'worker', NULL, 9, NULL").await.len(), 0);
    // Of the gates that the claim has looked at.
    let next = "BEGIN; SELECT id FROM app_jobs_internal.claim_jobs('worker', NULL, 9, NULL);
                SELECT round(extract(epoch FROM app_jobs_internal.next_run_at(NULL, NULL, '1 day') - max(locked_at)))
                  FROM app_jobs.jobs WHERE queue_name = 'q'; COMMIT";
    assert_eq!(s.show(next).await, "600");
    // Ten minutes later.
    s.run("UPDATE app_jobs.gate_tokens SET full_at = full_at - interval '10 minutes' WHERE name = 'q'").await;
    assert_eq!(claim(&s, "'worker', NULL, 9, NULL").await.len(), 1);
    assert_eq!(claim(&s, "'worker', NULL, 9, NULL").await.len(), 0);
}

#[tokio::test]
async fn a_rate_that_is_changed_keeps_what_was_taken() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(
        "SELECT app_jobs.set_limit('task', 't', rate => 1, per => '1 day', burst => 10);
           SELECT app_jobs.add_job('t') FROM generate_series(1, 30)",
    )
    .await;
    assert_eq!(claim(&s, "'worker', NULL, 8, NULL").await.len(), 8);
    s.run("SELECT app_jobs.set_limit('task', 't', rate => 1, per => '1 hour', burst => 9)").await;
    assert_eq!(claim(&s, "'worker', NULL, 20, NULL").await.len(), 1, "8 of 9 are taken");
    s.run("SELECT app_jobs.set_limit('task', 't', rate => 1000, burst => 2)").await;
    // Not what lacked in an hour's bucket.
    eventually(LIMIT, async || !claim(&s, "'worker', NULL, 20, NULL").await.is_empty()).await;
    s.run("SELECT app_jobs.set_limit('task', 't')").await;
    assert_eq!(s.show("SELECT * FROM app_jobs.gate_tokens WHERE kind <> 'all'").await, "");
    assert!(!claim(&s, "'worker', NULL, 30, NULL").await.is_empty());
}

#[tokio::test]
async fn a_bucket_that_is_full_leaves_no_row() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(
        "SELECT app_jobs.set_limit('queue', '*', rate => 1000);
         SELECT app_jobs.add_job('t', queue_name := 'q' || g) FROM generate_series(1, 3) g",
    )
    .await;
    assert_eq!(claim(&s, "'worker', NULL, 10, NULL").await.len(), 3);
    s.run("UPDATE app_jobs.gate_tokens SET full_at = now() - interval '2 minutes' WHERE name <> 'q2'").await;
    // Heartbeats look now and then.
    eventually(LIMIT, async || {
        s.run("SELECT app_jobs_internal.heartbeat('worker', gen_random_uuid(), '30 s', false, 'overdue', '4 h')").await;
        s.number("SELECT count(*) FROM app_jobs.gate_tokens WHERE kind = 'queue'").await < 3
    })
    .await;
    assert_eq!(s.show("SELECT name FROM app_jobs.gate_tokens WHERE kind = 'queue'").await, "q2");
}

#[tokio::test]
async fn a_claim_in_an_older_transaction_takes_tokens_of_now() {
    let db = database().await;
    let (s, older) = (Session::open(&db).await, Session::open(&db).await);
    s.run("SELECT app_jobs.set_limit('task', '*', rate => 1), app_jobs.add_job('t') FROM generate_series(1, 3)").await;
    older.run("BEGIN").await;
    older.run("SELECT pg_sleep(1.1)").await;
    assert!(older.get_job("'worker'").await.is_some());
    older.run("COMMIT").await;
    assert_eq!(s.get_job("'worker'").await, None);
}

#[tokio::test]
async fn a_row_with_a_weight_alone_keeps_the_rate_of_all() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(&format!(
        "SELECT app_jobs.set_limit('tenant', '*', rate => 1, per => '1 hour'),
                app_jobs.set_weight('tenant', '{TENANT}', 3);
         INSERT INTO app_jobs.jobs (task_identifier, database_id) SELECT 't', '{TENANT}' FROM generate_series(1, 2)"
    ))
    .await;
    assert_eq!(claim(&s, "'worker', NULL, 9, NULL").await.len(), 1);
    let next = "BEGIN; SELECT id FROM app_jobs_internal.claim_jobs('worker', NULL, 9, NULL);
                SELECT app_jobs_internal.next_run_at(NULL, NULL, '1 day') > now() + interval '59 minutes'; COMMIT";
    assert_eq!(s.show(next).await, "t");
}
