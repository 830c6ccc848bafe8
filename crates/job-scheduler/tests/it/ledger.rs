//! The ledger: what became of each fire.

use job_testkit::eventually;
use tokio_postgres::Client;

use super::support::{EVERY_SECOND, LIMIT, Running, collect_fires, database, fires, ledger, number, schedule};

async fn text(client: &Client, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap().get::<_, Option<String>>(0).unwrap_or_default()
}

#[tokio::test]
async fn a_fire_that_made_a_job_and_one_that_was_skipped_are_told_with_job_and_reason() {
    let db = database().await;
    let client = db.connect().await;
    let id = schedule(&client, "tick", EVERY_SECOND).await;
    let scheduler = Running::start(db.url(), &[]);
    eventually(LIMIT, async || ledger(&client, id).await >= 3).await;
    scheduler.stop().await;
    let first = "SELECT concat_ws('|', f.outcome, f.reason, f.scheduler_id) FROM app_jobs.schedule_fires f
                   JOIN app_jobs.jobs j ON j.id = f.job_id JOIN app_jobs.scheduled_jobs s ON s.last_scheduled_id = j.id
                  WHERE f.fire_at <= s.last_scheduled";
    assert_eq!(text(&client, first).await, "made|sched-test");
    let others = "SELECT string_agg(DISTINCT concat_ws('|', outcome, job_id, reason), ';') FROM app_jobs.schedule_fires WHERE job_id IS NULL";
    let others = text(&client, others).await;
    assert!(others.starts_with("skipped|ALREADY_SCHEDULED: job ") && !others.contains(';'), "{others}");
    assert_eq!(number(&client, "SELECT count(*) FROM app_jobs.jobs").await, 1);
}

#[tokio::test]
async fn a_fire_whose_job_postgres_refuses_is_told_with_the_reason() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    client
        .batch_execute("ALTER TABLE app_jobs.jobs ADD CONSTRAINT no_such_task CHECK (task_identifier <> 'refused')")
        .await
        .unwrap();
    let refused = schedule(&client, "refused", EVERY_SECOND).await;
    let fine = schedule(&client, "fine", EVERY_SECOND).await;
    let scheduler = Running::start(db.url(), &[]);
    eventually(LIMIT, async || ledger(&client, refused).await >= 2 && ledger(&client, fine).await >= 2).await;
    scheduler.stop().await;
    let reasons =
        "SELECT string_agg(DISTINCT outcome || '|' || coalesce(reason, '-'), ';') FROM app_jobs.schedule_fires";
    let reasons = text(&client, reasons).await;
    assert!(
        reasons.starts_with("failed|") && reasons.contains("no_such_task") && reasons.ends_with("(23514);made|-"),
        "{reasons}"
    );
}

#[tokio::test]
async fn a_fire_whose_job_a_trigger_keeps_out_is_told_and_its_schedule_and_the_others_go_on() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    client
        .batch_execute(
            "CREATE FUNCTION divert() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN IF NEW.task_identifier = ''away'' THEN RETURN NULL; END IF; RETURN NEW; END';
             CREATE TRIGGER divert BEFORE INSERT ON app_jobs.jobs FOR EACH ROW EXECUTE FUNCTION divert()",
        )
        .await
        .unwrap();
    let away = schedule(&client, "away", EVERY_SECOND).await;
    client.execute("UPDATE app_jobs.scheduled_jobs SET key = 'key-away' WHERE id = $1", &[&away]).await.unwrap();
    let fine = schedule(&client, "fine", EVERY_SECOND).await;
    let scheduler = Running::start(db.url(), &[]);
    eventually(LIMIT, async || ledger(&client, away).await >= 3 && ledger(&client, fine).await >= 3).await;
    scheduler.stop().await;
    let reasons =
        "SELECT string_agg(DISTINCT outcome || '|' || coalesce(reason, '-'), ';') FROM app_jobs.schedule_fires";
    let expected = "made|-;skipped|a trigger on the table jobs returned NULL: no job was made here";
    assert_eq!(text(&client, reasons).await, expected);
    let late = "SELECT count(*) FROM app_jobs.schedule_fires WHERE outcome = 'made' AND created_at > fire_at + interval '10 s'";
    assert_eq!(number(&client, late).await, 0);
}

#[tokio::test]
async fn a_job_made_elsewhere_for_the_same_fire_is_not_made_again() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    let id = schedule(&client, "tick", EVERY_SECOND).await;
    // The next half a minute is dealt with, as if an answer had been lost.
    let known = "INSERT INTO app_jobs.schedule_fires (schedule_id, fire_at, outcome, reason, scheduler_id)
                 SELECT $1, date_trunc('second', now()) + n * interval '1 second', 'skipped', 'before', 'other'
                   FROM generate_series(0, 30) n";
    client.execute(known, &[&id]).await.unwrap();
    let scheduler = Running::start(db.url(), &[]);
    schedule(&client, "other", EVERY_SECOND).await;
    fires(&client, "other", 3).await;
    scheduler.stop().await;
    assert_eq!(super::support::fired(&client, "tick").await.0, 0);
    assert_eq!(ledger(&client, id).await, 31);
}

#[tokio::test]
async fn every_sql_block_of_the_readme_runs_as_written() {
    let db = database().await;
    let client = db.connect().await;
    let blocks: Vec<&str> = include_str!("../../README.md")
        .split("```sql\n")
        .skip(1)
        .filter_map(|rest| rest.split_once("```"))
        .map(|(sql, _)| sql)
        .collect();
    assert!(blocks.len() >= 2, "{blocks:?}");
    for block in blocks {
        client.batch_execute(block).await.unwrap();
    }
    assert_eq!(number(&client, "SELECT count(*) FROM app_jobs.scheduled_jobs").await, 1);
}
