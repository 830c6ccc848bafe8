//! A worker on the application's own pool.

use std::time::Duration;

use job_testkit::eventually;
use job_worker::deadpool_postgres::{Manager, Pool};
use job_worker::tokio_postgres::{Config, NoTls};
use job_worker::{Context, Db, HandlerResult, NewJob, Shutdown, Task, Worker, enqueue};
use serde::{Deserialize, Serialize};

use super::support::{Bench, LIMIT};

#[derive(Serialize, Deserialize)]
struct Work {}

impl Task for Work {
    const IDENTIFIER: &'static str = "work";
}

/// It is woken by its own connection, works on those of the pool, and holds its id, which the next of that id would
/// see.
#[tokio::test]
async fn a_worker_works_on_the_applications_pool_and_listens_beside_it() {
    async fn work(_: Work, context: Context) -> HandlerResult {
        context
            .transaction(async |transaction| {
                let name = "INSERT INTO names SELECT current_setting('application_name')";
                transaction.execute(name, &[]).await?;
                enqueue(&*transaction, NewJob::raw("next", "")).await?;
                enqueue(&*transaction, NewJob::raw("next", "")).await?;
                Ok(())
            })
            .await
    }
    let bench = Bench::new().await;
    bench.run("CREATE TABLE names (name text)").await;
    let mut config: Config = bench.db.url().parse().unwrap();
    config.application_name("shop");
    let pool = Pool::builder(Manager::new(config.clone(), NoTls)).max_size(3).build().unwrap();
    config.application_name("beside");
    let db = Db::builder_from(config).pool(pool.clone()).build().unwrap();
    let worker = Worker::builder(db).id("shop-1").poll_interval(Duration::from_secs(3600)).task(work).build().unwrap();
    let shutdown = Shutdown::new();
    let running = tokio::spawn(worker.run(shutdown.clone()));
    let named = async |name: &str| {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1";
        bench.sql.query_one(sql, &[&name]).await.unwrap().get::<_, i64>(0)
    };
    // It looks, finds nothing, and sleeps; what wakes it is a notification.
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
                 AND (classid::bigint << 32) + objid::bigint <> hashtextextended('app_jobs.limits', 0) AND database = \
                 (SELECT oid FROM pg_database WHERE datname = current_database())";
    eventually(LIMIT, async || bench.sql.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) > 0).await;
    bench.gone(enqueue(&bench.sql, Work {}).await.unwrap().id).await;
    assert_eq!(bench.count("task_identifier = 'next'").await, 2);
    let name: String = bench.sql.query_one("SELECT name FROM names", &[]).await.unwrap().get(0);
    assert_eq!((name.as_str(), named("beside").await), ("shop", 1));
    assert!((1..=3).contains(&named("shop").await) && pool.status().size <= 3);
    shutdown.trigger();
    running.await.unwrap().unwrap();
    eventually(LIMIT, async || named("beside").await == 0).await;
    assert!(pool.get().await.is_ok(), "it is the application's, and goes on");
}
