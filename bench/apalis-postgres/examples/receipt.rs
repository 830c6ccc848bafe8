//! The program of docs/library.md with apalis. The payload is encoded by hand where a job is enqueued in a transaction;
//! attempts are repeated at once, in the process.

use std::time::Duration;

use anyhow::{Result, anyhow};
use apalis::layers::WorkerBuilderExt;
use apalis::layers::retry::RetryPolicy;
use apalis::prelude::*;
use apalis_postgres::{Config, PgPool, PgTask, PostgresStorage, queries};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

const QUEUE: &str = "receipt";

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Receipt {
    order: i64,
}

#[derive(Clone)]
struct Shop {
    currency: &'static str,
    pool: PgPool,
}

async fn receipt(job: Receipt, shop: Data<Shop>) -> Result<(), BoxDynError> {
    let text = format!("paid in {}", shop.currency);
    // Not with the end of the job: after a crash in between the receipt is written again.
    sqlx::query("INSERT INTO receipts VALUES ($1, $2)").bind(job.order).bind(text).execute(&shop.pool).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let pool = PgPool::connect(&std::env::var("DATABASE_URL")?).await?;
    sqlx::raw_sql(TABLES).execute(&pool).await?;
    PostgresStorage::setup(&pool).await.map_err(|error| anyhow!("{error}"))?;

    let backend = PostgresStorage::<Receipt>::new(&pool).with_config(Config::default().queue(QUEUE)).with_pubsub();
    let (stop, stopped) = oneshot::channel::<()>();
    let shop = Shop { currency: "EUR", pool: pool.clone() };
    let running = tokio::spawn(async move {
        let worker = WorkerBuilder::new(format!("receipts-{}", std::process::id()))
            .backend(backend)
            .concurrency(10)
            .retry(RetryPolicy::retries(4))
            .timeout(Duration::from_secs(30))
            .data(shop)
            .build(receipt);
        let signal = async move {
            let _ = stopped.await;
            Ok::<(), std::io::Error>(())
        };
        worker.run_until(signal).await.map_err(|error| anyhow!("{error}"))
    });

    let mut transaction = pool.begin().await?;
    let order: i64 =
        sqlx::query_scalar("INSERT INTO orders DEFAULT VALUES RETURNING id").fetch_one(&mut *transaction).await?;
    let task: PgTask = TaskBuilder::new(serde_json::to_vec(&Receipt { order })?).max_attempts(5).build();
    queries::push_tasks(&mut *transaction, QUEUE, vec![task]).await.map_err(|error| anyhow!("{error}"))?;
    transaction.commit().await?;

    while sqlx::query("SELECT FROM receipts WHERE order_id = $1").bind(order).fetch_optional(&pool).await?.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let _ = stop.send(());
    running.await??;
    println!("ok");
    Ok(())
}

const TABLES: &str = "CREATE TABLE IF NOT EXISTS orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY); \
                      CREATE TABLE IF NOT EXISTS receipts (order_id bigint, text text)";
