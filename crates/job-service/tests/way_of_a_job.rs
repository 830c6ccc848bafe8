//! The way of a job, walked with real processes: enqueued by SQL, claimed, dispatched to a function, called back, gone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a helper of a test fails its test")]

use std::time::Duration;

use job_testkit::cluster::free_port;
use job_testkit::process::Program;
use job_testkit::{Answer, FakeFunction, Process, TestDb, eventually, eventually_some};
use serde_json::json;
use tokio_postgres::Client;

/// Long enough for a busy machine; nothing waits for it when all goes well.
const LIMIT: Duration = Duration::from_secs(30);

/// A database with the jobs schema, made as an operator makes it.
async fn migrated() -> (TestDb, Client) {
    let db = TestDb::empty().await;
    let mut migrate = Program::at(env!("CARGO_BIN_EXE_job-service")).arg("migrate").envs(db.direct_env()).spawn();
    assert_eq!(migrate.exit_code(LIMIT).await, 0, "{}", migrate.output());
    let sql = db.connect().await;
    (db, sql)
}

/// The service, with one function for every task. It polls once an hour: notifications have to do.
fn service(db: &TestDb, function: &FakeFunction) -> Process {
    let port = free_port().unwrap().to_string();
    Program::at(env!("CARGO_BIN_EXE_job-service"))
        .envs(db.env())
        .env("HOSTNAME", "knative-job-service-1")
        .env("KNATIVE_SERVICE_URL", function.url())
        .env("INTERNAL_JOBS_CALLBACK_URL", format!("http://127.0.0.1:{port}"))
        .env("INTERNAL_JOBS_CALLBACK_PORT", &port)
        .env("JOBS_POLL_INTERVAL", "1h")
        .spawn()
}

async fn jobs(sql: &Client) -> i64 {
    sql.query_one("SELECT count(*) FROM app_jobs.jobs", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_job_goes_from_sql_to_its_function_and_is_gone_after_the_callback() {
    let (db, sql) = migrated().await;
    // An existing function: it accepts with an answer that says nothing, and calls back later.
    let function = FakeFunction::answering(Answer::accepted()).await;
    let mut service = service(&db, &function);
    service.wait_for_line("worker looks for jobs", LIMIT).await;

    // db/enqueue: an application adds a job, in its own transaction, for a tenant.
    sql.batch_execute(
        "BEGIN;
         SELECT set_config('jwt.claims.database_id', '6f4e8f4c-1bb0-4e83-9f5c-2f3a3f1f7c11', true);
         SELECT app_jobs.add_job('greet', '{\"name\": \"Ada\", \"id\": 9007199254740993}');
         COMMIT",
    )
    .await
    .unwrap();

    // job-worker/wake, claim, dispatch: the function gets the payload as it was written.
    let request = function.wait_for(1, LIMIT).await.remove(0);
    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/greet"));
    assert_eq!(request.text(), r#"{"name": "Ada", "id": 9007199254740993}"#);
    assert_eq!(request.header("x-worker-id"), Some("knative-job-service-1"));
    assert_eq!(request.header("x-database-id"), Some("6f4e8f4c-1bb0-4e83-9f5c-2f3a3f1f7c11"));

    // The job is accepted: it stays, held by the worker.
    service.wait_for_line("job accepted", LIMIT).await;
    let row = "SELECT locked_by, attempts, id::text FROM app_jobs.jobs WHERE locked_at IS NOT NULL";
    let row = sql.query_one(row, &[]).await.unwrap();
    let (locked_by, attempts, id): (String, i32, String) = (row.get(0), row.get(1), row.get(2));
    assert_eq!((locked_by.as_str(), attempts), ("knative-job-service-1", 1));
    assert_eq!(request.header("x-job-id"), Some(id.as_str()));

    // job-fn/callback, job-server/callback, db/complete: the function reports, and the row is gone.
    let (status, body) = request.call_back().await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, body), (200, json!({"workerId": "knative-job-service-1", "jobId": id})));
    assert_eq!(jobs(&sql).await, 0);
    assert_eq!(function.requests().len(), 1);
}

#[tokio::test]
async fn a_job_that_its_function_completes_in_the_answer_is_gone_at_once() {
    let (db, sql) = migrated().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let _service = service(&db, &function);
    sql.batch_execute("SELECT app_jobs.add_job('greet')").await.unwrap();
    eventually(LIMIT, async || jobs(&sql).await == 0).await;
    assert_eq!(function.requests().len(), 1);
}

#[tokio::test]
async fn a_job_that_fails_shows_why_and_is_tried_again_until_it_works() {
    let (db, sql) = migrated().await;
    // The first attempt throws, as knative-job-fn tells it: an answer with X-Job-Error, and a callback with the
    // message.
    let function = FakeFunction::start(async |request| {
        if request.json()["broken"] == json!(true) {
            assert_eq!(request.call_back_error("the printer is on fire").await.0, 200);
            return Answer::json(200, &json!({"message": "the printer is on fire"})).header("X-Job-Error", "true");
        }
        Answer::complete()
    })
    .await;
    let _service = service(&db, &function);
    sql.batch_execute("SELECT app_jobs.add_job('print', '{\"broken\": true}')").await.unwrap();
    let row = "SELECT last_error, attempts, run_at > now() FROM app_jobs.jobs \
               WHERE locked_at IS NULL AND last_error IS NOT NULL";
    let row = eventually_some(LIMIT, async || sql.query_opt(row, &[]).await.unwrap()).await;
    let (last_error, attempts, later): (String, i32, bool) = (row.get(0), row.get(1), row.get(2));
    assert_eq!((last_error.as_str(), attempts, later), ("the printer is on fire", 1, true));

    // An operator mends the payload; the retry, e seconds after the failure, works.
    sql.batch_execute("UPDATE app_jobs.jobs SET payload = '{}'").await.unwrap();
    eventually(LIMIT, async || jobs(&sql).await == 0).await;
    assert_eq!(function.requests().len(), 2);
}
