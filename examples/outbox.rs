//! A transactional outbox with axum: an order and its receipt's job are written in one transaction, so there is never
//! one without the other; and the handler writes the receipt in the transaction that completes the job, so there is
//! exactly one.
//!
//! ```text
//! DATABASE_URL=postgres://postgres@localhost/shop outbox
//! curl localhost:3000/orders -d '{"total": 1999}' -H 'content-type: application/json'
//! ```

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use job_worker::{Context, Db, EnqueueError, HandlerResult, Shutdown, SqlState, Task, Worker, enqueue, migrate};
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

/// Why there is no order. Each is answered in its own way.
enum Refusal {
    /// A field of the request is wrong: 422, and which.
    Field(&'static str, String),
    /// There is such an order already: 409.
    Exists,
    /// The database is away, restarts, or has no connection left: 503, and the client may try again.
    Unavailable(EnqueueError),
    /// Anything else is our fault: 500, and only the log says what it was.
    Internal(EnqueueError),
}

/// What the database says, of our own statements and of `enqueue`.
impl From<EnqueueError> for Refusal {
    fn from(error: EnqueueError) -> Self {
        match error.sql_state() {
            Some(state) if *state == SqlState::UNIQUE_VIOLATION && error.field().is_none() => Self::Exists,
            _ if error.is_transient() => Self::Unavailable(error),
            _ => Self::Internal(error),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, field, message) = match self {
            Self::Field(field, message) => (StatusCode::UNPROCESSABLE_ENTITY, Some(field), message),
            Self::Exists => (StatusCode::CONFLICT, None, "there is such an order already".to_owned()),
            Self::Unavailable(error) => {
                eprintln!("an order has to be tried again: {error:?}"); // `Debug` shows the causes, in one line
                (StatusCode::SERVICE_UNAVAILABLE, None, "try again in a moment".to_owned())
            }
            Self::Internal(error) => {
                eprintln!("an order failed: {error:?}");
                (StatusCode::INTERNAL_SERVER_ERROR, None, "something went wrong".to_owned())
            }
        };
        (status, Json(serde_json::json!({ "field": field, "error": message }))).into_response()
    }
}

/// `EnqueueError` takes the errors of the pool and of our own statements as well.
async fn place(db: &Db, order: &Order) -> Result<i64, EnqueueError> {
    let mut client = db.connection().await?;
    let transaction = client.transaction().await?;
    let row = transaction.query_one("INSERT INTO orders (total) VALUES ($1) RETURNING id", &[&order.total]).await?;
    let id: i64 = row.get(0);
    enqueue(&transaction, SendReceipt { order: id }).await?;
    transaction.commit().await?;
    Ok(id)
}

async fn orders(State(db): State<Db>, Json(order): Json<Order>) -> Result<Json<i64>, Refusal> {
    if order.total <= 0 {
        return Err(Refusal::Field("total", format!("is {}, and must be greater than 0", order.total)));
    }
    Ok(Json(place(&db, &order).await?))
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
