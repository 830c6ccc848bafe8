//! Rows that cannot be used: they are told of, and stop no other.

use job_testkit::eventually;

use super::support::{
    EVERY_SECOND, ID, LIMIT, Running, collect_fires, database, fired, fires, held, last_error, number, process,
    schedule,
};

/// What a scheduler may use in all. One that reads none of the large texts of this test uses a third.
const MOST_MEMORY: u64 = 96 << 20;

#[tokio::test]
async fn a_schedule_beyond_all_years_stops_no_other_and_fires_when_it_is_set_right() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    let mut beyond = Vec::new();
    for fired_until in ["infinity", "-infinity", "20000-01-01", "294276-12-31", "0044-03-15 BC"] {
        let id = schedule(&client, fired_until, EVERY_SECOND).await;
        let sql = "UPDATE app_jobs.scheduled_jobs SET fired_until = $2::text::timestamptz WHERE id = $1";
        client.execute(sql, &[&id, &fired_until]).await.unwrap();
        beyond.push(id);
    }
    let unreadable = schedule(&client, "unreadable", r#"{"rule": "\ud800", "x": 1e999}"#).await;
    schedule(&client, "fine", EVERY_SECOND).await;
    // Other times that Postgres has and we do not.
    client
        .batch_execute(
            "UPDATE app_jobs.scheduled_jobs SET released_at = 'infinity', last_scheduled = '-infinity', owed_since = 'infinity';
             INSERT INTO app_jobs.schedulers (instance, scheduler_id, lease, listens, heartbeat_at, steady_since, covered_since)
             SELECT gen_random_uuid(), 'sched-' || n, '1 h', false, h, h, h
               FROM unnest(ARRAY['infinity', '-infinity', '20000-01-01']::timestamptz[]) WITH ORDINALITY AS t (h, n)",
        )
        .await
        .unwrap();
    // A restart as well.
    for _ in 0..2 {
        let scheduler = Running::start(db.url(), &[]);
        fires(&client, "fine", 2).await;
        for id in &beyond {
            eventually(LIMIT, async || last_error(&client, *id).await.starts_with("fired_until: ")).await;
        }
        assert!(last_error(&client, unreadable).await.starts_with("schedule_info: "));
        scheduler.stop().await;
    }
    assert_eq!(number(&client, "SELECT count(*) FROM fired WHERE task <> 'fine'").await, 0);
    let scheduler = Running::start(db.url(), &[]);
    held(&client, ID, 7).await;
    for id in &beyond {
        let right = "UPDATE app_jobs.scheduled_jobs SET fired_until = now() WHERE id = $1 RETURNING task_identifier";
        let task: String = client.query_one(right, &[id]).await.unwrap().get(0);
        fires(&client, &task, 2).await;
        assert_eq!(last_error(&client, *id).await, "-", "{task}");
    }
    // And the other way round, while it is held.
    let wrong = "UPDATE app_jobs.scheduled_jobs SET fired_until = 'infinity' WHERE id = $1";
    client.execute(wrong, &[&beyond[0]]).await.unwrap();
    eventually(LIMIT, async || last_error(&client, beyond[0]).await.starts_with("fired_until: ")).await;
    fires(&client, "fine", 2).await;
    scheduler.stop().await;
}

#[tokio::test]
async fn schedules_with_texts_of_thirty_megabytes_are_told_of_and_not_read() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    client
        .batch_execute(
            "-- Past the bounds that there are for those who add schedules.
             SET session_replication_role = replica;
             INSERT INTO app_jobs.scheduled_jobs (task_identifier, schedule_info)
             SELECT 'large', to_json(repeat('x', 30 << 20)) FROM generate_series(1, 20);
             -- Stored in little room, and just too long.
             INSERT INTO app_jobs.scheduled_jobs (task_identifier, schedule_info)
             VALUES ('large', ('\"0 0 1 1 *' || repeat(' ', 65536) || '\"')::json);
             -- As long as may be, and together much.
             INSERT INTO app_jobs.scheduled_jobs (task_identifier, schedule_info)
             SELECT 'long', ('\"0 0 1 1 *' || repeat(' ', 65520) || '\"')::json FROM generate_series(1, 200);
             -- A payload is for workers.
             INSERT INTO app_jobs.scheduled_jobs (task_identifier, payload, schedule_info)
             SELECT 'payload', to_json(repeat('x', 30 << 20)), '\"0 0 1 1 *\"' FROM generate_series(1, 5);
             SET session_replication_role = DEFAULT",
        )
        .await
        .unwrap();
    schedule(&client, "fine", EVERY_SECOND).await;
    let mut scheduler = process(db.url(), "sched-bounds", &[]);
    held(&client, "sched-bounds", 227).await;
    fires(&client, "fine", 2).await;
    let told = "SELECT count(*) FROM app_jobs.scheduled_jobs
                 WHERE last_error = 'schedule_info: is longer than 65536 bytes, and is not read'";
    eventually(LIMIT, async || number(&client, told).await == 21).await;
    assert_eq!(number(&client, "SELECT count(*) FROM app_jobs.scheduled_jobs WHERE last_error IS NOT NULL").await, 21);
    let warnings = scheduler.output().matches("cannot be used until it is changed").count();
    assert_eq!(warnings, 21, "each is told of once");
    // One that is put right runs.
    let small = "SELECT min(id) FROM app_jobs.scheduled_jobs WHERE task_identifier = 'large'";
    let small = number(&client, small).await;
    let change =
        "UPDATE app_jobs.scheduled_jobs SET task_identifier = 'small', schedule_info = ($2::text)::json WHERE id = $1";
    client.execute(change, &[&small, &EVERY_SECOND]).await.unwrap();
    fires(&client, "small", 2).await;
    eventually(LIMIT, async || number(&client, told).await == 20).await;
    assert_eq!(last_error(&client, small).await, "-");
    assert_eq!(fired(&client, "large").await.0, 0);
    let peak = scheduler.peak_memory();
    assert!(peak < MOST_MEMORY, "{peak} bytes");
    scheduler.stop(LIMIT).await;
}
