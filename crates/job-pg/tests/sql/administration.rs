//! reschedule_jobs, permanently_fail_jobs, complete_jobs: what operators do to jobs that do not run.

use tokio_postgres::{AsyncMessage, NoTls};

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

#[tokio::test]
async fn operators_are_told_what_was_left_alone_and_what_will_not_run_all_the_same() {
    let db = database().await;
    let s = Session::open(&db).await;
    four_jobs(&s).await;
    let (client, mut connection) = tokio_postgres::connect(db.url(), NoTls).await.unwrap();
    let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notice(notice) = message {
                let _ = sender.send(notice);
            }
        }
    });
    // Notices come before the answer.
    let mut warnings = async |call: &str| {
        let ids = client.query(&format!("SELECT id FROM app_jobs.{call} ORDER BY id"), &[]).await.unwrap();
        let mut said = Vec::new();
        while let Ok(notice) = told.try_recv() {
            assert_eq!((notice.severity(), notice.code().code()), ("WARNING", "01000"), "{notice}");
            assert!(notice.hint().is_some(), "{notice}");
            said.push(notice.message().to_owned());
        }
        (ids.iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>(), said)
    };
    let runs = "jobs that run were left alone: 1 in all, of them 2".to_owned();
    let exhausted = "jobs without attempts left, which will not run: 1 in all, of them 4".to_owned();
    let both = vec![exhausted.clone(), runs.clone()];
    assert_eq!(warnings("reschedule_jobs('{4}', run_at := now())").await, (vec![4], vec![exhausted]));
    assert_eq!(warnings("reschedule_jobs('{2}', run_at := now())").await, (vec![], vec![runs.clone()]));
    assert_eq!(warnings("reschedule_jobs('{1,2,4,99}', run_at := now())").await, (vec![1, 4], both));
    assert_eq!(warnings("reschedule_jobs('{4}', attempts := 0)").await, (vec![4], vec![]));
    assert_eq!(warnings("permanently_fail_jobs('{1,2}')").await, (vec![1], vec![runs.clone()]));
    assert_eq!(warnings("permanently_fail_jobs('{1,99}')").await, (vec![1], vec![]));
    assert_eq!(warnings("reschedule_jobs('{1}', max_attempts := 99)").await, (vec![1], vec![]));
    assert_eq!(warnings("complete_jobs('{1,2,4}')").await, (vec![1, 4], vec![runs]));
    assert_eq!(warnings("complete_jobs(NULL)").await, (vec![], vec![]));

    // However many there are, a message names ten.
    s.run(
        "INSERT INTO app_jobs.jobs (id, task_identifier, attempts) SELECT n, 'x', 25 FROM generate_series(101, 5100) n",
    )
    .await;
    let (ids, said) = warnings("reschedule_jobs(ARRAY(SELECT id FROM app_jobs.jobs WHERE id > 100))").await;
    assert_eq!(ids.len(), 5000);
    let first = "jobs without attempts left, which will not run: 5000 in all, of them 101, 102, 103, 104, 105, 106, 107, 108, 109, 110";
    assert_eq!(said, [first]);
}
