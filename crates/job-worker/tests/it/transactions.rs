//! A handler that completes its job in its own transaction.

use std::collections::HashMap;
use std::time::Duration;

use job_pg::TransactionOptions;
use job_pg::config::PostgresConfig;
use job_testkit::eventually;
use job_utils::config::Reader;
use job_worker::{
    BoxError, CompleteError, Context, Db, HandlerResult, IntoJob, IsolationLevel, NewJob, Outcome, Shutdown, Task,
    TaskOptions, Worker, enqueue,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::support::{Bench, LIMIT};

/// Through the pooler, where there is one.
fn pool(bench: &Bench) -> Db {
    Db::new(&settings(bench.db.env())).unwrap()
}

fn settings(env: Vec<(String, String)>) -> PostgresConfig {
    let env: HashMap<String, String> = env.into_iter().collect();
    let mut reader = Reader::new(&env);
    let config = PostgresConfig::read(&mut reader);
    reader.finish(config).unwrap()
}

/// What the handler is to do with its transaction.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Charge {
    Commit,
    FailInside,
    FailAfterwards,
    PanicInside,
    LoseTheJob,
}

impl Task for Charge {
    const IDENTIFIER: &'static str = "charge";
}

async fn charge(job: Charge, context: Context<mpsc::UnboundedSender<String>>) -> HandlerResult {
    let id = context.job().id;
    if matches!(job, Charge::LoseTheJob) {
        // Another worker takes it over.
        let client = context.db().connection().await?;
        let taken = "UPDATE app_jobs.jobs SET locked_by = 'another', epoch = 1, instance = NULL WHERE id = $1";
        // Behind a pooler a statement that was prepared is in another session.
        client.query_typed(taken, &[(&id, Type::INT8)]).await?;
    }
    let charged: Result<i64, BoxError> = context
        .transaction(async |transaction| {
            transaction.execute("INSERT INTO charges (job) VALUES ($1)", &[&id]).await?;
            let receipt = enqueue(transaction, NewJob::raw("receipt", "")).await?;
            match job {
                Charge::FailInside => Err("declined")?,
                Charge::PanicInside => panic!("declined"),
                Charge::LoseTheJob => panic!("it has begun"),
                Charge::Commit | Charge::FailAfterwards => {}
            }
            Ok(receipt.id)
        })
        .await;
    if let Err(error) = &charged {
        let stale = matches!(error.downcast_ref::<CompleteError>(), Some(CompleteError::Stale(_)));
        context.state().send(format!("{error} {stale}"))?;
    }
    charged?;
    if matches!(job, Charge::FailAfterwards) { Err("too late")? } else { Ok(()) }
}

#[tokio::test]
async fn the_handlers_writes_and_the_end_of_its_job_are_committed_together_or_not_at_all() {
    let bench = Bench::new().await;
    bench.run("CREATE TABLE charges (job bigint)").await;
    let (told, mut errors) = mpsc::unbounded_channel();
    // Behind a pooler nothing wakes it, so it polls.
    let poll = Duration::from_millis(50);
    let worker = Worker::builder(pool(&bench)).state(told).poll_interval(poll).task(charge).build().unwrap();
    let shutdown = Shutdown::new();
    let running = tokio::spawn(worker.run(shutdown.clone()));
    let (tenant, actor) = (Uuid::from_u128(1), Uuid::from_u128(2));
    bench.run("SET jwt.claims.entity_id = '00000000-0000-0000-0000-000000000003'").await;
    bench.run("SET jwt.claims.organization_id = '00000000-0000-0000-0000-000000000004'").await;
    let add = async |job: Charge| enqueue(&bench.sql, job.into_job().tenant(tenant).actor(actor)).await.unwrap().id;
    let left = async || {
        let left = "SELECT (SELECT count(*) FROM charges), count(*) FROM app_jobs.jobs WHERE task_identifier = 'receipt' \
                    AND database_id = '00000000-0000-0000-0000-000000000001' \
                    AND actor_id = '00000000-0000-0000-0000-000000000002' \
                    AND entity_id = '00000000-0000-0000-0000-000000000003' \
                    AND organization_id = '00000000-0000-0000-0000-000000000004'";
        let row = bench.sql.query_one(left, &[]).await.unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1))
    };

    bench.gone(add(Charge::Commit).await).await;
    assert_eq!(left().await, (1, 1), "the receipt is for the same tenant and of the same actor");

    // The job is gone with the commit, whatever the handler returns afterwards.
    bench.gone(add(Charge::FailAfterwards).await).await;
    assert_eq!(left().await, (2, 2));

    for (job, error) in [(Charge::FailInside, "declined"), (Charge::PanicInside, "panicked: declined")] {
        let id = add(job).await;
        assert_eq!(bench.failed(id).await.last_error.as_deref(), Some(error));
        assert_eq!(left().await, (2, 2), "{job:?}: nothing was committed");
        // A second attempt would tell its error as well.
        bench.run(&format!("DELETE FROM app_jobs.jobs WHERE id = {id}")).await;
    }
    assert_eq!(errors.recv().await.unwrap(), "declined false");

    // Fenced: whoever has lost the job can neither begin its work nor end it.
    let id = add(Charge::LoseTheJob).await;
    let told = errors.recv().await.unwrap();
    assert_eq!(told, format!("the attempt of job {id} is no longer live: its work is rolled back true"));
    shutdown.trigger();
    let stopped = running.await.unwrap().unwrap();
    assert_eq!(stopped.orphaned, 0);
    let job = bench.job(id).await.unwrap();
    assert_eq!((job.locked_by.as_deref(), job.last_error), (Some("another"), None));
    assert_eq!(left().await, (2, 2));
}

#[tokio::test]
async fn a_transaction_of_the_applications_own_pool_completes_the_job_as_well() {
    async fn handler(_: Charge, context: Context<String>) -> HandlerResult {
        let (mut client, connection) = tokio_postgres::connect(context.state(), tokio_postgres::NoTls).await?;
        let driven = tokio::spawn(connection);
        let transaction = client.transaction().await?;
        transaction.execute("INSERT INTO charges (job) VALUES ($1)", &[&context.job().id]).await?;
        context.complete_in(&transaction).await?;
        transaction.commit().await?;
        driven.abort();
        Ok(())
    }
    let bench = Bench::new().await;
    bench.run("CREATE TABLE charges (job bigint)").await;
    let worker = Worker::builder(pool(&bench)).state(bench.db.url().to_owned()).task(handler).build().unwrap();
    let shutdown = Shutdown::new();
    let running = tokio::spawn(worker.run(shutdown.clone()));
    let id = enqueue(&bench.sql, Charge::Commit).await.unwrap().id;
    eventually(LIMIT, async || bench.job(id).await.is_none()).await;
    shutdown.trigger();
    running.await.unwrap().unwrap();
    let charged: i64 = bench.sql.query_one("SELECT count(*) FROM charges", &[]).await.unwrap().get(0);
    assert_eq!(charged, 1);
}

/// A handler whose time is up in the middle of a statement: the statement is cancelled, its transaction ends with the
/// session, and the pool does not get back a connection that is busy.
#[tokio::test]
async fn a_transaction_that_is_dropped_leaves_no_statement_behind() {
    async fn slow(_: Charge, context: Context) -> HandlerResult {
        context
            .transaction(async |transaction| {
                transaction.execute("INSERT INTO charges (job) VALUES (0)", &[]).await?;
                transaction.execute("SELECT pg_sleep(3600)", &[]).await?;
                Ok(())
            })
            .await
    }
    let bench = Bench::new().await;
    bench.run("CREATE TABLE charges (job bigint)").await;
    let short = TaskOptions::new().timeout(Duration::from_millis(300));
    let db = Db::from_url(bench.db.url()).unwrap();
    let worker = Worker::builder(db).task_with(short, slow).build().unwrap();
    let shutdown = Shutdown::new();
    let running = tokio::spawn(worker.run(shutdown.clone()));
    let id = enqueue(&bench.sql, Charge::Commit).await.unwrap().id;
    assert_eq!(bench.failed(id).await.last_error.as_deref(), Some("not done within 300ms"));
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query ~ '^SELECT pg_sleep' \
                AND state <> 'idle'";
    eventually(LIMIT, async || bench.sql.query_one(busy, &[]).await.unwrap().get::<_, i64>(0) == 0).await;
    shutdown.trigger();
    running.await.unwrap().unwrap();
    let charged: i64 = bench.sql.query_one("SELECT count(*) FROM charges", &[]).await.unwrap().get(0);
    assert_eq!(charged, 0);
}

/// What a handler no longer waits for within its transaction does not come back to the pool with the connection.
#[tokio::test]
async fn a_statement_that_is_abandoned_within_a_transaction_does_not_keep_its_connection_busy() {
    async fn impatient(_: Charge, context: Context<mpsc::UnboundedSender<bool>>) -> HandlerResult {
        let failed: Result<(), BoxError> = context
            .transaction(async |transaction| {
                transaction.execute("INSERT INTO charges (job) VALUES (0)", &[]).await?;
                let sleep = transaction.execute("SELECT pg_sleep(20)", &[]);
                tokio::time::timeout(Duration::from_millis(100), sleep).await??;
                Ok(())
            })
            .await;
        // The pool's only connection.
        let receipt = enqueue(context.db(), NewJob::raw("receipt", ""));
        context
            .state()
            .send(tokio::time::timeout(Duration::from_secs(10), receipt).await.is_ok_and(|it| it.is_ok()))?;
        failed
    }
    let bench = Bench::new().await;
    bench.run("CREATE TABLE charges (job bigint)").await;
    let (told, mut answered) = mpsc::unbounded_channel();
    let mut one = settings(bench.db.env());
    one.pool_size = 1;
    let worker = Worker::builder(Db::new(&one).unwrap()).state(told).task(impatient).build().unwrap();
    let shutdown = Shutdown::new();
    let running = tokio::spawn(worker.run(shutdown.clone()));
    let id = enqueue(&bench.sql, Charge::Commit).await.unwrap().id;
    assert_eq!(answered.recv().await, Some(true), "enqueued on the same pool");
    assert_eq!(bench.failed(id).await.last_error.as_deref(), Some("deadline has elapsed"));
    shutdown.trigger();
    running.await.unwrap().unwrap();
    let charged: i64 = bench.sql.query_one("SELECT count(*) FROM charges", &[]).await.unwrap().get(0);
    assert_eq!(charged, 0);
}

/// An error within a savepoint is not the end of the transaction.
#[tokio::test]
async fn a_savepoint_survives_what_is_refused() {
    async fn handler(_: Charge, context: Context) -> HandlerResult {
        let id = context.job().id;
        let refused = context
            .transaction(async |transaction| -> HandlerResult<bool> {
                transaction.execute("INSERT INTO charges (job) VALUES ($1)", &[&id]).await?;
                let savepoint = transaction.transaction().await?;
                let again = savepoint.execute("INSERT INTO charges (job) VALUES ($1)", &[&id]).await;
                savepoint.rollback().await?;
                // On the transaction again.
                enqueue(transaction, NewJob::raw("receipt", "")).await?;
                Ok(again.is_err_and(|error| error.code() == Some(&SqlState::UNIQUE_VIOLATION)))
            })
            .await?;
        if refused { Ok(()) } else { Err("it was not refused")? }
    }
    let bench = Bench::new().await;
    bench.run("CREATE TABLE charges (job bigint UNIQUE)").await;
    let worker = Worker::builder(pool(&bench)).task(handler).build().unwrap();
    enqueue(&bench.sql, Charge::Commit).await.unwrap();
    assert_eq!(worker.run_due().await.unwrap()[0].outcome, Outcome::Complete);
    let charged: i64 = bench.sql.query_one("SELECT count(*) FROM charges", &[]).await.unwrap().get(0);
    assert_eq!((charged, bench.count("task_identifier = 'receipt'").await, bench.count("true").await), (1, 1, 1));
}

/// Its transaction is at the level that was asked for, holds the job from the beginning, and ends when its client has
/// gone without a word: others pass the job by as long as it is held.
#[tokio::test]
async fn a_transaction_holds_its_job_and_not_for_longer_than_its_client_lives() {
    async fn handler(_: Charge, context: Context<(Client, mpsc::UnboundedSender<[String; 4]>)>) -> HandlerResult {
        let (other, told) = context.state();
        context
            .transaction_at(IsolationLevel::Serializable, async |transaction| {
                let free = "SELECT count(*)::text FROM (SELECT FROM app_jobs.jobs FOR UPDATE SKIP LOCKED) j";
                let free: String = other.query_one(free, &[]).await?.get(0);
                let settings = "SELECT current_setting('transaction_isolation'), current_setting('tcp_keepalives_idle'), \
                                current_setting('tcp_keepalives_count')";
                let row = transaction.query_one(settings, &[]).await?;
                told.send([free, row.get(0), row.get(1), row.get(2)])?;
                Ok(())
            })
            .await
    }
    let bench = Bench::new().await;
    let (told, mut heard) = mpsc::unbounded_channel();
    let state = (bench.db.connect().await, told);
    // By TCP and through no pooler, where there are such settings.
    let mut direct = settings(bench.db.direct_env());
    (direct.url, direct.hosts) = (None, vec!["127.0.0.1".into()]);
    let db = Db::new(&direct).unwrap();
    let worker = Worker::builder(db.clone()).state(state).task(handler).build().unwrap();
    enqueue(&bench.sql, Charge::Commit).await.unwrap();
    assert_eq!(worker.run_due().await.unwrap()[0].outcome, Outcome::Complete);
    assert_eq!(heard.recv().await.unwrap(), ["0", "serializable", "10", "3"]);
    // For that transaction only.
    let client = db.connection().await.unwrap();
    let after: String = client.query_one("SELECT current_setting('tcp_keepalives_count')", &[]).await.unwrap().get(0);
    assert_ne!(after, "3");
}

/// A halted process keeps its connection and says nothing: here it is work that waits for the job's row, which it holds
/// itself.
#[tokio::test]
async fn a_transaction_without_a_statement_for_longer_than_its_task_may_take_is_ended_by_the_server() {
    async fn handler(job: Charge, context: Context<mpsc::UnboundedSender<String>>) -> HandlerResult {
        let mut halted = TransactionOptions::default();
        halted.idle = Some(Duration::from_millis(100));
        let ended = context.db().complete_with(context.job(), halted, async |_| -> Result<(), CompleteError> {
            let other = context.db().connection().await?;
            let locked = "SELECT FROM app_jobs.jobs WHERE id = $1 FOR UPDATE";
            other.query_typed(locked, &[(&context.job().id, Type::INT8)]).await.expect("the row is free again");
            Ok(())
        });
        let error = tokio::time::timeout(LIMIT, ended).await?.unwrap_err();
        context.state().send(error.to_string())?;
        limits(job, context).await
    }
    async fn limits(_: Charge, context: Context<mpsc::UnboundedSender<String>>) -> HandlerResult {
        context
            .transaction(async |transaction| {
                let row = transaction.query_one("SHOW idle_in_transaction_session_timeout", &[]).await?;
                context.state().send(row.get(0))?;
                Ok(())
            })
            .await
    }
    let bench = Bench::new().await;
    let (told, mut heard) = mpsc::unbounded_channel();
    let task = TaskOptions::new().timeout(LIMIT);
    let worker = Worker::builder(pool(&bench)).state(told.clone()).task_with(task.clone(), handler).build().unwrap();
    enqueue(&bench.sql, Charge::Commit).await.unwrap();
    assert_eq!(worker.run_due().await.unwrap()[0].outcome, Outcome::Complete);
    assert_eq!(heard.recv().await.unwrap(), "complete failed");
    let limit = heard.recv().await.unwrap();
    let limit: u64 = limit.trim_end_matches("ms").parse().unwrap();
    assert!((5001..35_000).contains(&limit), "{limit} ms: 5 s more than the task has left");

    for (given, expected) in [("1s", "1s"), ("1d", "")] {
        bench
            .run(&format!("ALTER DATABASE {} SET idle_in_transaction_session_timeout = '{given}'", bench.db.name()))
            .await;
        let worker =
            Worker::builder(Db::from_url(bench.db.url()).unwrap()).state(told.clone()).task_with(task.clone(), limits);
        enqueue(&bench.sql, Charge::Commit).await.unwrap();
        assert_eq!(worker.build().unwrap().run_due().await.unwrap()[0].outcome, Outcome::Complete);
        let limit = heard.recv().await.unwrap();
        assert!(if expected.is_empty() { limit.ends_with("ms") } else { limit == expected }, "{given}: {limit}");
    }
}

/// A second transaction within the first one would wait for it.
#[tokio::test]
async fn an_attempt_has_one_transaction_at_a_time() {
    async fn handler(_: Charge, context: Context) -> HandlerResult {
        let failed: Result<(), CompleteError> = context.transaction(async |_| Err(CompleteError::Stale(0))).await;
        assert!(matches!(failed, Err(CompleteError::Stale(0))));
        context
            .transaction(async |_| -> HandlerResult {
                let second: Result<(), CompleteError> = context.transaction(async |_| Ok(())).await;
                match second {
                    Err(CompleteError::Open(id)) if id == context.job().id => Ok(()),
                    other => Err(format!("{other:?}"))?,
                }
            })
            .await
    }
    let bench = Bench::new().await;
    let worker = Worker::builder(pool(&bench)).task(handler).build().unwrap();
    enqueue(&bench.sql, Charge::Commit).await.unwrap();
    assert_eq!(
        worker.run_due().await.unwrap()[0].outcome,
        Outcome::Complete,
        "after one that failed, and despite the second"
    );
}
