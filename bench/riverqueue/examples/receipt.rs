//! The program of docs/library.md with River. A worker is a type, so that it can have a timeout and retries of its own;
//! a limit for a single kind is that of a queue.

use std::time::Duration;

use anyhow::Result;
use riverqueue::jiff::Timestamp;
use riverqueue::migrate::PostgresMigrator;
use riverqueue::{
    BoxError, Client, InsertOpts, Job, JobArgs, QUEUE_DEFAULT, QueueConfig, WorkContext, WorkError, WorkOutcome,
    Worker, WorkerTimeout, Workers,
};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

#[derive(Clone, Debug, Deserialize, JobArgs, Serialize)]
#[river(kind = "receipt")]
struct Receipt {
    order: i64,
}

struct Receipts {
    currency: &'static str,
    pool: PgPool,
}

impl Worker<Receipt> for Receipts {
    type Error = BoxError;

    fn next_retry(&self, _: &Job<Receipt>, _: &WorkError, _: Timestamp) -> Option<Duration> {
        Some(Duration::from_secs(5))
    }

    fn timeout(&self, _: &Job<Receipt>) -> WorkerTimeout {
        WorkerTimeout::After(Duration::from_secs(30))
    }

    async fn work(&self, context: WorkContext, job: Job<Receipt>) -> Result<WorkOutcome, BoxError> {
        let text = format!("paid in {}", self.currency);
        let mut transaction = riverqueue::database::begin_postgres(&self.pool).await?;
        let insert = sqlx::query("INSERT INTO receipts VALUES ($1, $2)").bind(job.args.order).bind(text);
        insert.execute(&mut *transaction).await?;
        context.job_complete_tx(&mut transaction).await?;
        transaction.commit().await?;
        Ok(WorkOutcome::Complete)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let pool = PgPool::connect(&std::env::var("DATABASE_URL")?).await?;
    sqlx::raw_sql(TABLES).execute(&pool).await?;
    PostgresMigrator::new(pool.clone()).migrate_up().await?;

    let mut workers = Workers::new();
    workers.add::<Receipt, _>(Receipts { currency: "EUR", pool: pool.clone() })?;
    let client = Client::builder(pool.clone()).workers(workers).queue(QUEUE_DEFAULT, QueueConfig::new(10)).build()?;
    let mut running = client.start()?;

    let mut transaction = riverqueue::database::begin_postgres(&pool).await?;
    let order: i64 =
        sqlx::query_scalar("INSERT INTO orders DEFAULT VALUES RETURNING id").fetch_one(&mut *transaction).await?;
    let options = InsertOpts::default().with_max_attempts(5);
    client.insert(Receipt { order }).opts(options).tx(&mut transaction).await?;
    transaction.commit().await?;

    while sqlx::query("SELECT FROM receipts WHERE order_id = $1").bind(order).fetch_optional(&pool).await?.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running.stop().await?;
    println!("ok");
    Ok(())
}

const TABLES: &str = "CREATE TABLE IF NOT EXISTS orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY); \
                      CREATE TABLE IF NOT EXISTS receipts (order_id bigint, text text)";
