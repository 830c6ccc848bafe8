//! The network between the scheduler and Postgres breaks, goes silent, and comes back.

use std::time::Duration;

use job_testkit::{Proxy, eventually, throughout};

use super::support::{EVERY_SECOND, LIMIT, Running, collect_fires, database, fired, fires, schedule};

#[tokio::test]
async fn after_ten_seconds_without_a_network_and_a_cut_schedules_fire_on_and_none_fires_twice() {
    let db = database().await;
    let client = db.connect().await;
    collect_fires(&client).await;
    let proxy = Proxy::start(db.address().1).await.unwrap();
    let url = db.url().replace(&format!(":{}/", db.address().1), &format!(":{}/", proxy.port()));
    assert_ne!(url, db.url());
    schedule(&client, "tick", EVERY_SECOND).await;
    let scheduler = Running::start(&url, &[("JOBS_STATEMENT_TIMEOUT", "2s")]);
    fires(&client, "tick", 2).await;

    proxy.blackhole();
    let before = fired(&client, "tick").await.0;
    // What Postgres had been told already may still come.
    throughout(Duration::from_secs(10), async || fired(&client, "tick").await.0 <= before + 1).await;
    let before = fired(&client, "tick").await.0;
    proxy.restore();
    eventually(LIMIT, async || fired(&client, "tick").await.0 >= before + 3).await;
    let (jobs, seconds) = fired(&client, "tick").await;
    // The fire under way when the network went may arrive with its return; those after it are missed.
    assert!(jobs <= seconds + 2, "{jobs} jobs in {seconds} seconds");
    assert!(jobs <= before + 6, "missed fires are not made up: {before} and then {jobs}");

    proxy.cut();
    fires(&client, "tick", 2).await;
    // A schedule that comes now is heard of: the listener is back too, long before the next poll.
    schedule(&client, "new", EVERY_SECOND).await;
    fires(&client, "new", 1).await;
    let (jobs, seconds) = fired(&client, "tick").await;
    assert!(jobs <= seconds + 3, "{jobs} jobs in {seconds} seconds");
    assert_eq!(scheduler.stop().await.released, 2);
}
