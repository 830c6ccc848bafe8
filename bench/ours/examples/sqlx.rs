//! Enqueueing and completing with sqlx, as docs/library.md shows it: on its transactions, connections and pools, by the
//! feature `sqlx`. It checks that what is rolled back is not there, that errors name the field, and prints `ok`.

use std::time::Duration;

use anyhow::{Result, ensure};
use job_worker::testing::{assert_enqueued, migrate_url};
use job_worker::{
    Context, Db, EnqueueError, Field, HandlerResult, IntoJob, KeyMode, NewJob, Outcome, SqlState, Task, Uuid, Worker,
    enqueue, enqueue_many, schedule,
};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, PgPool};

#[derive(Debug, Serialize, Deserialize)]
struct Receipt {
    order: i64,
}

impl Task for Receipt {
    const IDENTIFIER: &'static str = "receipt";
}

/// Completes in a transaction of sqlx, and enqueues in it.
async fn receipt(job: Receipt, context: Context<PgPool>) -> HandlerResult {
    let mut transaction = context.state().begin().await?;
    sqlx::query("INSERT INTO receipts VALUES ($1)").bind(job.order).execute(&mut *transaction).await?;
    enqueue(&mut *transaction, NewJob::raw("later", "").delay(Duration::from_secs(3600))).await?;
    context.complete_in(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(())
}

/// By SQL text, as any client does it.
async fn by_text(context: Context<PgPool>) -> HandlerResult {
    let mut transaction = context.state().begin().await?;
    let complete = sqlx::query("SELECT app_jobs.complete_in_transaction($1)").bind(context.token());
    complete.execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(())
}

/// What PostgreSQL answers to two transactions in each other's way.
async fn in_the_way(context: Context<PgPool>) -> HandlerResult {
    sqlx::query("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$").execute(context.state()).await?;
    Ok(())
}

// As docs/library.md shows it.
async fn place_order(pool: &PgPool) -> Result<()> {
    let mut transaction = pool.begin().await?;
    sqlx::query("INSERT INTO receipts VALUES ($1)").bind(3_i64).execute(&mut *transaction).await?;
    enqueue(&mut *transaction, Receipt { order: 3 }.into_job().key("order-3").key_mode(KeyMode::Ignore)).await?;
    transaction.commit().await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::var("DATABASE_URL")?;
    let pool = PgPool::connect(&url).await?;
    let missing = enqueue(&pool, Receipt { order: 0 }).await;
    ensure!(matches!(missing, Err(EnqueueError::NoSchema { .. })), "{missing:?}");
    migrate_url(url.clone()).await.map_err(anyhow::Error::msg)?;
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS receipts (order_id bigint)").execute(&pool).await?;

    let job = |order: i64| Receipt { order }.into_job().key("order").key_mode(KeyMode::Ignore);
    let mut transaction = pool.begin().await?;
    enqueue(&mut *transaction, job(1)).await?;
    transaction.rollback().await?;
    let mut transaction = pool.begin().await?;
    let first = enqueue(&mut *transaction, job(2)).await?;
    let second = enqueue(&mut transaction, job(3)).await?;
    ensure!((first.kept, second.kept, second.id) == (false, true, first.id));
    assert_enqueued::<Receipt>(&mut *transaction, |job| job.payload.order == 2).await;
    transaction.commit().await?;

    // Every kind of parameter, one by one and in a batch, on a connection and on a pool.
    let (tenant, actor) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let full = || {
        let job = NewJob::new("full", &serde_json::json!({ "ü": [1, null] })).queue("q").priority(-3).max_attempts(7);
        job.tenant(tenant).actor(actor).run_at(jiff::Timestamp::UNIX_EPOCH)
    };
    let mut connection = pool.acquire().await?;
    enqueue(&mut *connection, full()).await?;
    enqueue(&mut connection, NewJob::raw("full", "").delay(Duration::from_secs(60))).await?;
    let many = (0..2500).map(|n| if n % 2 == 0 { full() } else { NewJob::raw("full", "") });
    ensure!(enqueue_many(&mut *connection, many).await?.len() == 2500);
    ensure!(enqueue_many(&pool, [NewJob::raw("full", ""), full()]).await?.len() == 2);
    let like_it = "SELECT count(*) FROM app_jobs.jobs WHERE task_identifier = 'full' AND payload::text = '{\"ü\":[1,null]}' \
                   AND queue_name = 'q' AND priority = -3 AND max_attempts = 7 AND database_id = $1 AND actor_id = $2 \
                   AND run_at = 'epoch'";
    let ids = [tenant, actor].map(|id| id.to_string());
    let like_it = like_it.replace("$1", &format!("'{}'", ids[0])).replace("$2", &format!("'{}'", ids[1]));
    let found: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(like_it)).fetch_one(&pool).await?;
    ensure!(found == 1252, "{found}");
    schedule(&pool, "@daily", NewJob::raw("daily", "").key("daily")).await?;
    sqlx::raw_sql("DELETE FROM app_jobs.jobs WHERE task_identifier = 'full'").execute(&pool).await?;

    // Errors name the field, and say what they are, as those of other clients.
    let theirs = NewJob::raw("x", "").key("theirs");
    enqueue(&pool, theirs.clone().tenant(tenant)).await?;
    let taken = enqueue(&pool, theirs.clone()).await.map(drop);
    ensure!(matches!(&taken, Err(error) if error.field() == Some(Field::Key)), "{taken:?}");
    let mut transaction = connection.begin().await?;
    sqlx::query("SET LOCAL transaction_read_only = on").execute(&mut *transaction).await?;
    let Err(error) = enqueue(&mut *transaction, NewJob::raw("x", "")).await else { anyhow::bail!("it was enqueued") };
    ensure!(error.sql_state() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) && error.is_transient(), "{error:?}");
    ensure!(format!("{error:?}").contains("cannot execute"), "{error:?}");
    drop(transaction);
    drop(connection);
    sqlx::raw_sql("DELETE FROM app_jobs.jobs WHERE task_identifier = 'x'").execute(&pool).await?;

    enqueue(&pool, NewJob::raw("by_text", "")).await?;
    enqueue(&pool, NewJob::raw("in_the_way", "")).await?;
    let options = job_worker::TaskOptions::new;
    let db = Db::from_url(&url)?;
    let worker = Worker::builder(db).state(pool.clone()).task(receipt);
    let worker = worker.raw_task("by_text", options(), by_text);
    let worker = worker.raw_task("in_the_way", options(), in_the_way).build()?;
    let ran = worker.run_due().await?;
    let ended: Vec<&Outcome> = ran.iter().map(|ran| &ran.outcome).collect();
    ensure!(matches!(ended[..], [Outcome::Complete, Outcome::Complete, Outcome::Release { .. }]), "{ran:?}");
    let receipts: Vec<i64> = sqlx::query_scalar("SELECT order_id FROM receipts").fetch_all(&pool).await?;
    ensure!(receipts == [2], "{receipts:?}");
    let left: Vec<String> =
        sqlx::query_scalar("SELECT task_identifier FROM app_jobs.jobs ORDER BY 1").fetch_all(&pool).await?;
    ensure!(left == ["in_the_way", "later"], "{left:?}");

    place_order(&pool).await?;
    assert_enqueued::<Receipt>(&pool, |job| job.payload.order == 3).await;

    // A future that can be moved between threads.
    let spawned = tokio::spawn(async move {
        let mut transaction = pool.begin().await?;
        enqueue(&mut *transaction, NewJob::raw("spawned", "")).await?;
        transaction.commit().await?;
        anyhow::Ok(())
    });
    spawned.await??;
    println!("ok");
    Ok(())
}
