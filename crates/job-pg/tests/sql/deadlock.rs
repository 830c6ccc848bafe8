//! Sessions that write many named queues in single statements, each in an order of its own, never deadlock: the rows of
//! job_queues are always locked in one order.

use tokio::task::JoinSet;
use tokio_postgres::error::SqlState;

use crate::sql::support::{Session, database};

/// Runs each statement `times` times in a session of its own, all at once; none may fail. A claim is tried again when
/// it had to wait for a lock, as workers do.
async fn at_once(db: &job_testkit::TestDb, statements: &[&str], times: usize) {
    let mut sessions = JoinSet::new();
    for statement in statements {
        let s = Session::open(db).await;
        let statement = (*statement).to_owned();
        sessions.spawn(async move {
            // A deadlock is found soon, but not before a claim gives up that waits.
            s.run("SET deadlock_timeout = '400ms'").await;
            let gives_up = statement.contains("claim_jobs") || statement.contains("get_job");
            for _ in 0..times {
                while let Err(error) = s.client.batch_execute(&statement).await {
                    assert!(gives_up && error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE), "{statement}: {error:?}");
                }
            }
        });
    }
    sessions.join_all().await;
}

/// job_queues says what jobs says.
async fn queues_are_true(s: &Session) {
    let wrong = s
        .show(
            "SELECT coalesce(q.queue_name, j.queue_name), q.job_count, j.jobs, q.locked_at IS NOT NULL, j.locked
               FROM app_jobs.job_queues q FULL JOIN (
                    SELECT queue_name, count(*)::int AS jobs, bool_or(locked_at IS NOT NULL) AS locked FROM app_jobs.jobs
                     WHERE queue_name IS NOT NULL GROUP BY 1) j USING (queue_name)
              WHERE (q.job_count, q.locked_at IS NOT NULL) IS DISTINCT FROM (j.jobs, j.locked)",
        )
        .await;
    assert_eq!(wrong, "", "queues whose row is not true");
}

const INSERT: &str = "INSERT INTO app_jobs.jobs (task_identifier, queue_name)
    SELECT 'x', 'q' || g FROM generate_series(1, 30) g WHERE random() < 0.5 ORDER BY random()";
const DELETE: &str = "DELETE FROM app_jobs.jobs WHERE id IN (
    SELECT id FROM app_jobs.jobs WHERE random() < 0.5 ORDER BY random() LIMIT 40 FOR UPDATE SKIP LOCKED)";
const MOVE: &str = "UPDATE app_jobs.jobs SET queue_name = 'q' || 1 + (random() * 29)::int WHERE id IN (
    SELECT id FROM app_jobs.jobs WHERE random() < 0.5 ORDER BY random() LIMIT 20 FOR UPDATE SKIP LOCKED)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_inserts_deletes_and_moves_in_random_order() {
    let db = database().await;
    let s = Session::open(&db).await;
    // More deletes than inserts keep queues appearing and vanishing, which is where rows cannot be locked beforehand.
    at_once(&db, &[INSERT, DELETE, INSERT, DELETE, DELETE, MOVE, INSERT, DELETE], 120).await;
    queues_are_true(&s).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_completions_and_releases_of_batches_among_enqueues() {
    let db = database().await;
    let s = Session::open(&db).await;
    let claim =
        |worker: usize| format!("SELECT id FROM app_jobs_internal.claim_jobs('worker-{worker}', NULL, 20, '4 hours')");
    let complete = |worker: usize| format!("DELETE FROM app_jobs.jobs WHERE locked_by = 'worker-{worker}'");
    let release = |worker: usize| format!("SELECT app_jobs.release_jobs('worker-{worker}')");
    at_once(&db, &[INSERT, &claim(1), &complete(1), &claim(2), &release(2), INSERT], 100).await;
    s.run("SELECT app_jobs.release_jobs('worker-1'), app_jobs.release_jobs('worker-2')").await;
    queues_are_true(&s).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_completing_the_same_jobs_in_different_orders() {
    let db = database().await;
    let s = Session::open(&db).await;
    let operate = |function: &str, limit: u32| {
        format!(
            "SELECT count(*) FROM app_jobs.{function}((SELECT array_agg(id ORDER BY random()) FROM (
                SELECT id FROM app_jobs.jobs ORDER BY random() LIMIT {limit}) j))"
        )
    };
    let (complete, reschedule, fail) =
        (operate("complete_jobs", 25), operate("reschedule_jobs", 40), operate("permanently_fail_jobs", 40));
    at_once(&db, &[INSERT, &complete, INSERT, &reschedule, &fail, &reschedule], 80).await;
    queues_are_true(&s).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_taken_from_running_jobs_of_other_queues() {
    let db = database().await;
    let s = Session::open(&db).await;
    let add = "SELECT app_jobs.add_job('x', '{}', 'k' || (random() * 5)::int, 'q' || (random() * 5)::int)";
    let claim = "SELECT app_jobs.get_job('worker-1')";
    let complete = "DELETE FROM app_jobs.jobs WHERE id IN (
        SELECT id FROM app_jobs.jobs WHERE locked_by = 'worker-1' ORDER BY random() LIMIT 3)";
    at_once(&db, &[add, add, add, add, claim, claim, complete], 150).await;
    queues_are_true(&s).await;
}
