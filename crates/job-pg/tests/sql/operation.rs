//! A statement that gets no answer is given up, and nothing of it is left.

use std::time::{Duration, Instant};

use job_pg::{DbError, Instance, WorkerDb};
use job_testkit::eventually;
use uuid::Uuid;

use crate::sql::support::{LIMIT, Session, database, handle_with};

const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                       AND application_name = 'jobs' AND wait_event_type = 'Lock'";
const CONNECTIONS: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                           AND application_name = 'jobs'";

fn worker(url: &str) -> WorkerDb {
    let instance = Instance {
        id: Uuid::new_v4(),
        lease: Duration::from_secs(30),
        listens: false,
        overdue_message: "no callback".into(),
        job_expiry: Duration::from_secs(4 * 3600),
    };
    WorkerDb::new(handle_with(url, "app_jobs", &[("JOBS_STATEMENT_TIMEOUT", "1s")]), "worker-1", instance)
}

#[tokio::test]
async fn a_statement_without_an_answer_is_cancelled_and_its_connection_given_up() {
    let db = database().await;
    let s = Session::open(&db).await;
    let worker = worker(db.url());
    assert_eq!(worker.accepted().await.unwrap(), 0);
    let blocker = Session::open(&db).await;
    blocker.run("BEGIN; LOCK TABLE app_jobs.jobs IN ACCESS EXCLUSIVE MODE").await;
    let asked = Instant::now();
    let error = worker.accepted().await.unwrap_err();
    assert!(matches!(error, DbError::Timeout { .. }) && error.is_transient(), "{error:?}");
    assert!(asked.elapsed() >= Duration::from_secs(1) && asked.elapsed() < Duration::from_secs(10));
    // The lock is still held: what no longer waits for it has been cancelled.
    eventually(LIMIT, async || s.number(WAITING).await == 0).await;
    eventually(LIMIT, async || s.number(CONNECTIONS).await == 0).await;
    blocker.run("COMMIT").await;
    assert_eq!(worker.accepted().await.unwrap(), 0);
    assert_eq!(s.number(CONNECTIONS).await, 1);
}

#[tokio::test]
async fn a_statement_that_nobody_waits_for_any_more_is_cancelled() {
    let db = database().await;
    let s = Session::open(&db).await;
    let worker = worker(db.url());
    let blocker = Session::open(&db).await;
    blocker.run("BEGIN; LOCK TABLE app_jobs.jobs IN ACCESS EXCLUSIVE MODE").await;
    let waiting = worker.clone();
    let asking = tokio::spawn(async move { waiting.accepted().await });
    eventually(LIMIT, async || s.number(WAITING).await == 1).await;
    asking.abort();
    eventually(LIMIT, async || s.number(WAITING).await == 0).await;
    blocker.run("COMMIT").await;
}

#[tokio::test]
async fn a_connection_to_what_takes_no_writes_leaves_the_pool_and_another_error_does_not_cost_it() {
    let db = database().await;
    let s = Session::open(&db).await;
    let worker = worker(db.url());
    let backend = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'jobs'";
    worker.heartbeat().await.unwrap();
    let first = s.show(backend).await;
    s.run("ALTER TABLE app_jobs.workers RENAME TO workers_gone").await;
    assert!(worker.heartbeat().await.unwrap_err().sql_state().is_some_and(|state| state.code() == "42P01"));
    s.run("ALTER TABLE app_jobs.workers_gone RENAME TO workers").await;
    worker.heartbeat().await.unwrap();
    assert_eq!(s.show(backend).await, first);
    // As a primary is that has been fenced.
    s.run(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", db.name())).await;
    s.run(&format!("SELECT pg_terminate_backend({first})")).await;
    let refused = async || match worker.heartbeat().await {
        Err(error) => error.sql_state().is_some_and(|state| state.code() == "25006"),
        Ok(_) => false,
    };
    eventually(LIMIT, refused).await;
    eventually(LIMIT, async || s.number(CONNECTIONS).await == 0).await;
    let admin = Session::open_url(&db.url().replace(db.name(), "postgres")).await;
    admin.run(&format!("ALTER DATABASE {} SET default_transaction_read_only = off", db.name())).await;
    worker.heartbeat().await.unwrap();
}
