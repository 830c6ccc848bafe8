//! Enqueueing and completing with sqlx, as docs/library.md shows it: by SQL text, in the transactions of sqlx. It checks that what is
//! rolled back is not there, and prints `ok`.

use anyhow::{Result, ensure};
use job_worker::testing::migrate_url;
use job_worker::{Context, Db, HandlerResult, Outcome, Task, Worker};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

#[derive(Serialize, Deserialize)]
struct Receipt {
    order: i64,
}

impl Task for Receipt {
    const IDENTIFIER: &'static str = "receipt";
}

const ENQUEUE: &str = "SELECT id, kept FROM app_jobs.enqueue($1, $2::json, job_key := $3, key_mode := 'ignore')";

/// Enqueues in a transaction of sqlx.
async fn enqueue(connection: &mut sqlx::PgConnection, receipt: &Receipt, key: &str) -> Result<(i64, bool)> {
    let payload = serde_json::to_string(receipt)?;
    Ok(sqlx::query_as(ENQUEUE).bind(Receipt::IDENTIFIER).bind(payload).bind(key).fetch_one(connection).await?)
}

/// Completes in a transaction of sqlx. The job is done when it commits: there is nothing left to say but so.
async fn receipt(job: Receipt, context: Context<PgPool>) -> HandlerResult {
    let mut transaction = context.state().begin().await?;
    sqlx::query("INSERT INTO receipts VALUES ($1)").bind(job.order).execute(&mut *transaction).await?;
    let complete = sqlx::query("SELECT app_jobs.complete_in_transaction($1)").bind(context.token());
    complete.execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::var("DATABASE_URL")?;
    migrate_url(url.clone()).await.map_err(anyhow::Error::msg)?;
    let pool = PgPool::connect(&url).await?;
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS receipts (order_id bigint)").execute(&pool).await?;

    let mut transaction = pool.begin().await?;
    enqueue(&mut transaction, &Receipt { order: 1 }, "order-1").await?;
    transaction.rollback().await?;
    let mut transaction = pool.begin().await?;
    let (id, kept) = enqueue(&mut transaction, &Receipt { order: 2 }, "order-2").await?;
    ensure!(!kept);
    ensure!(enqueue(&mut transaction, &Receipt { order: 3 }, "order-2").await? == (id, true));
    transaction.commit().await?;

    let worker = Worker::builder(Db::from_url(&url)?).state(pool.clone()).task(receipt).build()?;
    let ran = worker.run_due().await?;
    ensure!(ran.len() == 1 && ran[0].outcome == Outcome::Done, "{ran:?}");
    let receipts: Vec<i64> = sqlx::query_scalar("SELECT order_id FROM receipts").fetch_all(&pool).await?;
    ensure!(receipts == [2], "{receipts:?}");
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM app_jobs.jobs").fetch_one(&pool).await?;
    ensure!(left == 0);
    println!("ok");
    Ok(())
}
