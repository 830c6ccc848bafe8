//! Queues whose jobs have different gates: their order, and what a claim locks of them.

use crate::sql::gates::claim;
use crate::sql::support::{Session, database};

const LOCKS: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'
                      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
const UNLOCKED: &str = "SELECT count(*) FROM (SELECT FROM app_jobs.jobs FOR UPDATE SKIP LOCKED) j";

/// Jobs of queue `q` in this order, each of a task by whose name it is known.
async fn add(s: &Session, tasks: &str) {
    s.run(&format!(
        "INSERT INTO app_jobs.jobs (task_identifier, queue_name, payload)
         SELECT task, 'q', to_json(task) FROM regexp_split_to_table('{tasks}', ' ') WITH ORDINALITY t (task, n) ORDER BY n"
    ))
    .await;
}

/// The payloads of what a claim takes, in the order of ids.
async fn claimed(s: &Session, jobs: usize) -> String {
    s.show(&format!(
        "SELECT string_agg(payload #>> '{{}}', ' ' ORDER BY id)
           FROM app_jobs_internal.claim_instance_jobs(NULL, 'worker', '{{}}', NULL, {jobs}, NULL)"
    ))
    .await
}

#[tokio::test]
async fn a_claim_locks_no_more_gates_and_rows_of_a_queue_than_it_may_start_jobs_of_it() {
    let db = database().await;
    let (s, other) = (Session::open(&db).await, Session::open(&db).await);
    s.run("SELECT app_jobs.set_limit('tenant', '*', 10)").await;
    let of_tenants = "INSERT INTO app_jobs.jobs (task_identifier, queue_name, database_id)
                      SELECT 't', 'q', gen_random_uuid() FROM generate_series(1, 300)";
    s.run(of_tenants).await;
    // The first jobs of a session are put in their place by claims.
    assert_eq!(claim(&s, "'worker', NULL, 9, NULL").await.len(), 1);
    s.run("SELECT app_jobs.complete_job('worker', id) FROM app_jobs.jobs WHERE locked_at IS NOT NULL").await;
    s.run("BEGIN").await;
    assert!(s.get_job("'worker'").await.is_some());
    assert_eq!(other.number(LOCKS).await, 2, "the queue and the tenant");
    assert_eq!(other.number(UNLOCKED).await, 298);
    s.run("ROLLBACK; BEGIN").await;
    assert!(claimed(&s, 10).await != "~");
    assert_eq!(other.number(LOCKS).await, 2);
    s.run("ROLLBACK").await;
    // A full queue costs its own gate alone.
    s.run("SELECT app_jobs.set_limit('queue', 'q', 1)").await;
    assert!(s.get_job("'worker'").await.is_some());
    s.run("BEGIN").await;
    assert_eq!(s.get_job("'worker'").await, None);
    assert!(other.number(LOCKS).await <= 1, "{}", other.number(LOCKS).await);
    s.run("COMMIT").await;
}

#[tokio::test]
async fn a_later_job_of_a_queue_passes_none_whose_gate_another_claim_has_for_a_moment() {
    let db = database().await;
    let (s, other) = (Session::open(&db).await, Session::open(&db).await);
    s.run("SELECT app_jobs.set_limit('queue', 'q', 3)").await;
    s.run("SELECT app_jobs.set_limit('task', task, 9) FROM unnest('{a,b,c}'::text[]) task").await;
    add(&s, "a b a c").await;
    other.run("BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('\"app_jobs\".gate:task:b', 0))").await;
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1";
    assert!(other.number(held).await > 0);
    assert_eq!(claimed(&s, 3).await, "a");
    other.run("COMMIT").await;
    assert_eq!(claimed(&s, 3).await, "b a");
    assert_eq!(claimed(&s, 3).await, "~");
    s.run("SELECT app_jobs.complete_job('worker', id) FROM app_jobs.jobs WHERE locked_at IS NOT NULL").await;
    assert_eq!(claimed(&s, 3).await, "c");
}

#[tokio::test]
async fn what_somebody_holds_of_a_queue_is_passed_by_the_next_one_whatever_its_gates() {
    let db = database().await;
    let (s, other) = (Session::open(&db).await, Session::open(&db).await);
    s.run("SELECT app_jobs.set_limit('task', task, 9) FROM unnest('{a,b,c}'::text[]) task").await;
    add(&s, "a b a c").await;
    other.run("BEGIN; SELECT FROM app_jobs.jobs ORDER BY id LIMIT 1 FOR UPDATE").await;
    assert_eq!(claimed(&s, 1).await, "b");
    s.run("SELECT app_jobs.complete_job('worker', id) FROM app_jobs.jobs WHERE locked_at IS NOT NULL").await;
    assert_eq!(claimed(&s, 9).await, "a");
    other.run("COMMIT").await;
    s.run("SELECT app_jobs.complete_job('worker', id) FROM app_jobs.jobs WHERE locked_at IS NOT NULL").await;
    assert_eq!(
        s.show("SELECT min(id) FROM app_jobs.jobs").await,
        s.show("SELECT id FROM app_jobs.get_job('worker')").await
    );
}

#[tokio::test]
async fn while_jobs_are_put_in_their_place_a_later_job_of_another_queue_passes_none() {
    let db = database().await;
    let (s, other) = (Session::open(&db).await, Session::open(&db).await);
    s.run("SELECT app_jobs.set_limit('task', task, 9) FROM unnest('{b,c}'::text[]) task").await;
    add(&s, "a b a").await;
    // Of another queue one that stands where it does not belong any more.
    s.run("INSERT INTO app_jobs.jobs (task_identifier, queue_name) VALUES ('c', 'r')").await;
    s.run("SELECT app_jobs.set_limit('task', 'c')").await;
    other.run("BEGIN; SELECT FROM app_jobs.jobs ORDER BY id LIMIT 1 FOR UPDATE").await;
    assert_eq!(claimed(&s, 9).await, "b");
    other.run("COMMIT").await;
}
