//! Fires from a time when nobody was there to make them, and fires while the previous job lives.

use job_testkit::eventually;

use super::support::{
    EVERY_SECOND, LIMIT, Running, collect_fires, database, fired, fires, ledger, number, schedule, schedule_since,
};

#[tokio::test]
async fn missed_fires_are_skipped_or_made_up_once_or_all() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    let rule = r#"{"rule": "0 0 * * * *""#;
    let skip = schedule_since(&client, "skip", &format!("{rule}}}"), "10 hours").await;
    let once = schedule_since(&client, "once", &format!(r#"{rule}, "missed": "once"}}"#), "10 hours").await;
    let all = schedule_since(&client, "all", &format!(r#"{rule}, "missed": "all"}}"#), "10 hours").await;
    let date = "SELECT json_build_object('rule', clock_timestamp() - interval '1 hour', 'missed', 'once')::text";
    let date: String = client.query_one(date, &[]).await.unwrap().get(0);
    schedule_since(&client, "date", &date, "2 hours").await;
    // What is not as old as the schedule was not missed.
    schedule(&client, "new", r#"{"rule": "* * * * *", "missed": "all"}"#).await;
    let now: i64 = number(&client, "SELECT extract(hour FROM now())::bigint").await;
    let scheduler = Running::start(db.url(), &[]);
    eventually(LIMIT, async || fired(&client, "all").await.0 >= 10).await;
    eventually(LIMIT, async || ledger(&client, skip).await >= 1 && ledger(&client, once).await >= 2).await;
    eventually(LIMIT, async || fired(&client, "date").await.0 == 1).await;
    // The hour may have passed meanwhile.
    let passed = i64::from(number(&client, "SELECT extract(hour FROM now())::bigint").await != now);
    assert_eq!(fired(&client, "skip").await.0, passed);
    assert_eq!(fired(&client, "once").await.0, 1 + passed);
    assert_eq!(fired(&client, "all").await.0, 10 + passed);
    assert!(fired(&client, "new").await.0 <= 1);
    let tells = "SELECT count(*) FROM app_jobs.schedule_fires
                  WHERE outcome = 'missed' AND reason LIKE '%since%' AND fire_at = date_trunc('hour', fire_at)";
    assert_eq!(number(&client, tells).await, 2, "of skip the last, of once the last but one");
    assert_eq!(ledger(&client, all).await, 10 + passed);
    scheduler.stop().await;

    // After a stop and a start, there is nothing more.
    let scheduler = Running::start(db.url(), &[]);
    schedule(&client, "tick", EVERY_SECOND).await;
    fires(&client, "tick", 2).await;
    assert_eq!(fired(&client, "all").await.0, 10 + passed);
    assert_eq!(fired(&client, "once").await.0, 1 + passed);
    scheduler.stop().await;
}

#[tokio::test]
async fn an_overlap_makes_a_job_although_the_previous_one_waits() {
    let db = database().await;
    let client = db.connect().await;
    let allowed = schedule(&client, "allowed", r#"{"rule": "* * * * * *", "overlap": "allow"}"#).await;
    let skipped = schedule(&client, "skipped", EVERY_SECOND).await;
    let scheduler = Running::start(db.url(), &[]);
    let jobs = "SELECT count(*) FROM app_jobs.jobs WHERE task_identifier = 'allowed'";
    eventually(LIMIT, async || number(&client, jobs).await >= 3).await;
    eventually(LIMIT, async || ledger(&client, skipped).await >= 3).await;
    scheduler.stop().await;
    let outcomes = async |schedule: i64| -> String {
        let sql = "SELECT string_agg(DISTINCT outcome, ' ' ORDER BY outcome) FROM app_jobs.schedule_fires WHERE schedule_id = $1";
        client.query_one(sql, &[&schedule]).await.unwrap().get(0)
    };
    assert_eq!((outcomes(allowed).await.as_str(), outcomes(skipped).await.as_str()), ("made", "made skipped"));
    let made = "SELECT count(*) FROM app_jobs.jobs WHERE task_identifier = 'skipped'";
    assert_eq!(number(&client, made).await, 1);
}
