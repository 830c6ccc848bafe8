//! The program of docs/library.md with awa. Limits and the deadline are those of a queue; state is looked up by its
//! type.

use std::time::Duration;

use anyhow::Result;
use awa::model::migrations;
use awa::worker::TransitionWorkerRole;
use awa::{
    Client, InsertOpts, JobArgs, JobError, JobResult, QueueConfig, QueueStorage, QueueStorageConfig, insert_with,
};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

const QUEUE: &str = "receipts";

#[derive(Debug, Serialize, Deserialize, JobArgs)]
struct Receipt {
    order: i64,
}

#[derive(Clone)]
struct Shop {
    currency: &'static str,
    pool: PgPool,
}

async fn receipt(job: Receipt, shop: Option<Shop>) -> Result<JobResult, JobError> {
    let shop = shop.ok_or_else(|| JobError::terminal("no state"))?;
    let text = format!("paid in {}", shop.currency);
    // Not with the end of the job: after a crash in between the receipt is written again.
    let insert = sqlx::query("INSERT INTO receipts VALUES ($1, $2)").bind(job.order).bind(text);
    insert.execute(&shop.pool).await.map_err(JobError::retryable)?;
    Ok(JobResult::Completed)
}

#[tokio::main]
async fn main() -> Result<()> {
    let pool = PgPool::connect(&std::env::var("DATABASE_URL")?).await?;
    sqlx::raw_sql(TABLES).execute(&pool).await?;
    migrations::run(&pool).await?;
    QueueStorage::new(QueueStorageConfig::default())?.install(&pool).await?;

    let queue = QueueConfig { max_workers: 10, deadline_duration: Duration::from_secs(30), ..QueueConfig::default() };
    let client = Client::builder(pool.clone())
        .queue(QUEUE, queue)
        .transition_role(TransitionWorkerRole::QueueStorageTarget)
        .state(Shop { currency: "EUR", pool: pool.clone() })
        .register::<Receipt, _, _>(|job, context| receipt(job, context.extract::<Shop>()))
        .build()?;
    client.start().await?;

    let mut transaction = pool.begin().await?;
    let order: i64 =
        sqlx::query_scalar("INSERT INTO orders DEFAULT VALUES RETURNING id").fetch_one(&mut *transaction).await?;
    let options = InsertOpts { queue: QUEUE.to_owned(), max_attempts: 5, ..InsertOpts::default() };
    insert_with(&mut *transaction, &Receipt { order }, options).await?;
    transaction.commit().await?;

    while sqlx::query("SELECT FROM receipts WHERE order_id = $1").bind(order).fetch_optional(&pool).await?.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    client.shutdown(Duration::from_secs(30)).await;
    println!("ok");
    Ok(())
}

const TABLES: &str = "CREATE TABLE IF NOT EXISTS orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY); \
                      CREATE TABLE IF NOT EXISTS receipts (order_id bigint, text text)";
