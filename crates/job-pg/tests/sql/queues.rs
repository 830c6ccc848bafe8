//! Named queues: one job at a time, in order, whoever works; jobs without a queue run side by side.

use crate::sql::support::{Session, database};

#[tokio::test]
async fn a_queue_gives_one_job_at_a_time_in_order() {
    let db = database().await;
    let (a, b) = (Session::open(&db).await, Session::open(&db).await);
    let mut jobs = Vec::new();
    for _ in 0..3 {
        jobs.push(a.add_job("'x', '{}', queue_name := 'q'").await);
    }
    for (turn, job) in jobs.iter().enumerate() {
        let (one, other) = if turn % 2 == 0 { (&a, &b) } else { (&b, &a) };
        assert_eq!(one.get_job("'worker-1'").await, Some(*job));
        assert_eq!(other.get_job("'worker-2'").await, None, "the queue is busy");
        assert_eq!(one.get_job("'worker-1'").await, None, "for its own worker, too");
        assert_eq!(
            one.show("SELECT locked_by, job_count, locked_at IS NOT NULL FROM app_jobs.job_queues").await,
            format!("worker-1|{}|t", 3 - turn)
        );
        one.run(&format!("SELECT app_jobs.complete_job('worker-1', {job})")).await;
    }
    assert_eq!(a.show("SELECT * FROM app_jobs.job_queues").await, "", "a queue without jobs has no row");
}

#[tokio::test]
async fn a_busy_queue_does_not_hold_up_other_queues_or_jobs_without_one() {
    let db = database().await;
    let s = Session::open(&db).await;
    let first = s.add_job("'x', '{}', queue_name := 'q1'").await;
    s.add_job("'x', '{}', queue_name := 'q1'").await;
    let other = s.add_job("'x', '{}', queue_name := 'q2'").await;
    let (free, free2) = (s.add_job("'x'").await, s.add_job("'x'").await);
    for expected in [Some(first), Some(other), Some(free), Some(free2), None] {
        assert_eq!(s.get_job("'worker'").await, expected);
    }
}

#[tokio::test]
async fn a_failed_job_that_waits_for_its_retry_does_not_block_its_queue() {
    let db = database().await;
    let s = Session::open(&db).await;
    let first = s.add_job("'x', '{}', queue_name := 'q'").await;
    let second = s.add_job("'x', '{}', queue_name := 'q'").await;
    s.get_job("'worker'").await;
    s.run(&format!("SELECT app_jobs.fail_job('worker', {first}, 'no')")).await;
    assert_eq!(s.show("SELECT job_count, locked_by, locked_at FROM app_jobs.job_queues").await, "2|~|~");
    assert_eq!(s.get_job("'worker'").await, Some(second));
    // Its time comes while the other runs: it waits for the queue.
    s.run(&format!("UPDATE app_jobs.jobs SET run_at = now() - interval '1 day' WHERE id = {first}")).await;
    assert_eq!(s.get_job("'worker'").await, None);
    s.run(&format!("SELECT app_jobs.complete_job('worker', {second})")).await;
    assert_eq!(s.get_job("'worker'").await, Some(first));
}

#[tokio::test]
async fn an_exhausted_job_does_not_block_its_queue() {
    let db = database().await;
    let s = Session::open(&db).await;
    let first = s.add_job("'x', '{}', queue_name := 'q', max_attempts := 1").await;
    let second = s.add_job("'x', '{}', queue_name := 'q'").await;
    s.get_job("'worker'").await;
    s.run(&format!("SELECT app_jobs.fail_job('worker', {first}, 'no')")).await;
    assert_eq!(s.get_job("'worker'").await, Some(second));
}

#[tokio::test]
async fn a_queue_whose_worker_is_gone_is_free_after_the_expiry() {
    let db = database().await;
    let s = Session::open(&db).await;
    for exhausted in [false, true] {
        s.run("DELETE FROM app_jobs.jobs").await;
        let first = s
            .add_job(&format!("'x', '{{}}', queue_name := 'q', max_attempts := {}", if exhausted { 1 } else { 9 }))
            .await;
        let second = s.add_job("'x', '{}', queue_name := 'q'").await;
        assert_eq!(s.get_job("'gone-worker'").await, Some(first));
        assert_eq!(s.get_job("'worker', NULL, '1 hour'").await, None, "a young lock holds the queue");
        s.run("UPDATE app_jobs.jobs SET locked_at = now() - interval '2 hours' WHERE locked_at IS NOT NULL").await;
        assert_eq!(s.get_job("'worker'").await, None, "not older than the default expiry");
        let next = if exhausted { second } else { first };
        assert_eq!(s.get_job("'worker', NULL, '1 hour'").await, Some(next), "exhausted: {exhausted}");
        assert_eq!(s.get_job("'worker', NULL, '1 hour'").await, None, "the queue has a new lock");
        assert_eq!(s.show("SELECT locked_by FROM app_jobs.job_queues").await, "worker");
    }
}

#[tokio::test]
async fn a_claim_in_another_sessions_open_transaction_holds_the_queue() {
    let db = database().await;
    let (a, b) = (Session::open(&db).await, Session::open(&db).await);
    let first = a.add_job("'x', '{}', queue_name := 'q'").await;
    a.add_job("'x', '{}', queue_name := 'q'").await;
    b.run("SET lock_timeout = '10s'").await;
    a.run("BEGIN").await;
    assert_eq!(a.get_job("'worker-1'").await, Some(first));
    assert_eq!(b.get_job("'worker-2'").await, None, "neither waits nor takes the second");
    a.run("COMMIT").await;
    assert_eq!(b.get_job("'worker-2'").await, None);
}

#[tokio::test]
async fn a_completion_that_rolls_back_keeps_the_queue_locked() {
    let db = database().await;
    let s = Session::open(&db).await;
    let first = s.add_job("'x', '{}', queue_name := 'q'").await;
    s.add_job("'x', '{}', queue_name := 'q'").await;
    s.get_job("'worker'").await;
    s.run(&format!("BEGIN; SELECT app_jobs.complete_job('worker', {first}); ROLLBACK")).await;
    assert_eq!(s.get_job("'worker'").await, None);
}

#[tokio::test]
async fn a_queue_can_have_any_name() {
    let db = database().await;
    let s = Session::open(&db).await;
    for name in ["", " ", "it''s", "\\", "\"; drop table app_jobs.jobs; --", "日本", "NULL", "{a,b}"] {
        let id = s.add_job(&format!("'x', '{{}}', queue_name := '{name}'")).await;
        assert_eq!(s.get_job("'worker'").await, Some(id), "{name}");
        assert_eq!(s.show("SELECT queue_name FROM app_jobs.job_queues").await, name.replace("''", "'"));
        s.run(&format!("SELECT app_jobs.complete_job('worker', {id})")).await;
        assert_eq!(s.number("SELECT count(*) FROM app_jobs.job_queues").await, 0, "{name}");
    }
}

#[tokio::test]
async fn releasing_frees_a_queue_locked_by_hand_and_none_that_runs_a_job() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("SELECT app_jobs.add_job('x', queue_name := 'runs'), app_jobs.get_job('worker-2')").await;
    s.run("SELECT app_jobs.add_job('x', queue_name := 'by-hand')").await;
    s.run("UPDATE app_jobs.job_queues SET locked_by = 'worker-1', locked_at = now()").await;
    s.run("SELECT app_jobs.release_jobs('worker-1')").await;
    let queues = "SELECT queue_name, locked_by, locked_at IS NOT NULL FROM app_jobs.job_queues ORDER BY 1";
    assert_eq!(s.show(queues).await, "by-hand|~|f\nruns|worker-1|t");
}
