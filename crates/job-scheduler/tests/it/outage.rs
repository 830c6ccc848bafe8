//! Postgres goes away and comes back: the scheduler goes on by itself, and each fire is made once.

use job_testkit::{Cluster, postgres};

use super::support::{EVERY_SECOND, LIMIT, Running, collect_fires, fires, gaps_and_doubles, migrated, schedule};

#[tokio::test]
async fn after_restarts_of_postgres_that_are_shorter_than_a_lease_every_fire_was_made_once() {
    let mut cluster = Cluster::temporary().await.unwrap();
    let url = cluster.url("postgres");
    migrated(url.clone()).await.unwrap();
    let client = postgres::connect(&url).await;
    collect_fires(&client).await;
    schedule(&client, "tick", EVERY_SECOND).await;
    schedule(&client, "other", EVERY_SECOND).await;
    // Longer than what a restart takes on a busy machine.
    let scheduler = Running::start(&url, &[("JOBS_SCHEDULER_LEASE", "1m")]);
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
    assert_eq!(gaps_and_doubles(&client).await, (0, 0));
}
