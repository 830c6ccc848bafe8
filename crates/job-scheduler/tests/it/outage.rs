//! Postgres goes away and comes back: the scheduler goes on by itself, and makes up nothing.

use job_testkit::{Cluster, postgres};

use super::support::{EVERY_SECOND, LIMIT, Running, collect_fires, fired, fires, migrated, schedule};

#[tokio::test]
async fn after_restarts_of_postgres_schedules_fire_on_and_missed_fires_are_not_made_up() {
    let mut cluster = Cluster::temporary().await.unwrap();
    let url = cluster.url("postgres");
    migrated(url.clone()).await.unwrap();
    let client = postgres::connect(&url).await;
    collect_fires(&client).await;
    schedule(&client, "tick", EVERY_SECOND).await;
    schedule(&client, "other", EVERY_SECOND).await;
    let scheduler = Running::start(&url, &[]);
    fires(&client, "tick", 2).await;

    cluster.stop().await.unwrap();
    cluster.start_again().await.unwrap();
    let client = postgres::connect(&url).await;
    fires(&client, "tick", 2).await;

    cluster.kill().await.unwrap();
    cluster.start_again().await.unwrap();
    let client = postgres::connect(&url).await;
    fires(&client, "tick", 2).await;
    // A schedule that comes now is heard of: the listener is back too.
    schedule(&client, "new", EVERY_SECOND).await;
    fires(&client, "new", 1).await;

    let stopped = tokio::time::timeout(LIMIT, scheduler.stop()).await.unwrap();
    assert_eq!(stopped.released, 3);
    for task in ["tick", "other"] {
        let (jobs, seconds) = fired(&client, task).await;
        // A late fire may share its second with the next one, once per outage and once on a busy machine.
        assert!(jobs - seconds <= 3, "{task}: {jobs} jobs in {seconds} seconds");
    }
}
