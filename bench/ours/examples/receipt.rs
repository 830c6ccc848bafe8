//! The program of docs/library.md: an order and its receipt's job in one transaction; the handler gets the
//! application's state, writes the receipt, has 30 s and 5 attempts, 10 at once; the worker stops in order.

use std::time::Duration;

use anyhow::Result;
use job_worker::{Context, Db, HandlerResult, Retry, Shutdown, Task, TaskOptions, Worker, enqueue, migrate};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Receipt {
    order: i64,
}

impl Task for Receipt {
    const IDENTIFIER: &'static str = "receipt";
}

struct Shop {
    currency: &'static str,
}

async fn receipt(job: Receipt, context: Context<Shop>) -> HandlerResult {
    let text = format!("paid in {}", context.state().currency);
    context
        .transaction(async |transaction| {
            transaction.execute("INSERT INTO receipts VALUES ($1, $2)", &[&job.order, &text]).await?;
            Ok(())
        })
        .await
}

#[tokio::main]
async fn main() -> Result<()> {
    let db = Db::from_env()?;
    migrate(&db).await?;
    let mut client = db.connection().await?;
    client.batch_execute(TABLES).await?;

    let options = TaskOptions::new()
        .concurrency(10)
        .timeout(Duration::from_secs(30))
        .retry(Retry::fixed(Duration::from_secs(5)).max_attempts(5));
    let worker = Worker::builder(db).state(Shop { currency: "EUR" }).task_with(options, receipt).build()?;
    let shutdown = Shutdown::new();
    let running = tokio::spawn(worker.run(shutdown.clone()));

    let transaction = client.transaction().await?;
    let order: i64 = transaction.query_one("INSERT INTO orders DEFAULT VALUES RETURNING id", &[]).await?.get(0);
    enqueue(&transaction, Receipt { order }).await?;
    transaction.commit().await?;

    while client.query_opt("SELECT FROM receipts WHERE order_id = $1", &[&order]).await?.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    shutdown.trigger();
    running.await??;
    println!("ok");
    Ok(())
}

const TABLES: &str = "CREATE TABLE IF NOT EXISTS orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY); \
                      CREATE TABLE IF NOT EXISTS receipts (order_id bigint, text text)";
