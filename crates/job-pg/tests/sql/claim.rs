//! get_job: which job is claimed, by whom, and when there is none.

use crate::sql::support::{Session, database};

#[tokio::test]
async fn a_claim_counts_an_attempt_and_locks_the_job_for_the_worker() {
    let db = database().await;
    let s = Session::open(&db).await;
    let id = s.add_job("'x', '{\"a\":1}'").await;
    let claimed = s
        .show(
            "BEGIN; SELECT id, task_identifier, payload, attempts, max_attempts, locked_by, locked_at = now(), last_error
               FROM app_jobs.get_job('worker-1'); COMMIT",
        )
        .await;
    assert_eq!(claimed, format!("{id}|x|{{\"a\":1}}|1|25|worker-1|t|~"));
    assert_eq!(s.show("SELECT attempts, locked_by, locked_at IS NOT NULL FROM app_jobs.jobs").await, "1|worker-1|t");
    assert_eq!(s.get_job("'worker-2'").await, None, "a locked job is nobody else's");
    assert_eq!(s.get_job("'worker-1'").await, None, "nor is it given twice to its own worker");
}

#[tokio::test]
async fn nothing_to_claim_is_one_row_of_nulls() {
    let db = database().await;
    let s = Session::open(&db).await;
    let columns = s
        .number(
            "SELECT count(*) FROM information_schema.columns WHERE table_name = 'jobs' AND table_schema = 'app_jobs'",
        )
        .await;
    let nulls = vec!["~"; usize::try_from(columns).unwrap()].join("|");
    assert_eq!(s.show("SELECT * FROM app_jobs.get_job('worker')").await, nulls);
    assert_eq!(s.show("SELECT (app_jobs.get_job('worker')).id").await, "~");
}

#[tokio::test]
async fn a_worker_without_a_usable_id_is_refused() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.add_job("'x'").await;
    for worker in ["NULL", "''", "'abc'"] {
        for function in ["get_job", "get_scheduled_job"] {
            let error = s.error(&format!("SELECT app_jobs.{function}({worker})")).await;
            assert_eq!(error.message(), "INVALID_WORKER_ID", "{function}({worker})");
        }
    }
    assert_eq!(s.show("SELECT attempts, locked_by FROM app_jobs.jobs").await, "0|~");
    assert!(s.get_job("'four'").await.is_some(), "4 characters are enough");
}

#[tokio::test]
async fn the_order_is_priority_then_run_at_then_id() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(
        "INSERT INTO app_jobs.jobs (id, task_identifier, priority, run_at) VALUES
            (101, 'x', 5, now() - interval '9 hours'), (102, 'x', 0, now() - interval '1 hour'),
            (103, 'x', 0, now() - interval '2 hours'), (105, 'x', -5, now()), (104, 'x', -5, now()),
            (106, 'x', -2147483648, now()), (107, 'x', 2147483647, now())",
    )
    .await;
    let mut order = Vec::new();
    while let Some(id) = s.get_job("'worker'").await {
        order.push(id);
    }
    assert_eq!(order, [106, 104, 105, 103, 102, 101, 107]);
}

#[tokio::test]
async fn what_cannot_run_now_does_not_hide_what_can_at_a_later_priority() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run("INSERT INTO app_jobs.jobs (task_identifier, priority, run_at) SELECT 'x', -g, now() + interval '1 day' FROM generate_series(1, 20) g")
        .await;
    s.add_job("'other', '{}', priority := -50").await;
    s.add_job("'x', '{}', queue_name := 'q', priority := -50").await;
    assert!(s.get_job("'worker-1', '{x}'").await.is_some(), "the queue's first job");
    s.add_job("'x', '{}', queue_name := 'q', priority := -40").await;
    let due = s.add_job("'x', '{}', priority := 3").await;
    assert_eq!(s.get_job("'worker-2', '{x}'").await, Some(due));
    assert_eq!(s.get_job("'worker-2', '{x}'").await, None);
}

#[tokio::test]
async fn a_job_waits_for_its_time() {
    let db = database().await;
    let s = Session::open(&db).await;
    let id = s.add_job("'x', '{}', run_at := now() + interval '1 hour'").await;
    assert_eq!(s.get_job("'worker'").await, None);
    s.run("UPDATE app_jobs.jobs SET run_at = now()").await;
    assert_eq!(s.get_job("'worker'").await, Some(id));
}

#[tokio::test]
async fn an_exhausted_job_is_not_claimed_even_when_its_lock_is_old() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(
        "INSERT INTO app_jobs.jobs (task_identifier, attempts, max_attempts, locked_at, locked_by) VALUES
            ('x', 3, 3, NULL, NULL), ('x', 4, 3, NULL, NULL), ('x', 3, 3, now() - interval '1 year', 'gone-worker')",
    )
    .await;
    assert_eq!(s.get_job("'worker'").await, None);
}

#[tokio::test]
async fn only_the_tasks_asked_for_are_claimed_and_null_means_any() {
    let db = database().await;
    let s = Session::open(&db).await;
    let (a, b) = (s.add_job("'a'").await, s.add_job("'b'").await);
    assert_eq!(s.get_job("'worker', '{}'").await, None, "an empty list takes nothing");
    assert_eq!(s.get_job("'worker', '{c}'").await, None);
    assert_eq!(s.get_job("'worker', '{b,c}'").await, Some(b));
    assert_eq!(s.get_job("'worker', NULL").await, Some(a));
}

#[tokio::test]
async fn a_lock_older_than_the_expiry_is_taken_over_and_a_younger_one_is_not() {
    let db = database().await;
    let s = Session::open(&db).await;
    let id = s.add_job("'x'").await;
    s.get_job("'worker-1'").await;
    for (age, arguments, claimed) in [
        ("3 hours 59 minutes", "'worker-2'", false),
        ("3 hours 59 minutes", "'worker-2', NULL, NULL", false),
        ("4 hours 1 minute", "'worker-2'", true),
        ("4 hours 1 minute", "'worker-3', NULL, NULL", true),
        ("4 hours 1 minute", "'worker-2', NULL, '5 hours'", false),
        ("2 minutes", "'worker-2', NULL, '1 minute'", true),
        ("2 minutes", "'worker-2', '{y}', '1 minute'", false),
    ] {
        s.run(&format!(
            "UPDATE app_jobs.jobs SET locked_at = now() - interval '{age}', attempts = 1, locked_by = 'worker-1'"
        ))
        .await;
        assert_eq!(s.get_job(arguments).await, claimed.then_some(id), "{age}, get_job({arguments})");
        let attempts = s.number("SELECT attempts FROM app_jobs.jobs").await;
        assert_eq!(attempts, 1 + i64::from(claimed), "{age}, get_job({arguments})");
    }
    // The worker that lost it can no longer end it.
    s.run("UPDATE app_jobs.jobs SET locked_by = 'worker-2'").await;
    assert_eq!(s.show(&format!("SELECT id FROM app_jobs.complete_job('worker-1', {id})")).await, "~");
    assert_eq!(s.show(&format!("SELECT id FROM app_jobs.fail_job('worker-1', {id}, 'late')")).await, "~");
    assert_eq!(s.show("SELECT locked_by, last_error FROM app_jobs.jobs").await, "worker-2|~");
}

#[tokio::test]
async fn an_expired_job_competes_with_waiting_ones_by_the_same_order() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.run(
        "INSERT INTO app_jobs.jobs (id, task_identifier, priority, run_at, attempts, locked_at, locked_by) VALUES
            (201, 'x', 1, now() - interval '9 hours', 1, now() - interval '8 hours', 'gone-worker'),
            (202, 'x', 0, now(), 0, NULL, NULL), (203, 'x', 2, now(), 0, NULL, NULL)",
    )
    .await;
    for expected in [Some(202), Some(201), Some(203), None] {
        assert_eq!(s.get_job("'worker'").await, expected);
    }
}

#[tokio::test]
async fn a_job_that_another_session_is_claiming_is_skipped_without_waiting() {
    let db = database().await;
    let (a, b) = (Session::open(&db).await, Session::open(&db).await);
    let (first, second) = (a.add_job("'x'").await, a.add_job("'x'").await);
    a.run("BEGIN").await;
    assert_eq!(a.get_job("'worker-1'").await, Some(first));
    b.run("SET lock_timeout = '10s'").await;
    assert_eq!(b.get_job("'worker-2'").await, Some(second));
    assert_eq!(b.get_job("'worker-2'").await, None);
    a.run("ROLLBACK").await;
    assert_eq!(b.get_job("'worker-2'").await, Some(first), "a claim that rolled back claimed nothing");
    assert_eq!(b.number("SELECT min(attempts) FROM app_jobs.jobs").await, 1);
}

#[tokio::test]
async fn a_claim_that_would_have_to_wait_for_a_lock_gives_up() {
    let db = database().await;
    let (s, holder) = (Session::open(&db).await, Session::open(&db).await);
    s.run("SELECT app_jobs.add_job('x')").await;
    holder.run("BEGIN; LOCK TABLE app_jobs.gates IN ACCESS EXCLUSIVE MODE").await;
    assert_eq!(s.error("SELECT app_jobs.get_job('worker')").await.code().code(), "55P03");
    holder.run("COMMIT").await;
    assert!(s.is("SELECT (app_jobs.get_job('worker')).id = 1").await);
}
