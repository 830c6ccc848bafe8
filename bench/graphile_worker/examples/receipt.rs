//! The program of docs/library.md with graphile_worker. Its attempts and their number are set where a job is enqueued;
//! there is no time limit, and no limit for a single task.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use graphile_worker::{Database, IntoTaskHandlerResult, JobSpec, TaskHandler, WorkerContext, WorkerOptions};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

#[derive(Serialize, Deserialize)]
struct Receipt {
    order: i64,
}

#[derive(Clone, Debug)]
struct Shop {
    currency: &'static str,
    pool: PgPool,
}

impl TaskHandler for Receipt {
    const IDENTIFIER: &'static str = "receipt";

    async fn run(self, context: WorkerContext) -> impl IntoTaskHandlerResult {
        let shop = context.get_ext::<Shop>().ok_or("no state")?;
        let text = format!("paid in {}", shop.currency);
        // Not with the end of the job: after a crash in between the receipt is written again.
        let insert = sqlx::query("INSERT INTO receipts VALUES ($1, $2)").bind(self.order).bind(text);
        insert.execute(&shop.pool).await.map_err(|error| error.to_string())?;
        Ok::<(), String>(())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let pool = PgPool::connect(&std::env::var("DATABASE_URL")?).await?;
    sqlx::raw_sql(TABLES).execute(&pool).await?;

    let worker = WorkerOptions::default()
        .database(Database::from(pool.clone()))
        .schema("graphile_worker")
        .concurrency(10)
        .listen_os_shutdown_signals(false)
        .add_extension(Shop { currency: "EUR", pool: pool.clone() })
        .define_job::<Receipt>()
        .init()
        .await?;
    let worker = Arc::new(worker);
    let running = tokio::spawn({
        let worker = worker.clone();
        async move { worker.run().await }
    });

    let mut transaction = pool.begin().await?;
    let order: i64 =
        sqlx::query_scalar("INSERT INTO orders DEFAULT VALUES RETURNING id").fetch_one(&mut *transaction).await?;
    let spec = JobSpec { max_attempts: Some(5), ..JobSpec::default() };
    worker.create_utils().with_executor(&mut transaction).add_job(Receipt { order }, spec).await?;
    transaction.commit().await?;

    while sqlx::query("SELECT FROM receipts WHERE order_id = $1").bind(order).fetch_optional(&pool).await?.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    worker.request_shutdown();
    running.await??;
    println!("ok");
    Ok(())
}

const TABLES: &str = "CREATE TABLE IF NOT EXISTS orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY); \
                      CREATE TABLE IF NOT EXISTS receipts (order_id bigint, text text)";
