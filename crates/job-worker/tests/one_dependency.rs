//! What an application names of the API, it names through job-worker alone: beside it there is only serde here.

use std::time::Duration;

use job_testkit::TestDb;
use job_worker::config::{Gateway, HttpUrl, Secret, SslMode, parse_http_url};
use job_worker::deadpool_postgres::{Object, Transaction};
use job_worker::jiff::ToSpan;
use job_worker::testing::{Ran, RunDueError, SettleError, migrate_url};
use job_worker::tokio_postgres::{Row, types::ToSql};
use job_worker::{
    CallbackSecrets, Context, Db, DbError, EnqueueError, IntoJob, NotReady, Outcome, PostgresConfig, SqlState, Task,
    Timestamp, Worker, WorkerConfig, enqueue,
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Receipt {
    order: i64,
}

impl Task for Receipt {
    const IDENTIFIER: &'static str = "receipt";
}

async fn receipt(_: Receipt, _: Context) {}

/// An application's own transaction, in types of its own.
struct Shop {
    connection: Object,
}

impl Shop {
    async fn order(&mut self, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row, Option<SqlState>> {
        let transaction: Transaction<'_> = self.connection.transaction().await.map_err(state)?;
        let row = transaction.query_one("INSERT INTO orders VALUES ($1) RETURNING id, placed", parameters).await;
        let row = row.map_err(state)?;
        let job = Receipt { order: row.get(0) }.into_job().run_at(row.get::<_, Timestamp>(1) + 1.hour());
        let enqueued: Result<_, EnqueueError> = enqueue(&transaction, job).await;
        enqueued.map_err(|error| error.sql_state().cloned())?;
        transaction.commit().await.map_err(state)?;
        Ok(row)
    }
}

fn state(error: job_worker::tokio_postgres::Error) -> Option<SqlState> {
    error.code().cloned()
}

#[tokio::test]
async fn a_connection_its_errors_and_its_rows_have_names() {
    let postgres = TestDb::from_template("one_dependency", migrate_url).await;
    let db = Db::from_url(postgres.url()).unwrap();
    let connection = db.connection().await.unwrap();
    connection
        .batch_execute("CREATE TABLE orders (id bigint PRIMARY KEY, placed timestamptz DEFAULT now())")
        .await
        .unwrap();
    let mut shop = Shop { connection };
    assert_eq!(shop.order(&[&42_i64]).await.unwrap().get::<_, i64>(0), 42);
    assert_eq!(shop.order(&[&42_i64]).await.unwrap_err(), Some(SqlState::UNIQUE_VIOLATION));

    job_worker::testing::advance(&db, Duration::from_secs(3600)).await.unwrap();
    let ran: Result<Vec<Ran>, RunDueError> = Worker::builder(db).task(receipt).build().unwrap().run_due().await;
    assert_eq!(ran.map(|ran| ran[0].outcome.clone()).ok(), Some(Outcome::Complete));
}

#[tokio::test]
async fn what_is_missing_has_a_name() {
    fn of_settling(error: RunDueError) -> Option<SettleError> {
        if let RunDueError::Settle(error) = error { Some(error) } else { None }
    }
    let postgres = TestDb::empty().await;
    let db = Db::from_url(postgres.url()).unwrap();
    let missing: NotReady = db.ready().await.unwrap_err();
    assert!(matches!(missing, NotReady::Schema { .. }), "{missing:?}");
    let worker = Worker::builder(db).task(receipt).build().unwrap();
    let error = worker.run_due().await.unwrap_err();
    assert!(matches!(&error, RunDueError::Db(DbError::Query { .. })), "{error:?}");
    assert!(of_settling(error).is_none());
}

#[test]
fn every_setting_of_a_worker_can_be_made() {
    let mut postgres: PostgresConfig = PostgresConfig::from_url("postgres://localhost/shop").unwrap();
    postgres.password = Some(Secret::new("secret"));
    postgres.ssl_mode = SslMode::Require;
    let mut config = WorkerConfig::default();
    config.postgres = postgres;
    config.secrets = CallbackSecrets::new("a-secret-of-our-own");
    let base: HttpUrl = parse_http_url("http://functions:8080").unwrap();
    let gateway: &mut Gateway = &mut config.gateway;
    gateway.base = base;
    let db = Db::new(&config.postgres).unwrap();
    assert!(Worker::builder(db).config(config).dispatch_as_configured().build().is_ok());
}
