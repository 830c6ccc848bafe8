//! complete_job, fail_job, release_jobs: how an attempt ends, and for whom it does not.

use crate::sql::support::{Session, database};

#[tokio::test]
async fn completing_removes_the_job_and_returns_it() {
    let db = database().await;
    let s = Session::open(&db).await;
    let id = s.add_job("'x', '{\"a\":1}', queue_name := 'q'").await;
    s.get_job("'worker'").await;
    let returned =
        s.show(&format!("SELECT id, payload, attempts, locked_by FROM app_jobs.complete_job('worker', {id})")).await;
    assert_eq!(returned, format!("{id}|{{\"a\":1}}|1|worker"));
    assert_eq!(
        s.show("SELECT (SELECT count(*) FROM app_jobs.jobs), (SELECT count(*) FROM app_jobs.job_queues)").await,
        "0|0"
    );
}

#[tokio::test]
async fn failing_unlocks_with_the_error_and_an_exponential_wait() {
    let db = database().await;
    let s = Session::open(&db).await;
    for (attempt, exponent) in [(1, 1.0_f64), (2, 2.0), (10, 10.0), (24, 10.0)] {
        s.run("DELETE FROM app_jobs.jobs").await;
        let id = s.add_job("'x', '{}', run_at := now() - interval '1 hour'").await;
        s.run(&format!("UPDATE app_jobs.jobs SET attempts = {}", attempt - 1)).await;
        s.get_job("'worker'").await;
        let shown = s
            .show(&format!(
                "BEGIN; SELECT id, last_error, locked_at, locked_by, attempts, extract(epoch FROM run_at - now())::float8
                   FROM app_jobs.fail_job('worker', {id}, 'it''s broken'); COMMIT"
            ))
            .await;
        let (row, wait) = shown.rsplit_once('|').unwrap();
        assert_eq!(row, format!("{id}|it's broken|~|~|{attempt}"));
        let wait: f64 = wait.parse().unwrap();
        assert!((wait - exponent.exp()).abs() < 0.001, "attempt {attempt} waits {wait} s");
    }
}

#[tokio::test]
async fn the_wait_is_counted_from_a_run_at_that_is_later_than_now() {
    let db = database().await;
    let s = Session::open(&db).await;
    let id = s.add_job("'x'").await;
    s.get_job("'worker'").await;
    s.run("UPDATE app_jobs.jobs SET run_at = now() + interval '1 hour'").await;
    let before = s.show("SELECT run_at FROM app_jobs.jobs").await;
    let seconds = s
        .show(&format!(
            "SELECT round(extract(epoch FROM run_at - '{before}'), 3) FROM app_jobs.fail_job('worker', {id}, 'no')"
        ))
        .await;
    assert_eq!(seconds, "2.718");
}

#[tokio::test]
async fn a_job_that_fails_on_its_last_attempt_stays_and_is_not_tried_again() {
    let db = database().await;
    let s = Session::open(&db).await;
    let id = s.add_job("'x', '{}', max_attempts := 2").await;
    for attempt in 1..=2 {
        assert_eq!(s.get_job("'worker'").await, Some(id));
        s.run(&format!("SELECT app_jobs.fail_job('worker', {id}, 'no {attempt}')")).await;
        s.run("UPDATE app_jobs.jobs SET run_at = now() - interval '1 hour'").await;
    }
    assert_eq!(s.get_job("'worker'").await, None);
    assert_eq!(s.show("SELECT attempts, last_error, locked_by FROM app_jobs.jobs").await, "2|no 2|~");
}

#[tokio::test]
async fn an_error_message_may_be_anything_and_none_still_leaves_a_text() {
    let db = database().await;
    let s = Session::open(&db).await;
    let id = s.add_job("'x', '{}', max_attempts := 100").await;
    for (message, stored) in
        [("''", ""), ("E'\\n\\t\\\\ '';drop table jobs'", "\n\t\\ ';drop table jobs"), ("'日本'", "日本")]
    {
        s.run("UPDATE app_jobs.jobs SET run_at = now()").await;
        s.get_job("'worker'").await;
        s.run(&format!("SELECT app_jobs.fail_job('worker', {id}, {message})")).await;
        assert_eq!(s.show("SELECT last_error FROM app_jobs.jobs").await, stored);
    }
    s.run("UPDATE app_jobs.jobs SET run_at = now(), last_error = NULL").await;
    s.get_job("'worker'").await;
    s.run(&format!("SELECT app_jobs.fail_job('worker', {id}, NULL)")).await;
    assert!(s.is("SELECT length(last_error) > 0 FROM app_jobs.jobs").await, "a failure is never without a text");
}

#[tokio::test]
async fn only_the_worker_that_holds_a_job_ends_it() {
    let db = database().await;
    let s = Session::open(&db).await;
    let running = s.add_job("'x', '{}', queue_name := 'q'").await;
    let waiting = s.add_job("'x', '{}', queue_name := 'q'").await;
    s.get_job("'worker-1'").await;
    let before = s.show("SELECT * FROM app_jobs.jobs ORDER BY id; SELECT * FROM app_jobs.job_queues").await;
    for (worker, id) in [
        ("'worker-2'", running),
        ("'worker-1'", waiting),
        ("'worker-1'", 999_999),
        ("NULL", running),
        ("NULL", waiting),
        ("''", waiting),
    ] {
        assert_eq!(
            s.show(&format!("SELECT id, task_identifier FROM app_jobs.complete_job({worker}, {id})")).await,
            "~|~"
        );
        assert_eq!(
            s.show(&format!("SELECT id, task_identifier FROM app_jobs.fail_job({worker}, {id}, 'no')")).await,
            "~|~"
        );
    }
    assert_eq!(s.show("SELECT id FROM app_jobs.complete_job('worker-1', NULL)").await, "~");
    assert_eq!(s.show("SELECT id FROM app_jobs.fail_job('worker-1', NULL, 'no')").await, "~");
    assert_eq!(s.show("SELECT * FROM app_jobs.jobs ORDER BY id; SELECT * FROM app_jobs.job_queues").await, before);
}

#[tokio::test]
async fn ending_a_job_twice_changes_nothing_the_second_time() {
    let db = database().await;
    let s = Session::open(&db).await;
    let id = s.add_job("'x'").await;
    s.get_job("'worker'").await;
    s.run(&format!("SELECT app_jobs.fail_job('worker', {id}, 'first')")).await;
    assert_eq!(s.show(&format!("SELECT id FROM app_jobs.fail_job('worker', {id}, 'second')")).await, "~");
    assert_eq!(s.show(&format!("SELECT id FROM app_jobs.complete_job('worker', {id})")).await, "~");
    assert_eq!(s.show("SELECT last_error, attempts FROM app_jobs.jobs").await, "first|1");
}

#[tokio::test]
async fn releasing_gives_back_all_of_a_workers_jobs_queues_and_attempts() {
    let db = database().await;
    let s = Session::open(&db).await;
    let (queued, free) = (s.add_job("'x', '{}', queue_name := 'q'").await, s.add_job("'x'").await);
    let others = s.add_job("'x', '{}', queue_name := 'q2'").await;
    assert_eq!(s.get_job("'worker-1'").await, Some(queued));
    assert_eq!(s.get_job("'worker-1'").await, Some(free));
    assert_eq!(s.get_job("'worker-2'").await, Some(others));
    // An attempt that is already 0, by an operator's hand, does not become negative.
    s.run(&format!("UPDATE app_jobs.jobs SET attempts = 0 WHERE id = {free}")).await;
    let before = s.show("SELECT run_at FROM app_jobs.jobs ORDER BY id").await;
    assert_eq!(s.show("SELECT app_jobs.release_jobs('worker-1')").await, "");
    let rows = s.show("SELECT id, attempts, locked_by, locked_at IS NULL FROM app_jobs.jobs ORDER BY id").await;
    assert_eq!(rows, format!("{queued}|0|~|t\n{free}|0|~|t\n{others}|1|worker-2|f"));
    assert_eq!(s.show("SELECT run_at FROM app_jobs.jobs ORDER BY id").await, before, "the time to run is as it was");
    let queues = s.show("SELECT queue_name, locked_by FROM app_jobs.job_queues ORDER BY 1").await;
    assert_eq!(queues, "q|~\nq2|worker-2");
    assert_eq!(s.get_job("'worker-3'").await, Some(queued));
}

#[tokio::test]
async fn releasing_for_nobody_or_an_unknown_worker_changes_nothing() {
    let db = database().await;
    let s = Session::open(&db).await;
    s.add_job("'x', '{}', queue_name := 'q'").await;
    s.add_job("'x', '{}', queue_name := 'free'").await;
    s.get_job("'worker-1'").await;
    let before = s.show("SELECT * FROM app_jobs.jobs ORDER BY id; SELECT * FROM app_jobs.job_queues ORDER BY 1").await;
    s.run("SELECT app_jobs.release_jobs('worker-2'), app_jobs.release_jobs(NULL), app_jobs.release_jobs('')").await;
    assert_eq!(
        s.show("SELECT * FROM app_jobs.jobs ORDER BY id; SELECT * FROM app_jobs.job_queues ORDER BY 1").await,
        before
    );
}
