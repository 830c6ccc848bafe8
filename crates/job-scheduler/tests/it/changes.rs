//! What happens to a schedule's row takes effect at once: these schedulers poll once an hour.

use super::support::{
    EVERY_SECOND, ID, Running, assert_one_job_a_second, collect_fires, database, fired, fires, held, schedule,
};

const NEVER_SOON: &str = r#"{"rule": "0 0 1 1 *", "start": "2090-01-01"}"#;

#[tokio::test]
async fn a_new_schedule_is_taken_at_once() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    schedule(&client, "first", EVERY_SECOND).await;
    let scheduler = Running::start(db.url(), &[]);
    fires(&client, "first", 1).await;
    schedule(&client, "second", EVERY_SECOND).await;
    fires(&client, "second", 1).await;
    scheduler.stop().await;
}

#[tokio::test]
async fn a_changed_rule_takes_effect() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    let id = schedule(&client, "tick", NEVER_SOON).await;
    let scheduler = Running::start(db.url(), &[]);
    held(&client, ID, 1).await;
    let change = "UPDATE app_jobs.scheduled_jobs SET schedule_info = ($2::text)::json WHERE id = $1";
    client.execute(change, &[&id, &EVERY_SECOND]).await.unwrap();
    fires(&client, "tick", 2).await;
    // And back: once another schedule shows that the change has been seen, nothing more comes.
    client.execute(change, &[&id, &NEVER_SOON]).await.unwrap();
    schedule(&client, "other", EVERY_SECOND).await;
    fires(&client, "other", 1).await;
    let before = fired(&client, "tick").await;
    fires(&client, "other", 2).await;
    assert_eq!(fired(&client, "tick").await, before);
    scheduler.stop().await;
}

#[tokio::test]
async fn a_deleted_schedule_stops() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    let id = schedule(&client, "tick", EVERY_SECOND).await;
    schedule(&client, "other", EVERY_SECOND).await;
    let scheduler = Running::start(db.url(), &[]);
    fires(&client, "tick", 1).await;
    client.execute("DELETE FROM app_jobs.scheduled_jobs WHERE id = $1", &[&id]).await.unwrap();
    let before = fired(&client, "tick").await;
    fires(&client, "other", 3).await;
    assert_eq!(fired(&client, "tick").await, before);
    assert_eq!(scheduler.stop().await.released, 1);
}

#[tokio::test]
async fn replacing_a_schedule_by_its_key_replaces_its_rule() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    let add = "SELECT app_jobs.add_scheduled_job(identifier := $1, schedule_info := ($2::text)::json, job_key := 'k')";
    client.execute(add, &[&"old", &EVERY_SECOND]).await.unwrap();
    let scheduler = Running::start(db.url(), &[]);
    fires(&client, "old", 1).await;
    client.execute(add, &[&"new", &EVERY_SECOND]).await.unwrap();
    fires(&client, "new", 1).await;
    let before = fired(&client, "old").await;
    fires(&client, "new", 2).await;
    assert_eq!(fired(&client, "old").await, before);
    scheduler.stop().await;
}

#[tokio::test]
async fn a_schedule_released_by_hand_is_taken_again() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    schedule(&client, "tick", EVERY_SECOND).await;
    let scheduler = Running::start(db.url(), &[]);
    fires(&client, "tick", 1).await;
    client.execute("SELECT app_jobs.release_scheduled_jobs($1, NULL)", &[&ID]).await.unwrap();
    held(&client, ID, 1).await;
    fires(&client, "tick", 4).await;
    assert_one_job_a_second(&client, "tick").await;
    scheduler.stop().await;
}
