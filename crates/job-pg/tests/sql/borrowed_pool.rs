//! A `Db` on the application's own pool: it has the pool's connections, and our limits.

use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, Pool};
use job_pg::migrate::migrate;
use job_pg::{Db, DbError, NewJob, enqueue};
use job_testkit::{TestDb, eventually};
use tokio_postgres::{Config, NoTls};

use crate::sql::support::{LIMIT, Session, database};

/// As an application has one: no limits, and no runtime to keep them with.
fn pool(db: &TestDb, size: usize) -> (Config, Pool) {
    let mut config: Config = db.url().parse().unwrap();
    config.application_name("shop");
    (config.clone(), Pool::builder(Manager::new(config, NoTls)).max_size(size).build().unwrap())
}

const OF_THE_POOL: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'shop'";

#[tokio::test]
async fn the_applications_pool_is_taken_and_what_it_cannot_lend_is_opened_beside_it() {
    let db = TestDb::empty().await;
    let (mut config, pool) = pool(&db, 2);
    // What is opened beside it has another name here, so that the two can be told apart.
    config.application_name("beside");
    let jobs = Db::builder_from(config).pool(pool.clone()).build().unwrap();
    migrate(&jobs).await.unwrap();
    assert_eq!(pool.status().size, 0, "a migration has a session of its own");
    jobs.ready().await.unwrap();
    enqueue(&jobs, NewJob::raw("x", "")).await.unwrap();
    let s = Session::open(&db).await;
    assert_eq!(
        (s.number(OF_THE_POOL).await, pool.status().size),
        (1, 1),
        "one connection does for one after the other"
    );
    let beside = OF_THE_POOL.replace("shop", "beside");
    eventually(LIMIT, async || s.number(&beside).await == 0).await;
}

#[tokio::test]
async fn a_statement_on_a_connection_of_the_applications_pool_has_its_limit_and_is_cancelled() {
    let db = database().await;
    let (config, pool) = pool(&db, 2);
    let limit = Duration::from_secs(1);
    let jobs = Db::builder_from(config).pool(pool.clone()).statement_timeout(limit).build().unwrap();
    jobs.ready().await.unwrap();
    let s = Session::open(&db).await;
    let blocker = Session::open(&db).await;
    blocker.run("BEGIN; LOCK TABLE pg_policy IN ACCESS EXCLUSIVE MODE").await;
    let error = jobs.ready().await.unwrap_err();
    assert!(error.to_string().contains("got no answer within 1s"), "{error}");
    let waiting = format!("{OF_THE_POOL} AND wait_event_type = 'Lock'");
    eventually(LIMIT, async || s.number(&waiting).await == 0).await;
    eventually(LIMIT, async || s.number(OF_THE_POOL).await == 0).await;
    assert_eq!(pool.status().size, 0, "given up, not given back");
    blocker.run("ROLLBACK").await;
    jobs.ready().await.unwrap();
}

#[tokio::test]
async fn a_connection_of_a_pool_without_limits_is_waited_for_no_longer_than_of_one_of_our_own() {
    let db = database().await;
    let (mut config, pool) = pool(&db, 2);
    config.connect_timeout(Duration::from_secs(1));
    let jobs = Db::builder_from(config).pool(pool.clone()).build().unwrap();
    let _all = (pool.get().await.unwrap(), pool.get().await.unwrap());
    let asked = Instant::now();
    let error = enqueue(&jobs, NewJob::raw("x", "")).await.unwrap_err();
    assert!(asked.elapsed() >= Duration::from_secs(1), "{:?}", asked.elapsed());
    assert!(error.to_string().contains("all of the pool's are in use") && error.is_transient(), "{error}");
}

#[test]
fn a_pool_that_will_not_do_is_refused() {
    let config: Config = "postgres://localhost/shop".parse().unwrap();
    let of = |size| Pool::builder(Manager::new(config.clone(), NoTls)).max_size(size).build().unwrap();
    let built = |pool| Db::builder_from(config.clone()).pool(pool);
    let names = |error: DbError| match error {
        DbError::Config(error) => error.faults.iter().map(|fault| fault.name).collect::<Vec<_>>(),
        other => panic!("{other}"),
    };
    assert_eq!(built(of(1)).build().map(drop).map_err(names), Err(vec!["pool"]));
    assert_eq!(built(of(4)).pool_size(5).build().map(drop).map_err(names), Err(vec!["pool"]));
    assert!(built(of(2)).build().is_ok());
}
