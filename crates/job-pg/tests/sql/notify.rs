//! When workers and schedulers are woken, and when they are left asleep.

use crate::sql::support::{Ear, Session, database};

const JOBS: &str = "jobs:insert";
const SCHEDULES: &str = "scheduled_jobs:insert";

/// Runs each statement and counts the notifications that its commit brought.
async fn woken(s: &Session, ear: &mut Ear, statement: &str) -> usize {
    s.run(statement).await;
    ear.count().await
}

#[tokio::test]
async fn an_insert_wakes_once_per_transaction_and_none_wakes_none() {
    let db = database().await;
    let (s, mut ear) = (Session::open(&db).await, Ear::on(&db, JOBS).await);
    for (statement, times) in [
        ("SELECT app_jobs.add_job('x')", 1),
        ("INSERT INTO app_jobs.jobs (task_identifier) VALUES ('x'), ('y')", 1),
        (
            "INSERT INTO app_jobs.jobs (task_identifier, queue_name) SELECT 'x', 'q' || g FROM generate_series(1, 100) g",
            1,
        ),
        ("SELECT app_jobs.add_job('x') FROM generate_series(1, 10)", 1),
        ("INSERT INTO app_jobs.jobs (task_identifier) SELECT 'x' WHERE false", 0),
        ("BEGIN; SELECT app_jobs.add_job('x'); ROLLBACK", 0),
        ("SELECT app_jobs.add_job('later', '{}', run_at := now() + interval '1 day')", 1),
    ] {
        assert_eq!(woken(&s, &mut ear, statement).await, times, "{statement}");
    }
}

/// What [`job_pg::enqueue_many`] calls once a job has a key mode or an actor, beside what one such job is enqueued
/// with.
#[tokio::test]
async fn a_batch_with_key_modes_wakes_once_as_a_single_call_does_and_not_when_it_only_keeps_jobs() {
    let db = database().await;
    let (s, mut ear) = (Session::open(&db).await, Ear::on(&db, JOBS).await);
    let many = |mode: &str, keys: &str| {
        format!(
            "SELECT app_jobs.enqueue_all('{{x,x,x}}', NULL, '{{{keys}}}', '{{{mode},{mode},{mode}}}', '{{q,NULL,r}}')"
        )
    };
    let one = |mode: &str, key: &str| format!("SELECT app_jobs.enqueue('x', '{{}}', '{key}', '{mode}', 'q')");
    for mode in ["ignore", "replace", "preserve_run_at"] {
        // New jobs, and then the same keys again: jobs that wait.
        let again = usize::from(mode != "ignore");
        let keys = format!("{mode}1,{mode}2,{mode}3");
        for (statement, times) in [
            (many(mode, &keys), 1),
            (many(mode, &keys), again),
            (one(mode, &format!("{mode}4")), 1),
            (one(mode, &format!("{mode}4")), again),
            // One of three is new, and has no key.
            (many(mode, &format!("{mode}1,NULL,{mode}3")), 1),
        ] {
            assert_eq!(woken(&s, &mut ear, &statement).await, times, "{statement}");
        }
    }
    s.run("UPDATE app_jobs.jobs SET locked_by = 'worker', locked_at = now() WHERE key LIKE 'ignore%'").await;
    ear.count().await;
    // Running jobs are kept as well. A batch of nothing wakes nobody.
    for statement in [
        many("ignore", "ignore1,ignore2,ignore3"),
        one("ignore", "ignore4"),
        "SELECT app_jobs.enqueue_all('{}', NULL, NULL)".into(),
    ] {
        assert_eq!(woken(&s, &mut ear, &statement).await, 0, "{statement}");
    }
}

#[tokio::test]
async fn a_replaced_key_a_release_a_retry_and_a_reschedule_wake() {
    let db = database().await;
    let (s, mut ear) = (Session::open(&db).await, Ear::on(&db, JOBS).await);
    s.run("SELECT app_jobs.add_job('x', '{}', 'k', run_at := now() + interval '1 day')").await;
    ear.count().await;
    for (statement, times) in [
        ("SELECT app_jobs.add_job('x', '{}', 'k')", 1),
        ("SELECT app_jobs.get_job('worker')", 0),
        ("SELECT app_jobs.get_job('worker')", 0),
        ("SELECT app_jobs.release_jobs('nobody')", 0),
        ("SELECT app_jobs.release_jobs('worker')", 1),
        ("SELECT app_jobs.get_job('worker')", 0),
        ("SELECT app_jobs.fail_job('worker', 1, 'no')", 1),
        ("SELECT app_jobs.fail_job('worker', 1, 'no')", 0),
        ("SELECT app_jobs.reschedule_jobs('{1}', run_at := now())", 1),
        ("SELECT app_jobs.reschedule_jobs('{99}', run_at := now())", 0),
        ("UPDATE app_jobs.jobs SET run_at = now()", 1),
        ("UPDATE app_jobs.jobs SET run_at = now() WHERE false", 0),
        ("SELECT app_jobs.get_job('worker')", 0),
        // The running job's key is taken: a new row, which wakes.
        ("SELECT app_jobs.add_job('x', '{}', 'k')", 1),
        ("SELECT app_jobs.complete_job('worker', 1)", 0),
        ("SELECT app_jobs.permanently_fail_jobs(array_agg(id)) FROM app_jobs.jobs", 0),
        ("DELETE FROM app_jobs.jobs", 0),
    ] {
        assert_eq!(woken(&s, &mut ear, statement).await, times, "{statement}");
    }
}

#[tokio::test]
async fn a_freed_queue_wakes_when_jobs_are_left_in_it() {
    let db = database().await;
    let (s, mut ear) = (Session::open(&db).await, Ear::on(&db, JOBS).await);
    s.run(
        "INSERT INTO app_jobs.jobs (id, task_identifier, queue_name, max_attempts) VALUES
            (1, 'x', 'q', 25), (2, 'x', 'q', 1), (3, 'x', 'q', 25), (4, 'x', 'q', 25), (5, 'x', 'q', 25)",
    )
    .await;
    ear.count().await;
    for (statement, times) in [
        ("SELECT app_jobs.get_job('worker')", 0),
        ("SELECT app_jobs.complete_job('worker', 1)", 1),
        ("SELECT app_jobs.get_job('worker')", 0),
        // The last attempt: this job does not come again, but the queue is free.
        ("SELECT app_jobs.fail_job('worker', 2, 'no')", 1),
        ("SELECT app_jobs.get_job('worker')", 0),
        ("DELETE FROM app_jobs.jobs WHERE id = 3", 1),
        ("SELECT app_jobs.get_job('worker')", 0),
        ("UPDATE app_jobs.jobs SET queue_name = NULL WHERE id = 4", 1),
        ("DELETE FROM app_jobs.jobs WHERE id IN (2, 4)", 0),
        ("SELECT app_jobs.get_job('worker')", 0),
        // Whoever adds a job at this moment may have found the queue busy.
        ("SELECT app_jobs.complete_job('worker', 5)", 1),
    ] {
        assert_eq!(woken(&s, &mut ear, statement).await, times, "{statement}");
    }
}

#[tokio::test]
async fn schedulers_are_woken_by_new_replaced_and_released_schedules() {
    let db = database().await;
    let (s, mut ear) = (Session::open(&db).await, Ear::on(&db, SCHEDULES).await);
    for (statement, times) in [
        ("SELECT app_jobs.add_scheduled_job('x', '{}', '{}', 'k')", 1),
        ("INSERT INTO app_jobs.scheduled_jobs (task_identifier, schedule_info) SELECT 'x', '{}' WHERE false", 0),
        ("INSERT INTO app_jobs.scheduled_jobs (task_identifier, schedule_info) VALUES ('x', '{}'), ('y', '{}')", 1),
        ("SELECT app_jobs.get_scheduled_job('scheduler-0')", 0),
        // Watched: removed and inserted anew.
        ("SELECT app_jobs.add_scheduled_job('x', '{}', '{}', 'k')", 1),
        ("SELECT app_jobs.get_scheduled_job('scheduler-0')", 0),
        ("SELECT app_jobs.release_scheduled_jobs('scheduler-0')", 1),
        ("SELECT app_jobs.release_scheduled_jobs('scheduler-0')", 0),
        ("SELECT app_jobs.run_scheduled_job(2)", 0),
        ("BEGIN; SELECT app_jobs.add_scheduled_job('x'); ROLLBACK", 0),
    ] {
        assert_eq!(woken(&s, &mut ear, statement).await, times, "{statement}");
    }
}

#[tokio::test]
async fn schedulers_are_told_of_schedules_that_change_or_go_and_of_nothing_else() {
    let db = database().await;
    let (s, mut ear) = (Session::open(&db).await, Ear::on(&db, "scheduled_jobs:change").await);
    let some = "INSERT INTO app_jobs.scheduled_jobs (task_identifier, schedule_info) SELECT 'x', '{}' FROM generate_series(1, 100)";
    for (statement, times) in [
        (some, 0),
        ("SELECT count(*) FROM app_jobs_internal.claim_scheduled_jobs('scheduler-0', NULL, 50)", 0),
        ("SELECT count(*) FROM app_jobs_internal.claim_scheduled_jobs('scheduler-0', NULL, 50)", 0),
        ("SELECT app_jobs.run_scheduled_job(7)", 0),
        ("UPDATE app_jobs.scheduled_jobs SET payload = '{}', priority = 3, schedule_info = '{}'", 0),
        ("UPDATE app_jobs.scheduled_jobs SET payload = '[]' WHERE id = 9", 1),
        ("UPDATE app_jobs.scheduled_jobs SET task_identifier = 'y' WHERE id = 9", 1),
        ("UPDATE app_jobs.scheduled_jobs SET paused_at = now() WHERE id = 9", 1),
        ("UPDATE app_jobs.scheduled_jobs SET paused_at = now() WHERE id = 9", 0),
        ("UPDATE app_jobs.scheduled_jobs SET paused_at = NULL WHERE id = 9", 1),
        ("UPDATE app_jobs.scheduled_jobs SET schedule_info = '{\"hour\":1}' WHERE id = 3", 1),
        // Two rules that change places.
        (
            "UPDATE app_jobs.scheduled_jobs SET schedule_info = CASE id WHEN 4 THEN '{\"hour\":1}' ELSE '{}' END::json WHERE id IN (3, 4)",
            1,
        ),
        ("UPDATE app_jobs.scheduled_jobs SET schedule_info = '{ }' WHERE false", 0),
        // Who holds a schedule no longer is told by the next fire that is not its own to make.
        ("UPDATE app_jobs.scheduled_jobs SET locked_by = 'other' WHERE id = 5", 0),
        ("SELECT app_jobs.release_scheduled_jobs('other')", 0),
        ("DELETE FROM app_jobs.scheduled_jobs WHERE id = 5", 1),
        ("DELETE FROM app_jobs.scheduled_jobs WHERE id = 5", 0),
    ] {
        assert_eq!(woken(&s, &mut ear, statement).await, times, "{statement}");
    }
}

#[tokio::test]
async fn a_job_made_by_a_schedule_wakes_workers() {
    let db = database().await;
    let (s, mut ear) = (Session::open(&db).await, Ear::on(&db, JOBS).await);
    s.run("SELECT app_jobs.add_scheduled_job('x')").await;
    assert_eq!(ear.count().await, 0);
    assert_eq!(woken(&s, &mut ear, "SELECT app_jobs.run_scheduled_job(1)").await, 1);
    assert_eq!(woken(&s, &mut ear, "SELECT app_jobs.run_scheduled_job(99)").await, 0);
}
