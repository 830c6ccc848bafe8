//! Due schedules become jobs: each fire once, each schedule for itself.

use job_testkit::eventually;

use super::support::{
    EVERY_SECOND, LIMIT, Running, assert_one_job_a_second, collect_fires, database, fired, fires, held, schedule,
};

#[tokio::test]
async fn a_schedule_that_fires_every_second_makes_one_job_a_second() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    let scheduler = Running::start(db.url(), &[]);
    schedule(&client, "tick", EVERY_SECOND).await;
    fires(&client, "tick", 4).await;
    scheduler.stop().await;
    assert_one_job_a_second(&client, "tick").await;
}

#[tokio::test]
async fn a_job_has_everything_the_schedule_says_and_the_schedule_remembers_it() {
    let db = database().await;
    let client = db.connect().await;
    let tenant = "0b0b0b0b-0000-4000-8000-000000000001";
    client
        .execute(
            "INSERT INTO app_jobs.scheduled_jobs (database_id, task_identifier, payload, queue_name, priority, max_attempts, schedule_info)
             VALUES ($1::text::uuid, 'tick', '{\"foo\": \"bar\"}', 'line', 7, 3, '\"* * * * * *\"')",
            &[&tenant],
        )
        .await
        .unwrap();
    let scheduler = Running::start(db.url(), &[]);
    let same = "SELECT count(*) FROM app_jobs.jobs j JOIN app_jobs.scheduled_jobs s ON s.last_scheduled_id = j.id
                 WHERE j.task_identifier = 'tick' AND j.payload::text = s.payload::text AND j.queue_name = 'line'
                   AND j.priority = 7 AND j.max_attempts = 3 AND j.database_id = s.database_id
                   AND s.last_scheduled IS NOT NULL";
    eventually(LIMIT, async || client.query_one(same, &[]).await.unwrap().get::<_, i64>(0) == 1).await;
    scheduler.stop().await;
}

#[tokio::test]
async fn a_fire_is_skipped_while_the_previous_job_waits() {
    let db = database().await;
    let client = db.connect().await;
    let waiting = schedule(&client, "waiting", EVERY_SECOND).await;
    let scheduler = Running::start(db.url(), &[]);
    let jobs = "SELECT count(*) FROM app_jobs.jobs WHERE task_identifier = $1";
    let count = async |task: &str| client.query_one(jobs, &[&task]).await.unwrap().get::<_, i64>(0);
    eventually(LIMIT, async || count("waiting").await == 1).await;
    // Another schedule shows that time goes on.
    for round in 0..3 {
        let task = format!("other-{round}");
        schedule(&client, &task, EVERY_SECOND).await;
        eventually(LIMIT, async || count(&task).await == 1).await;
        assert_eq!(count("waiting").await, 1);
    }
    client.execute("DELETE FROM app_jobs.jobs WHERE task_identifier = 'waiting'", &[]).await.unwrap();
    eventually(LIMIT, async || count("waiting").await == 1).await;
    scheduler.stop().await;
    let again: i64 = client
        .query_one("SELECT last_scheduled_id FROM app_jobs.scheduled_jobs WHERE id = $1", &[&waiting])
        .await
        .unwrap()
        .get(0);
    assert!(again > 1);
}

#[tokio::test]
async fn a_date_fires_once_and_its_schedule_is_kept() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    let scheduler = Running::start(db.url(), &[]);
    let soon: String =
        client.query_one("SELECT to_json(now() + interval '2 seconds')::text", &[]).await.unwrap().get(0);
    schedule(&client, "once", &soon).await;
    schedule(&client, "past", r#""2020-01-01T00:00:00Z""#).await;
    schedule(&client, "tick", EVERY_SECOND).await;
    fires(&client, "once", 1).await;
    fires(&client, "tick", 2).await;
    assert_eq!(fired(&client, "once").await.0, 1);
    assert_eq!(fired(&client, "past").await.0, 0);
    assert_eq!(scheduler.stop().await.released, 1, "nobody holds what has ended");
    let kept = "SELECT count(*) FROM app_jobs.scheduled_jobs WHERE ended_at IS NOT NULL";
    assert_eq!(client.query_one(kept, &[]).await.unwrap().get::<_, i64>(0), 2);
}

#[tokio::test]
async fn bad_schedules_stop_no_other_and_run_when_corrected() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    let bad = schedule(&client, "bad", r#"{"rule": "61 * * * *"}"#).await;
    for info in [r#"{"rule": 1e999}"#, r#""\ud800""#, "[]", "null", r#"{"rule": "* * * * *", "tz": "Mars/Phobos"}"#] {
        schedule(&client, "worse", info).await;
    }
    schedule(&client, "tick", EVERY_SECOND).await;
    let scheduler = Running::start(db.url(), &[]);
    fires(&client, "tick", 2).await;
    assert_eq!(fired(&client, "bad").await.0, 0);
    let correct = "UPDATE app_jobs.scheduled_jobs SET schedule_info = ($2::text)::json WHERE id = $1";
    client.execute(correct, &[&bad, &EVERY_SECOND]).await.unwrap();
    fires(&client, "bad", 1).await;
    scheduler.stop().await;
}

#[tokio::test]
async fn a_schedule_whose_job_cannot_be_made_stops_no_other() {
    let db = database().await;
    let client = db.connect().await;
    // The job's key belongs to another tenant.
    client
        .batch_execute(
            "INSERT INTO app_jobs.jobs (database_id, task_identifier, key, run_at)
             VALUES ('0b0b0b0b-0000-4000-8000-000000000001', 'taken', 'k', now() + interval '1 day');
             INSERT INTO app_jobs.scheduled_jobs (database_id, task_identifier, key, schedule_info)
             VALUES ('0b0b0b0b-0000-4000-8000-000000000002', 'refused', 'k', '\"* * * * * *\"')",
        )
        .await
        .unwrap();
    collect_fires(&client).await;
    let scheduler = Running::start(db.url(), &[]);
    schedule(&client, "tick", EVERY_SECOND).await;
    fires(&client, "tick", 3).await;
    assert_eq!(fired(&client, "refused").await.0, 0);
    scheduler.stop().await;
}

#[tokio::test]
async fn only_supported_tasks_are_taken() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    schedule(&client, "mine", EVERY_SECOND).await;
    schedule(&client, "theirs", EVERY_SECOND).await;
    let scheduler = Running::start(db.url(), &[("JOBS_SUPPORT_ANY", "false"), ("JOBS_SUPPORTED", "mine")]);
    fires(&client, "mine", 2).await;
    held(&client, super::support::ID, 1).await;
    assert_eq!(fired(&client, "theirs").await.0, 0);
    scheduler.stop().await;
}
