//! What happens to a schedule's row takes effect at once: these schedulers poll once an hour.

use job_testkit::eventually;

use super::support::{
    EVERY_SECOND, ID, LIMIT, Running, assert_one_job_a_second, collect_fires, database, fired, fires, held, schedule,
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

#[tokio::test]
async fn a_paused_schedule_is_silent_at_once_and_goes_on_without_making_up() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    let id = schedule(&client, "tick", r#"{"rule": "* * * * * *", "missed": "all"}"#).await;
    schedule(&client, "other", EVERY_SECOND).await;
    let scheduler = Running::start(db.url(), &[]);
    fires(&client, "tick", 1).await;
    let pause = "UPDATE app_jobs.scheduled_jobs SET paused_at = now() WHERE id = $1 RETURNING clock_timestamp()::text";
    let paused: String = client.query_one(pause, &[&id]).await.unwrap().get(0);
    let before = fired(&client, "tick").await;
    fires(&client, "other", 4).await;
    assert_eq!(fired(&client, "tick").await, before);
    // Neither does another scheduler take it, nor a second write change anything.
    let second = Running::start(db.url(), &[("HOSTNAME", "sched-other")]);
    client.execute("UPDATE app_jobs.scheduled_jobs SET paused_at = now() WHERE id = $1", &[&id]).await.unwrap();
    fires(&client, "other", 2).await;
    assert_eq!(fired(&client, "tick").await, before);
    let resume = "UPDATE app_jobs.scheduled_jobs SET paused_at = NULL WHERE id = $1 RETURNING clock_timestamp()::text";
    let resumed: String = client.query_one(resume, &[&id]).await.unwrap().get(0);
    fires(&client, "tick", 3).await;
    let between = "SELECT count(*) FROM app_jobs.schedule_fires
                    WHERE schedule_id = $1 AND fire_at > $2::text::timestamptz AND fire_at < $3::text::timestamptz";
    let between = client.query_one(between, &[&id, &paused, &resumed]).await.unwrap();
    assert_eq!(between.get::<_, i64>(0), 0, "nothing is made up");
    assert_eq!((scheduler.stop().await.orphaned, second.stop().await.orphaned), (0, 0));
}

#[tokio::test]
async fn what_is_wrong_with_a_rule_is_told_in_its_row_until_it_is_corrected() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    let bad = schedule(&client, "bad", r#"{"rule": "0 25 * * *"}"#).await;
    let warned = schedule(&client, "warned", r#"{"rule": "* * * * * *", "timezone": "Europe/Berlin"}"#).await;
    let fine = schedule(&client, "fine", EVERY_SECOND).await;
    let scheduler = Running::start(db.url(), &[]);
    let last_error = async |id: i64| -> String {
        let sql = "SELECT coalesce(last_error, '-') FROM app_jobs.scheduled_jobs WHERE id = $1";
        client.query_one(sql, &[&id]).await.unwrap().get(0)
    };
    eventually(LIMIT, async || last_error(bad).await != "-" && last_error(warned).await != "-").await;
    assert_eq!(last_error(bad).await, r#"rule, hour: 25 is not within 0-23 (character 3 of "0 25 * * *")"#);
    assert!(last_error(warned).await.contains("timezone"), "{}", last_error(warned).await);
    fires(&client, "warned", 2).await;
    fires(&client, "fine", 1).await;
    assert_eq!(last_error(fine).await, "-");
    assert_eq!(fired(&client, "bad").await.0, 0);
    let change = "UPDATE app_jobs.scheduled_jobs SET schedule_info = ($2::text)::json WHERE id = $1";
    client.execute(change, &[&bad, &EVERY_SECOND]).await.unwrap();
    client.execute(change, &[&warned, &EVERY_SECOND]).await.unwrap();
    fires(&client, "bad", 1).await;
    assert_eq!((last_error(bad).await, last_error(warned).await), ("-".to_owned(), "-".to_owned()));
    scheduler.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_told_of_a_rule_with_a_character_that_postgres_cannot_store() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    let bad = schedule(&client, "bad", r#"{"rule": "* * * \u0000 *"}"#).await;
    let zone = schedule(&client, "zone", r#"{"rule": "* * * * * *", "tz": "Europe/\u0000"}"#).await;
    let field = schedule(&client, "field", r#"{"rule": "* * * * * *", "time\u0000zone": "Europe/Berlin"}"#).await;
    let scheduler = Running::start(db.url(), &[]);
    let told = async |id: i64| {
        let sql = "SELECT last_error IS NOT NULL FROM app_jobs.scheduled_jobs WHERE id = $1";
        client.query_one(sql, &[&id]).await.unwrap().get::<_, bool>(0)
    };
    eventually(LIMIT, async || told(bad).await && told(zone).await && told(field).await).await;
    fires(&client, "field", 1).await;
    scheduler.stop().await;
}

#[tokio::test]
async fn a_schedule_that_has_ended_is_marked_held_by_nobody_and_runs_again_with_another_rule() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    let soon = "SELECT json_build_object('rule', '* * * * * *', 'end', now() + interval '3 seconds')::text";
    let soon: String = client.query_one(soon, &[]).await.unwrap().get(0);
    let id = schedule(&client, "tick", &soon).await;
    let scheduler = Running::start(db.url(), &[]);
    let ended = "SELECT ended_at IS NOT NULL AND locked_at IS NULL AND locked_by IS NULL AND last_error IS NULL
                   FROM app_jobs.scheduled_jobs WHERE id = $1";
    eventually(LIMIT, async || client.query_one(ended, &[&id]).await.unwrap().get(0)).await;
    assert!(fired(&client, "tick").await.0 >= 2);
    let change = "UPDATE app_jobs.scheduled_jobs SET schedule_info = ($2::text)::json WHERE id = $1";
    client.execute(change, &[&id, &EVERY_SECOND]).await.unwrap();
    fires(&client, "tick", 2).await;
    assert!(!client.query_one(ended, &[&id]).await.unwrap().get::<_, bool>(0));
    scheduler.stop().await;
}

#[tokio::test]
async fn a_schedule_whose_task_is_changed_to_anothers_is_given_up() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    let id = schedule(&client, "mine", EVERY_SECOND).await;
    let scheduler = Running::start(db.url(), &[("JOBS_SUPPORT_ANY", "false"), ("JOBS_SUPPORTED", "mine")]);
    fires(&client, "mine", 1).await;
    let other = Running::start(db.url(), &[("HOSTNAME", "sched-other")]);
    client
        .execute("UPDATE app_jobs.scheduled_jobs SET task_identifier = 'theirs' WHERE id = $1", &[&id])
        .await
        .unwrap();
    held(&client, "sched-other", 1).await;
    fires(&client, "theirs", 2).await;
    scheduler.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn the_same_schedule_added_again_by_its_key_keeps_what_it_owes_and_its_previous_job() {
    let db = database().await;
    let client = db.connect().await;
    let add = "SELECT id FROM app_jobs.add_scheduled_job(identifier := 'tick', schedule_info := ($1::text)::json, job_key := 'k')";
    let rule = r#"{"rule": "* * * * * *", "missed": "all"}"#;
    let add = async || client.query_one(add, &[&rule]).await.unwrap().get::<_, i64>(0);
    let first = add().await;
    let scheduler = Running::start(db.url(), &[]);
    let made = "SELECT count(*) FROM app_jobs.schedule_fires WHERE outcome = 'made'";
    eventually(LIMIT, async || client.query_one(made, &[]).await.unwrap().get::<_, i64>(0) == 1).await;
    // Held by one that died hours ago.
    scheduler.stop().await;
    let dead =
        "UPDATE app_jobs.scheduled_jobs SET locked_by = 'dead-one', locked_at = now(), instance = gen_random_uuid(),
                       fired_until = date_trunc('second', now()) - interval '20 s', released_at = NULL";
    client.execute(dead, &[]).await.unwrap();
    let second = add().await;
    assert_ne!(first, second);
    let scheduler = Running::start(db.url(), &[]);
    let caught_up = "SELECT count(*) FROM app_jobs.schedule_fires WHERE schedule_id = $1 AND outcome = 'skipped'";
    eventually(LIMIT, async || client.query_one(caught_up, &[&second]).await.unwrap().get::<_, i64>(0) >= 20).await;
    scheduler.stop().await;
    assert_eq!(client.query_one(made, &[]).await.unwrap().get::<_, i64>(0), 1, "the job of the first still waits");
}
