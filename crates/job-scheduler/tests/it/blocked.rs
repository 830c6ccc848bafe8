//! Transactions that hold what fires need, and jobs that are slow to make: they hold up nobody else, and cost no fire.

use std::time::Duration;

use job_testkit::{eventually, throughout};

use super::support::{
    EVERY_SECOND, ID, LIMIT, Running, collect_fires, database, fires, gaps_and_doubles, held, ledger, number, process,
    schedule,
};

const LOCK: &str = "SELECT FROM app_jobs.scheduled_jobs WHERE id = $1 FOR UPDATE";

#[tokio::test]
async fn thirty_schedules_whose_queue_a_producer_is_writing_to_fire_beside_it() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    client
        .batch_execute(
            "INSERT INTO app_jobs.scheduled_jobs (task_identifier, queue_name, schedule_info)
             SELECT 'queued', 'q', '{\"rule\": \"* * * * * *\"}' FROM generate_series(1, 30)",
        )
        .await
        .unwrap();
    let free = schedule(&client, "free", EVERY_SECOND).await;
    let mut producer = db.connect().await;
    let transaction = producer.transaction().await.unwrap();
    let kept = "SELECT app_jobs.add_job('kept', queue_name := 'q', run_at := now() + interval '1 day')";
    transaction.batch_execute(kept).await.unwrap();
    let scheduler = Running::start(db.url(), &[("JOBS_SCHEDULER_LEASE", "3s")]);
    fires(&client, "free", 1).await;
    fires(&client, "queued", 60).await;
    assert!(ledger(&client, free).await >= 1, "{}", ledger(&client, free).await);
    transaction.rollback().await.unwrap();
    let all = "SELECT count(DISTINCT schedule_id) FROM app_jobs.schedule_fires";
    eventually(LIMIT, async || number(&client, all).await == 31).await;
    scheduler.stop().await;
    assert_eq!(gaps_and_doubles(&client).await, (0, 0));
    assert_eq!(number(&client, "SELECT count(*) FROM app_jobs.schedule_fires WHERE outcome = 'missed'").await, 0);
}

#[tokio::test]
async fn a_locked_schedule_fires_all_it_owes_when_it_is_free_again() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    let locked = schedule(&client, "locked", EVERY_SECOND).await;
    let scheduler = Running::start(db.url(), &[]);
    fires(&client, "locked", 1).await;
    let mut owner = db.connect().await;
    let transaction = owner.transaction().await.unwrap();
    transaction.execute(LOCK, &[&locked]).await.unwrap();
    schedule(&client, "free", EVERY_SECOND).await;
    fires(&client, "free", 3).await;
    transaction.rollback().await.unwrap();
    fires(&client, "locked", 4).await;
    scheduler.stop().await;
    assert_eq!(gaps_and_doubles(&client).await, (0, 0));
}

#[tokio::test]
async fn fires_whose_jobs_are_slow_to_make_are_made_all_the_same() {
    let db = database().await;
    let client = db.connect().await;
    client
        .batch_execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.05); RETURN NULL; END';
             CREATE TRIGGER slow AFTER INSERT ON app_jobs.jobs FOR EACH ROW EXECUTE FUNCTION slow();
             INSERT INTO app_jobs.scheduled_jobs (task_identifier, schedule_info)
             SELECT 'slow', to_json(date_trunc('second', clock_timestamp()) + interval '3 seconds') FROM generate_series(1, 100)",
        )
        .await
        .unwrap();
    // A hundred take 5 s, which is more than a statement may take here.
    let scheduler = Running::start(db.url(), &[("JOBS_STATEMENT_TIMEOUT", "2s")]);
    let made = "SELECT count(*) FROM app_jobs.schedule_fires WHERE outcome = 'made'";
    eventually(LIMIT * 2, async || number(&client, made).await == 100).await;
    scheduler.stop().await;
    assert_eq!(number(&client, "SELECT count(*) FROM app_jobs.jobs").await, 100);
}

#[tokio::test]
async fn what_is_wrong_is_told_in_the_row_also_when_that_was_locked_at_first() {
    let db = database().await;
    let client = db.connect().await;
    let scheduler = Running::start(db.url(), &[]);
    let bad = schedule(&client, "bad", r#"{"rule": "0 0 1 1 *"}"#).await;
    held(&client, ID, 1).await;
    // Rules that never fire: SQL does not tell of these when they are written, as it does of others.
    // Locked again in the moment in which the bad rule is committed: before any scheduler can have marked it.
    let (mut first, mut second) = (db.connect().await, db.connect().await);
    let change = first.transaction().await.unwrap();
    let rule = "UPDATE app_jobs.scheduled_jobs SET schedule_info = '{\"rule\": \"0 0 30 2 *\"}' WHERE id = $1";
    change.execute(rule, &[&bad]).await.unwrap();
    let lock = second.transaction().await.unwrap();
    let (locked, ()) = tokio::join!(async { lock.execute(LOCK, &[&bad]).await }, async {
        let blocked = "SELECT count(*) FROM pg_stat_activity
                        WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0";
        eventually(LIMIT, async || number(&client, blocked).await >= 1).await;
        change.commit().await.unwrap();
    });
    locked.unwrap();
    // Another schedule shows that the scheduler has looked.
    schedule(&client, "worse", r#"{"rule": "0 0 31 2 *"}"#).await;
    let told = "SELECT count(*) FROM app_jobs.scheduled_jobs WHERE last_error IS NOT NULL";
    eventually(LIMIT, async || number(&client, told).await == 1).await;
    lock.rollback().await.unwrap();
    eventually(LIMIT, async || number(&client, told).await == 2).await;
    scheduler.stop().await;
}

#[tokio::test]
async fn a_schedule_that_is_deleted_while_it_is_blocked_leaves_an_idle_scheduler() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    let id = schedule(&client, "tick", EVERY_SECOND).await;
    let mut scheduler = process(db.url(), ID, &[("RUST_LOG", "job_scheduler=debug")]);
    fires(&client, "tick", 1).await;
    let mut owner = db.connect().await;
    let transaction = owner.transaction().await.unwrap();
    transaction.execute(LOCK, &[&id]).await.unwrap();
    scheduler.wait_for_line("a fire waits", LIMIT).await;
    transaction.execute("DELETE FROM app_jobs.scheduled_jobs WHERE id = $1", &[&id]).await.unwrap();
    transaction.commit().await.unwrap();
    scheduler.wait_for_line("gone=1", LIMIT).await;
    // Ticks of 10 ms: what a loop that never sleeps would take a hundred of.
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", scheduler.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = ticks();
    throughout(Duration::from_secs(2), async || ticks() - before < 50).await;
}
