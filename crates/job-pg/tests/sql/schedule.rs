//! add_scheduled_job, get_scheduled_job, release_scheduled_jobs: a schedule, and who watches it.

use crate::sql::support::{Session, database};

const TENANT: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";

async fn add(s: &Session, arguments: &str) -> i64 {
    s.number(&format!("SELECT id FROM app_jobs.add_scheduled_job({arguments})")).await
}

async fn take(s: &Session, arguments: &str) -> Option<i64> {
    s.show(&format!("SELECT id FROM app_jobs.get_scheduled_job({arguments})")).await.parse().ok()
}

#[tokio::test]
async fn a_schedule_stores_every_argument_and_starts_unwatched() {
    let db = database().await;
    let s = Session::open(&db).await;
    let returned = s
        .show("SELECT * FROM app_jobs.add_scheduled_job('x', '{\"a\":1}', '{\"rule\":\"* * * * *\"}', 'k', 'q', 3, -7)")
        .await;
    assert_eq!(returned, s.show("SELECT * FROM app_jobs.scheduled_jobs").await);
    let row = s
        .show(
            "SELECT task_identifier, payload, schedule_info, key, queue_name, max_attempts, priority, locked_at, locked_by,
                    last_scheduled, last_scheduled_id, database_id, actor_id FROM app_jobs.scheduled_jobs",
        )
        .await;
    assert_eq!(row, "x|{\"a\":1}|{\"rule\":\"* * * * *\"}|k|q|3|-7|~|~|~|~|~|~");
    let row = s.show("SELECT payload, max_attempts, priority, key FROM app_jobs.add_scheduled_job('x', NULL::json, '{}', NULL, NULL, NULL, NULL)").await;
    assert_eq!(row, "{}|25|0|~", "explicit NULLs mean the defaults");
}

#[tokio::test]
async fn a_schedule_written_directly_needs_a_rule() {
    let db = database().await;
    let s = Session::open(&db).await;
    let error = s.error("INSERT INTO app_jobs.scheduled_jobs (task_identifier) VALUES ('x')").await;
    assert_eq!((error.code().code(), error.column()), ("23502", Some("schedule_info")));
}

#[tokio::test]
async fn an_unwatched_schedule_with_the_same_key_is_replaced() {
    let db = database().await;
    let s = Session::open(&db).await;
    let id = add(&s, "'x', '{\"n\":1}', '{\"hour\":1}', 'k', 'q1', 1, 1").await;
    s.run("UPDATE app_jobs.scheduled_jobs SET last_scheduled = '2030-01-01'").await;
    assert_eq!(add(&s, "'y', '{\"n\":2}', '{\"hour\":2}', 'k', 'q2', 2, 2").await, id);
    let row = s
        .show("SELECT task_identifier, payload, schedule_info, key, queue_name, max_attempts, priority FROM app_jobs.scheduled_jobs")
        .await;
    assert_eq!(row, "y|{\"n\":2}|{\"hour\":2}|k|q2|2|2");
}

#[tokio::test]
async fn a_watched_schedule_with_the_same_key_is_removed_and_inserted_anew() {
    let db = database().await;
    let s = Session::open(&db).await;
    let old = add(&s, "'x', '{}', '{\"hour\":1}', 'k'").await;
    assert_eq!(take(&s, "'scheduler-0'").await, Some(old));
    let new = add(&s, "'x', '{}', '{\"hour\":2}', 'k'").await;
    assert_ne!(new, old);
    let row = s.show("SELECT id, schedule_info, locked_by FROM app_jobs.scheduled_jobs").await;
    assert_eq!(row, format!("{new}|{{\"hour\":2}}|~"));
    assert_eq!(take(&s, "'scheduler-0'").await, Some(new), "the scheduler picks up the change");
}

#[tokio::test]
async fn a_schedules_key_under_another_database_id_is_an_error() {
    let db = database().await;
    let s = Session::open(&db).await;
    add(&s, &format!("'{TENANT}'::uuid, 'x', '{{}}', '{{}}', 'k'")).await;
    for watched in [false, true] {
        if watched {
            take(&s, "'scheduler-0'").await;
        }
        let before = s.show("SELECT * FROM app_jobs.scheduled_jobs").await;
        let error = s.error("SELECT app_jobs.add_scheduled_job('evil', '{}', '{}', 'k')").await;
        assert!(error.message().contains("another database_id"), "{}", error.message());
        assert_eq!(s.show("SELECT * FROM app_jobs.scheduled_jobs").await, before);
    }
}

#[tokio::test]
async fn two_sessions_adding_one_watched_key_at_once_leave_one_schedule() {
    let db = database().await;
    let (a, b, watch) = (Session::open(&db).await, Session::open(&db).await, Session::open(&db).await);
    for watched in [false, true] {
        if watched {
            take(&a, "'scheduler-0'").await;
        }
        a.run("BEGIN").await;
        let first = add(&a, "'x', '{}', '{\"hour\":1}', 'k'").await;
        let pid = b.pid().await;
        let (second, ()) = tokio::join!(add(&b, "'x', '{}', '{\"hour\":2}', 'k'"), async {
            watch.wait_until_blocked(pid).await;
            a.run("COMMIT").await;
        });
        assert_eq!(second, first);
        let row = watch.show("SELECT id, schedule_info FROM app_jobs.scheduled_jobs").await;
        assert_eq!(row, format!("{second}|{{\"hour\":2}}"), "watched: {watched}");
    }
}

#[tokio::test]
async fn a_schedule_is_watched_by_one_scheduler() {
    let db = database().await;
    let s = Session::open(&db).await;
    let (a, b) = (add(&s, "'a', '{}', '{}'").await, add(&s, "'b', '{}', '{}', priority := -1").await);
    assert_eq!(take(&s, "'scheduler-0', '{}'").await, None);
    assert_eq!(take(&s, "'scheduler-0', '{a}'").await, Some(a));
    assert_eq!(take(&s, "'scheduler-1', '{a}'").await, None);
    assert_eq!(take(&s, "'scheduler-1'").await, Some(b));
    let row = s
        .show("SELECT task_identifier, locked_by, locked_at IS NOT NULL FROM app_jobs.scheduled_jobs ORDER BY id")
        .await;
    assert_eq!(row, "a|scheduler-0|t\nb|scheduler-1|t");
    let columns = s.show("SELECT * FROM app_jobs.get_scheduled_job('scheduler-0')").await;
    assert!(columns.split('|').all(|column| column == "~"), "nothing to take is a row of NULLs: {columns}");
}

#[tokio::test]
async fn releasing_gives_up_the_schedules_listed_or_all_but_only_ones_own() {
    let db = database().await;
    let s = Session::open(&db).await;
    let mut ids = Vec::new();
    for scheduler in ["scheduler-0", "scheduler-0", "scheduler-0", "scheduler-1"] {
        add(&s, "'x', '{}', '{}'").await;
        ids.push(take(&s, &format!("'{scheduler}'")).await.unwrap());
    }
    let watched =
        "SELECT string_agg(id::text, ',' ORDER BY id) FROM app_jobs.scheduled_jobs WHERE locked_at IS NOT NULL";
    s.run("SELECT app_jobs.release_scheduled_jobs('scheduler-0', '{}'), app_jobs.release_scheduled_jobs(NULL)").await;
    assert_eq!(s.show(watched).await, format!("{},{},{},{}", ids[0], ids[1], ids[2], ids[3]));
    s.run(&format!("SELECT app_jobs.release_scheduled_jobs('scheduler-0', '{{{},{}}}')", ids[0], ids[3])).await;
    assert_eq!(s.show(watched).await, format!("{},{},{}", ids[1], ids[2], ids[3]));
    s.run("SELECT app_jobs.release_scheduled_jobs('scheduler-0')").await;
    assert_eq!(s.show(watched).await, ids[3].to_string());
    assert_eq!(
        s.number("SELECT count(*) FROM app_jobs.scheduled_jobs WHERE locked_by IS NULL AND locked_at IS NULL").await,
        3
    );
}
