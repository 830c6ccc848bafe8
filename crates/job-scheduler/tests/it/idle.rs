//! What a scheduler costs that has nothing to do, and one that has much.

use job_testkit::{Cluster, eventually, postgres};

use super::support::{
    EVERY_SECOND, ID, LIMIT, Running, collect_fires, database, fired, fires, held, migrated, schedule,
};

#[tokio::test]
async fn an_idle_scheduler_makes_one_statement_a_heartbeat_whatever_it_holds() {
    let cluster = Cluster::temporary().await.unwrap();
    let url = cluster.url("postgres");
    migrated(url.clone()).await.unwrap();
    let client = postgres::connect(&url).await;
    client
        .batch_execute(
            "INSERT INTO app_jobs.scheduled_jobs (task_identifier, schedule_info)
             SELECT 'idle', '{\"rule\": \"0 0 1 1 *\"}' FROM generate_series(1, 5000);
             ALTER DATABASE postgres SET log_statement = 'all'",
        )
        .await
        .unwrap();
    let scheduler = Running::start(&url, &[("JOBS_SCHEDULER_LEASE", "1s")]);
    held(&client, ID, 5000).await;
    let statements = || {
        let log = std::fs::read_to_string(cluster.log_file()).unwrap();
        let lines = log.lines().filter(|line| line.contains("LOG:  execute") || line.contains("LOG:  statement"));
        lines
            .filter(|line| !line.contains("count(*) FROM app_jobs.scheduled_jobs"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let beats = |statements: &[String]| statements.iter().filter(|line| line.contains("scheduler_heartbeat")).count();
    // The last of what is done once after a start, and not again for ten minutes.
    eventually(LIMIT, async || statements().iter().any(|line| line.contains("SELECT locked_by, count(*)"))).await;
    let before = statements().len();
    let began = std::time::Instant::now();
    eventually(LIMIT, async || beats(&statements()[before..]) >= 10).await;
    assert!(began.elapsed() > std::time::Duration::from_secs(2), "{:?} for ten thirds of a lease", began.elapsed());
    let idle = &statements()[before..];
    assert_eq!(idle.len(), beats(idle), "{idle:#?}");
    assert_eq!(scheduler.stop().await.released, 5000);
}

#[tokio::test]
async fn without_notifications_a_poll_sees_every_change() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    client.batch_execute("ALTER TABLE app_jobs.scheduled_jobs DISABLE TRIGGER USER").await.unwrap();
    let never_soon = r#"{"rule": "0 0 1 1 *"}"#;
    let changed = schedule(&client, "changed", never_soon).await;
    let deleted = schedule(&client, "deleted", EVERY_SECOND).await;
    let scheduler = Running::start(db.url(), &[("JOBS_POLL_INTERVAL", "200ms")]);
    fires(&client, "deleted", 1).await;
    let change = "UPDATE app_jobs.scheduled_jobs SET schedule_info = ($2::text)::json WHERE id = $1";
    client.execute(change, &[&changed, &EVERY_SECOND]).await.unwrap();
    client.execute("DELETE FROM app_jobs.scheduled_jobs WHERE id = $1", &[&deleted]).await.unwrap();
    schedule(&client, "new", EVERY_SECOND).await;
    fires(&client, "changed", 1).await;
    fires(&client, "new", 1).await;
    let before = fired(&client, "deleted").await;
    fires(&client, "changed", 2).await;
    assert_eq!(fired(&client, "deleted").await, before);
    assert_eq!(scheduler.stop().await.released, 2);
}

#[tokio::test]
async fn thousands_of_schedules_are_taken_and_fire_together() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    // All at one instant, far enough away for all to be known by then.
    let add = "INSERT INTO app_jobs.scheduled_jobs (task_identifier, schedule_info)
               SELECT 'many', to_json(date_trunc('second', clock_timestamp()) + interval '8 seconds')
                 FROM generate_series(1, 3000)";
    client.execute(add, &[]).await.unwrap();
    let scheduler = Running::start(db.url(), &[]);
    held(&client, ID, 3000).await;
    eventually(LIMIT, async || fired(&client, "many").await.0 == 3000).await;
    let jobs = "SELECT count(DISTINCT last_scheduled_id), count(DISTINCT last_scheduled) FROM app_jobs.scheduled_jobs";
    let row = client.query_one(jobs, &[]).await.unwrap();
    let (jobs, transactions): (i64, i64) = (row.get(0), row.get(1));
    assert_eq!(jobs, 3000);
    assert!(transactions <= 30, "{transactions} transactions for 3000 fires");
    let ended = "SELECT count(*) FROM app_jobs.scheduled_jobs WHERE ended_at IS NOT NULL";
    eventually(LIMIT, async || client.query_one(ended, &[]).await.unwrap().get::<_, i64>(0) == 3000).await;
    assert_eq!(scheduler.stop().await.released, 0);
}
