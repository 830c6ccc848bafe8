//! The way of a schedule, walked with real processes: added by SQL, watched by the scheduler, made into a job whenever
//! it is due; the job goes its way to the function and is gone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a helper of a test fails its test")]

use std::time::Duration;

use job_testkit::cluster::free_port;
use job_testkit::process::Program;
use job_testkit::{Answer, FakeFunction, Process, Signal, TestDb, eventually};
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
    Program::at(env!("CARGO_BIN_EXE_job-service"))
        .envs(db.env())
        .env("HOSTNAME", "knative-job-service-1")
        .env("KNATIVE_SERVICE_URL", function.url())
        .env("INTERNAL_JOBS_CALLBACK_PORT", free_port().unwrap().to_string())
        .env("JOBS_POLL_INTERVAL", "1h")
        .spawn()
}

#[tokio::test]
async fn a_schedule_makes_a_job_every_second_until_it_is_deleted() {
    let (db, sql) = migrated().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let mut service = service(&db, &function);
    service.wait_for_line("scheduler looks for schedules", LIMIT).await;

    // db/schedule: a rule, from now until tomorrow, for a tenant.
    sql.batch_execute(
        "BEGIN;
         SELECT set_config('jwt.claims.database_id', '6f4e8f4c-1bb0-4e83-9f5c-2f3a3f1f7c11', true);
         SELECT app_jobs.add_scheduled_job(
             identifier := 'tick',
             payload := json_build_object('foo', 'bar'),
             schedule_info := json_build_object(
                 'start', now(), 'end', now() + '1 day'::interval, 'rule', '* * * * * *'));
         COMMIT",
    )
    .await
    .unwrap();

    // job-scheduler/claim: the service watches it, under its own name.
    let watched = "SELECT count(*) FROM app_jobs.scheduled_jobs WHERE locked_by = 'knative-job-service-1'";
    eventually(LIMIT, async || sql.query_one(watched, &[]).await.unwrap().get::<_, i64>(0) == 1).await;

    // job-scheduler/timetable, materialise: a job each second, dispatched like any other.
    let requests = function.wait_for(3, LIMIT).await;
    for request in &requests {
        assert_eq!(request.target, "/tick");
        assert_eq!(request.text(), r#"{"foo" : "bar"}"#);
        assert_eq!(request.header("x-database-id"), Some("6f4e8f4c-1bb0-4e83-9f5c-2f3a3f1f7c11"));
    }
    let mut ids: Vec<_> = requests.iter().map(|request| request.header("x-job-id")).collect();
    ids.dedup();
    assert_eq!(ids.len(), requests.len(), "each fire is a job of its own");
    let between = requests[2].at - requests[1].at;
    assert!(between > Duration::from_millis(500) && between < Duration::from_secs(3), "{between:?}");
    let last = "SELECT count(*) FROM app_jobs.scheduled_jobs \
                WHERE last_scheduled > now() - interval '1 minute' AND last_scheduled_id IS NOT NULL";
    assert_eq!(sql.query_one(last, &[]).await.unwrap().get::<_, i64>(0), 1);

    // Deleted, it fires no more: a schedule added after it fires three times while the first is silent.
    sql.batch_execute("DELETE FROM app_jobs.scheduled_jobs").await.unwrap();
    let add = "SELECT app_jobs.add_scheduled_job('tock', '{}', '{\"rule\": \"* * * * * *\"}'::json)";
    sql.batch_execute(add).await.unwrap();
    let tocks = async || function.requests().iter().filter(|request| request.target == "/tock").count();
    eventually(LIMIT, async || tocks().await >= 1).await;
    let ticks = || function.requests().iter().filter(|request| request.target == "/tick").count();
    let before = ticks();
    eventually(LIMIT, async || tocks().await >= 3).await;
    assert_eq!(ticks(), before);

    // A stop gives the schedule back for the next scheduler.
    service.signal(Signal::Term);
    assert_eq!(service.exit_code(LIMIT).await, 0);
    let free = "SELECT count(*) FROM app_jobs.scheduled_jobs WHERE locked_at IS NULL AND locked_by IS NULL";
    assert_eq!(sql.query_one(free, &[]).await.unwrap().get::<_, i64>(0), 1);
}
