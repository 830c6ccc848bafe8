//! A transactional outbox with axum: an order and its receipt's job are written in one transaction, so there is never one without
//! the other; and the handler writes the receipt in the transaction that completes the job, so there is exactly one.
//!
//! ```text
//! DATABASE_URL=postgres://postgres@localhost/shop outbox
//! curl localhost:3000/orders -d '{"total": 1999}' -H 'content-type: application/json'
//! ```

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use job_worker::{Context, Db, HandlerResult, Shutdown, Task, Worker, enqueue, migrate};
use serde::{Deserialize, Serialize};

const TABLES: &str = "CREATE TABLE IF NOT EXISTS orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, total int CHECK (total > 0)); \
                      CREATE TABLE IF NOT EXISTS receipts (order_id bigint REFERENCES orders, text text)";

#[derive(Serialize, Deserialize)]
struct SendReceipt {
    order: i64,
}

impl Task for SendReceipt {
    const IDENTIFIER: &'static str = "receipt:send";
}

#[derive(Deserialize)]
struct Order {
    total: i32,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn place(db: &Db, order: &Order) -> Result<i64, BoxError> {
    let mut client = db.connection().await?;
    let transaction = client.transaction().await?;
    let row = transaction.query_one("INSERT INTO orders (total) VALUES ($1) RETURNING id", &[&order.total]).await?;
    let id: i64 = row.get(0);
    enqueue(&transaction, SendReceipt { order: id }).await?;
    transaction.commit().await?;
    Ok(id)
}

async fn orders(State(db): State<Db>, Json(order): Json<Order>) -> Result<Json<i64>, (StatusCode, String)> {
    place(&db, &order).await.map(Json).map_err(|error| (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))
}

async fn send_receipt(job: SendReceipt, context: Context) -> HandlerResult {
    context
        .transaction(async |transaction| {
            let sql = "INSERT INTO receipts SELECT id, 'paid: ' || total FROM orders WHERE id = $1";
            transaction.execute(sql, &[&job.order]).await?;
            Ok(())
        })
        .await
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let db = Db::from_env()?;
    migrate(&db).await?;
    db.connection().await?.batch_execute(TABLES).await?;
    let shutdown = Shutdown::on_signals()?;
    let worker = tokio::spawn(Worker::builder(db.clone()).task(send_receipt).build()?.run(shutdown.clone()));

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("http://{}/orders", listener.local_addr()?);
    let app = Router::new().route("/orders", post(orders)).with_state(db);
    axum::serve(listener, app).with_graceful_shutdown(async move { shutdown.triggered().await }).await?;
    worker.await??;
    Ok(())
}
