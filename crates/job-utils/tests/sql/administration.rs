//! reschedule_jobs, permanently_fail_jobs, complete_jobs: what operators do to jobs that do not run.

use crate::sql::support::{Session, database};

/// Jobs 1 waiting, 2 running, 3 locked 5 hours ago, 4 failed for good; ids from 1.
async fn four_jobs(s: &Session) {
    s.run(
        "INSERT INTO app_jobs.jobs (id, task_identifier, queue_name, run_at, priority, attempts, max_attempts, locked_at, locked_by)
         VALUES (1, 'x', 'q1', '2030-01-01', 7, 1, 9, NULL, NULL),
                (2, 'x', 'q2', '2030-01-01', 7, 1, 9, now() - interval '3 hours 59 minutes', 'worker'),
                (3, 'x', 'q3', '2030-01-01', 7, 1, 9, now() - interval '4 hours 1 minute', 'worker'),
                (4, 'x', 'q4', '2030-01-01', 7, 9, 9, NULL, NULL)",
    )
    .await;
}

const ROWS: &str = "SELECT id, run_at, priority, attempts, max_attempts, locked_by FROM app_jobs.jobs ORDER BY id";
const LOCKED_QUEUES: &str = "SELECT string_agg(queue_name, ',') FROM app_jobs.job_queues WHERE locked_at IS NOT NULL";

#[tokio::test]
async fn rescheduling_changes_what_is_given_and_leaves_alone_what_runs() {
    let db = database().await;
    let s = Session::open(&db).await;
    four_jobs(&s).await;
    let changed =
        s.show("SELECT id FROM app_jobs.reschedule_jobs('{1,2,3,4,99}', '2031-01-01', 2, 3, 8) ORDER BY id").await;
    assert_eq!(changed, "1\n3\n4");
    assert_eq!(
        s.show(ROWS).await,
        "1|2031-01-01 00:00:00+00|2|3|8|~\n2|2030-01-01 00:00:00+00|7|1|9|worker\n\
         3|2031-01-01 00:00:00+00|2|3|8|~\n4|2031-01-01 00:00:00+00|2|3|8|~"
    );
    assert_eq!(s.show(LOCKED_QUEUES).await, "q2");
}

#[tokio::test]
async fn rescheduling_with_ids_alone_keeps_every_value_and_each_can_be_given_by_name() {
    let db = database().await;
    let s = Session::open(&db).await;
    four_jobs(&s).await;
    let before = s.show(ROWS).await;
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.reschedule_jobs('{1}')").await, 1);
    assert_eq!(s.number("SELECT count(*) FROM app_jobs.reschedule_jobs('{1}', NULL, NULL, NULL, NULL)").await, 1);
    assert_eq!(s.show(ROWS).await, before);
    for (argument, row) in [
        ("attempts := 0", "1|2030-01-01 00:00:00+00|7|0|9|~"),
        ("priority := -1", "1|2030-01-01 00:00:00+00|-1|0|9|~"),
        ("max_attempts := 3", "1|2030-01-01 00:00:00+00|-1|0|3|~"),
        ("run_at := '2029-01-01'", "1|2029-01-01 00:00:00+00|-1|0|3|~"),
    ] {
        s.run(&format!("SELECT app_jobs.reschedule_jobs(job_ids := '{{1}}', {argument})")).await;
        assert_eq!(s.show(ROWS).await.lines().next().unwrap(), row, "{argument}");
    }
    assert_eq!(s.error("SELECT app_jobs.reschedule_jobs('{1}', max_attempts := 0)").await.code().code(), "23514");
}

#[tokio::test]
async fn a_rescheduled_job_that_had_failed_for_good_runs_again() {
    let db = database().await;
    let s = Session::open(&db).await;
    four_jobs(&s).await;
    s.run("SELECT app_jobs.reschedule_jobs('{4}', run_at := now(), attempts := 0)").await;
    assert_eq!(s.get_job("'worker'").await, Some(4));
}

#[tokio::test]
async fn failing_permanently_keeps_the_row_with_an_error_and_no_attempts_left() {
    let db = database().await;
    let s = Session::open(&db).await;
    four_jobs(&s).await;
    let changed =
        s.show("SELECT id, last_error FROM app_jobs.permanently_fail_jobs('{1,2,3}', 'by hand') ORDER BY id").await;
    assert_eq!(changed, "1|by hand\n3|by hand");
    let rows = s.show("SELECT id, attempts, locked_by, last_error FROM app_jobs.jobs ORDER BY id").await;
    assert_eq!(rows, "1|9|~|by hand\n2|1|worker|~\n3|9|~|by hand\n4|9|~|~");
    assert_eq!(s.show(LOCKED_QUEUES).await, "q2");
    for arguments in ["'{4}'", "'{4}', NULL"] {
        s.run("UPDATE app_jobs.jobs SET last_error = NULL WHERE id = 4").await;
        s.run(&format!("SELECT app_jobs.permanently_fail_jobs({arguments})")).await;
        assert!(s.is("SELECT length(last_error) > 0 FROM app_jobs.jobs WHERE id = 4").await, "a default text");
    }
}

#[tokio::test]
async fn completing_by_hand_removes_what_does_not_run() {
    let db = database().await;
    let s = Session::open(&db).await;
    four_jobs(&s).await;
    assert_eq!(
        s.show("SELECT id, task_identifier FROM app_jobs.complete_jobs('{1,2,3,4,99}') ORDER BY id").await,
        "1|x\n3|x\n4|x"
    );
    assert_eq!(s.show("SELECT id FROM app_jobs.jobs").await, "2");
    assert_eq!(s.show("SELECT queue_name, job_count, locked_by FROM app_jobs.job_queues").await, "q2|1|worker");
}

#[tokio::test]
async fn no_ids_change_nothing() {
    let db = database().await;
    let s = Session::open(&db).await;
    four_jobs(&s).await;
    let before = s.show("SELECT * FROM app_jobs.jobs ORDER BY id").await;
    for ids in ["NULL", "'{}'", "'{NULL}'"] {
        for function in ["reschedule_jobs", "permanently_fail_jobs", "complete_jobs"] {
            assert_eq!(
                s.number(&format!("SELECT count(*) FROM app_jobs.{function}({ids})")).await,
                0,
                "{function}({ids})"
            );
        }
    }
    assert_eq!(s.show("SELECT * FROM app_jobs.jobs ORDER BY id").await, before);
}
