//! Who may create functions in a schema of the callers' search_path (public, on many servers) does not get them called:
//! by no function of the schema, no statement of the services, no migration.

use std::time::Duration;

use job_pg::{Db, NewJob, enqueue, enqueue_many};
use job_testkit::{Answer, FakeFunction, Signal, TestDb, eventually};

use super::support::{LIMIT, callback, migrated, program};

/// Overloads of PostgreSQL's own operators and functions that fit inexact calls better, and raise an error.
const TRAPS: &str = include_str!("traps.sql");

/// What operators and other services call.
const BY_HAND: &[&str] = &[
    "SELECT add_job('x', '{}', 'k', 'q'), add_job('6f4e8f4c-1bb0-4e83-9f5c-2f3a3f1f7c11'::uuid, 'x', '{}')",
    "SELECT add_jobs('[{\"identifier\": \"a\", \"payload\": {\"b\": \"\\u0000\"}}, {\"identifier\": \"a\", \"job_key\": \"j\"}]')",
    "SELECT enqueue('x', '{}', 'k', 'ignore'), enqueue_all('{x,y}', '{\"1\",\"2\"}', '{k,l}', '{ignore,preserve_run_at}')",
    "SELECT get_job('by-hand'), fail_job('by-hand', 1, 'no'), reschedule_jobs('{1}', attempts := 0, run_at := now())",
    "SELECT get_job('by-hand'), complete_job('by-hand', 1), release_jobs('by-hand'), force_unlock_workers('{by-hand}')",
    "SELECT permanently_fail_jobs('{2}'), complete_jobs('{2,3}'), remove_job('k'), set_max_payload(NULL)",
    "SELECT add_scheduled_job('x', '{}', '{\"rule\": \"61 * * * *\"}', 's'), run_scheduled_job(1)",
    "SELECT get_scheduled_job('by-hand'), release_scheduled_jobs('by-hand'); DELETE FROM scheduled_jobs; DELETE FROM jobs",
    // What is granted and not meant to be called by hand.
    "SELECT warn_operator('{1}', '{1}', '{1}'), warn_of_held_jobs('{1}'), id_batches('{1}'), positions_left(3, '{1}'), require_worker_id('by-hand')",
    "SELECT retry_at(now(), 1), waiter_lock(1), wake_workers(true), instance_lock(gen_random_uuid())",
    "SELECT enqueue_job(NULL, NULL, 'x', '{}', 'k', 'q', now(), 1, 1, NULL, NULL), waiter_horizon_passed(waiter_horizon())",
    "SELECT next_run_at(NULL, NULL, '1 h'), refuse_large_payload('jobs', 1); DELETE FROM jobs",
    "SELECT set_notify('on_demand')",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overloads_in_a_callers_search_path_are_never_called() {
    let db = TestDb::empty().await;
    let sql = db.connect().await;
    sql.batch_execute(TRAPS).await.unwrap();
    let trapped = sql.batch_execute("SELECT hashtextextended('x', 0)").await.unwrap_err();
    assert!(trapped.as_db_error().unwrap().message().starts_with("trapped: "), "{trapped:?}");

    migrated(db.url().to_owned()).await.unwrap();
    sql.batch_execute("UPDATE app_jobs.schema_state SET digest = ''").await.unwrap();
    migrated(db.url().to_owned()).await.unwrap();

    for statement in BY_HAND {
        // The schema comes last in the path: public's come before it, and so do the traps.
        let statement = format!("SET search_path = public, app_jobs, app_jobs_internal; {statement}");
        sql.batch_execute(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    sql.batch_execute("RESET search_path").await.unwrap();

    // As docs/roles.md says: a superuser would pass by what asks for rights.
    let role = format!("{}_runtime", db.name());
    sql.batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'runtime' IN ROLE jobs_runtime")).await.unwrap();
    let url = db.url_as(&role, "runtime");

    // The services and the library: jobs that are called back, fail, are too large to come with their claim; a
    // schedule; a stop.
    let function = FakeFunction::answering(Answer::accepted()).await;
    let (_, callback) = callback();
    let mut service = program()
        .env("DATABASE_URL", &url)
        .envs(callback)
        .env("KNATIVE_SERVICE_URL", function.url())
        .env("JOBS_LEASE", "3s")
        .spawn();
    service.wait_for_line("worker looks for jobs", LIMIT).await;
    service.wait_for_line("scheduler looks for schedules", LIMIT).await;
    let client = Db::builder(&url).build().unwrap();
    client.ready().await.unwrap();
    let large = serde_json::json!({ "text": "x".repeat(300_000) });
    enqueue(&client, NewJob::new("large", &large)).await.unwrap();
    enqueue_many(&client, [NewJob::raw("many", "1").queue("q"), NewJob::raw("many", "2").queue("q").key("k")])
        .await
        .unwrap();
    sql.batch_execute("SELECT app_jobs.add_scheduled_job('tick', '{}', '{\"rule\": \"* * * * * *\"}', 'tick')")
        .await
        .unwrap();
    for n in 0..5 {
        let request = function.wait_for(n + 1, LIMIT).await.remove(n);
        assert_eq!(request.call_back().await.0, 200);
    }
    sql.batch_execute("DELETE FROM app_jobs.scheduled_jobs").await.unwrap();
    let heartbeats = "SELECT count(*) FROM app_jobs.workers WHERE heartbeat_at > started_at + interval '2 s'";
    eventually(LIMIT, async || sql.query_one(heartbeats, &[]).await.unwrap().get::<_, i64>(0) == 1).await;
    service.signal(Signal::Term);
    assert_eq!(service.exit_code(Duration::from_secs(30)).await, 0, "{}", service.output());
    drop(client);
    eventually(LIMIT, async || sql.batch_execute(&format!("DROP ROLE {role}")).await.is_ok()).await;
    for bad in ["trapped", "does not exist", "not unique", "ERROR"] {
        assert!(!service.output().contains(bad), "{bad}: {}", service.output());
    }
}
