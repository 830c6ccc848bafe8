//! The SQL of the README and of the pages in docs/ runs as written; their Rust is compiled as doc tests of this crate.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails its test")]

use job_pg::config::PostgresConfig;
use job_pg::{Db, migrate::migrate};
use job_testkit::TestDb;
use job_utils::config::Reader;
use tokio_postgres::Client;

const README: &str = include_str!("../../../README.md");
const LIBRARY: &str = include_str!("../../../docs/library.md");
const ENQUEUE: &str = include_str!("../../../docs/enqueue.md");
const GATES: &str = include_str!("../../../docs/gates.md");
const OPERATIONS: &str = include_str!("../../../docs/operations.md");

/// The contents of a page's code blocks in `language`.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let opening = format!("```{language}\n");
    page.split(&opening).skip(1).filter_map(|rest| rest.split_once("```")).map(|(code, _)| code.to_owned()).collect()
}

/// Runs every block of SQL of a page, each by itself.
async fn run_sql(client: &Client, page: &str) {
    let sql = blocks(page, "sql");
    assert!(!sql.is_empty(), "the page shows no SQL");
    for block in &sql {
        client.batch_execute(block).await.unwrap_or_else(|error| panic!("{error:?}\n{block}"));
    }
}

async fn migrated() -> TestDb {
    let test_db = TestDb::empty().await;
    let env: std::collections::HashMap<String, String> = test_db.direct_env().into_iter().collect();
    let mut reader = Reader::new(&env);
    let config = PostgresConfig::read(&mut reader);
    let db = Db::new(&reader.finish(config).unwrap()).unwrap();
    migrate(&db).await.unwrap();
    test_db
}

#[tokio::test]
async fn the_page_on_the_library_shows_sql_that_runs_and_the_sqlx_that_is_tested() {
    let test_db = migrated().await;
    let client = test_db.connect().await;
    run_sql(&client, LIBRARY).await;
    let jobs = "SELECT string_agg(concat_ws('/', key, payload, queue_name), ' ' ORDER BY id) FROM app_jobs.jobs";
    let jobs: String = client.query_one(jobs, &[]).await.unwrap().get(0);
    let expected = r#"receipt-42/{"order": 42}/mail receipt-1/{"order": 1} receipt-2/{"order": 2}"#;
    assert_eq!(jobs, expected);

    let tested = include_str!("../../../bench/ours/examples/sqlx.rs");
    let shown = blocks(LIBRARY, "rust,ignore");
    assert_eq!(shown.len(), 1);
    for line in shown[0].lines() {
        assert!(tested.lines().any(|tested| tested == line), "sqlx.rs has no line {line:?}");
    }
}

#[tokio::test]
async fn the_readme_enqueues_a_job_and_looks_at_it() {
    let test_db = migrated().await;
    let client = test_db.connect().await;
    run_sql(&client, README).await;
    let jobs = "SELECT string_agg(task_identifier || payload::text, ' ') FROM app_jobs.jobs";
    let jobs: String = client.query_one(jobs, &[]).await.unwrap().get(0);
    assert_eq!(jobs, r#"greet{"name": "Ada"}"#);
}

#[tokio::test]
async fn the_page_for_operators_changes_the_jobs_and_the_schedule_that_it_names() {
    let test_db = migrated().await;
    let client = test_db.connect().await;
    // Jobs with the ids, the key and the worker of the page.
    let jobs = r#"SELECT app_jobs.add_job('report') FROM generate_series(1, 5);
                  SELECT app_jobs.add_job('report', job_key := 'invoice-42');
                  UPDATE app_jobs.jobs SET attempts = max_attempts, last_error = 'no' WHERE id IN (1, 2);
                  UPDATE app_jobs.jobs SET locked_at = now(), locked_by = 'worker-0' WHERE id = 5;
                  SELECT app_jobs.add_job('held');
                  UPDATE app_jobs.jobs SET locked_at = now(), locked_by = 'worker-9' WHERE task_identifier = 'held';
                  SELECT app_jobs.add_job('report') FROM generate_series(8, 9);
                  SELECT app_jobs.add_scheduled_job('report', '{}', '@daily', job_key := 'nightly')"#;
    client.batch_execute(jobs).await.unwrap();
    run_sql(&client, OPERATIONS).await;
    let jobs =
        "SELECT string_agg(concat_ws('/', id, attempts, last_error, locked_by), ' ' ORDER BY id) FROM app_jobs.jobs";
    let jobs: String = client.query_one(jobs, &[]).await.unwrap().get(0);
    assert_eq!(jobs, "1/0/no 2/0/no 3/25/superseded by hand 5/0 7/0");
    let schedules = client.query_one("SELECT count(*) FROM app_jobs.scheduled_jobs", &[]).await.unwrap();
    assert_eq!(schedules.get::<_, i64>(0), 0, "the page says how to remove one");
}

#[tokio::test]
async fn the_page_on_enqueueing_makes_the_jobs_and_schedules_that_it_shows() {
    let test_db = migrated().await;
    let client = test_db.connect().await;
    run_sql(&client, ENQUEUE).await;

    let job = "SELECT key, queue_name, max_attempts, priority FROM app_jobs.jobs WHERE task_identifier ~ '^email:'";
    let job = client.query_one(job, &[]).await.unwrap();
    let (key, queue, attempts, priority): (String, String, i32, i32) = (job.get(0), job.get(1), job.get(2), job.get(3));
    assert_eq!((key.as_str(), queue.as_str(), attempts, priority), ("reset-42", "mail", 5, -1));
    let many = "SELECT string_agg(payload ->> 'page' || '/' || priority, ' ' ORDER BY id) FROM app_jobs.jobs \
                WHERE task_identifier = 'report'";
    assert_eq!(client.query_one(many, &[]).await.unwrap().get::<_, String>(0), "1/0 2/5");
    let schedules: i64 = client.query_one("SELECT count(*) FROM app_jobs.scheduled_jobs", &[]).await.unwrap().get(0);
    assert_eq!(schedules, 2);

    client.batch_execute("INSERT INTO orders VALUES (9007199254740993, 1)").await.unwrap();
    let payload: String = client
        .query_one("SELECT payload::text FROM app_jobs.jobs WHERE task_identifier = 'order:placed'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(payload, r#"{"id" : 9007199254740993}"#);
}

#[tokio::test]
async fn the_page_on_gates_sets_what_it_shows() {
    let test_db = migrated().await;
    let client = test_db.connect().await;
    run_sql(&client, GATES).await;
    let gates = "SELECT string_agg(concat_ws('/', kind, name, max_running, rate, per, burst, paused_at, fair, weight), \
                 ' ' ORDER BY kind, name) FROM app_jobs.gates";
    let gates: String = client.query_one(gates, &[]).await.unwrap().get(0);
    assert_eq!(
        gates,
        "host/http://functions:8080/50 queue/import/3 task/mail/100/00:00:01/20 tenant/*/10/t \
         tenant/d1f0c7a2-5b7e-4f6e-9a55-0c1d2e3f4a5b/3"
    );
}

const SCALED_OBJECT: &str = include_str!("../../../deploy/kubernetes/components/keda/scaled-object.yaml");

#[tokio::test]
async fn the_query_that_scales_workers_counts_what_could_run_now() {
    let test_db = TestDb::empty().await;
    let env: std::collections::HashMap<String, String> = test_db.direct_env().into_iter().collect();
    let mut reader = Reader::new(&env);
    let config = PostgresConfig::read(&mut reader);
    let db = Db::new(&reader.finish(config).unwrap()).unwrap();
    let _ = migrate(&db).await.unwrap();
    let client = test_db.connect().await;
    let jobs = "SELECT app_jobs.add_job('email:send_email') FROM generate_series(1, 3);
                SELECT app_jobs.add_job('email:send_email', queue_name := 'one by one') FROM generate_series(1, 10);
                SELECT app_jobs.add_job('somebody:elses') FROM generate_series(1, 5);
                SELECT app_jobs.add_job('email:send_email', run_at := now() + interval '1 hour');
                SELECT app_jobs.add_job('email:send_email', job_key := 'running');
                UPDATE app_jobs.jobs SET locked_at = now(), locked_by = 'somebody' WHERE key = 'running';
                SELECT app_jobs.add_job('email:send_email', job_key := 'exhausted');
                UPDATE app_jobs.jobs SET attempts = max_attempts WHERE key = 'exhausted'";
    client.batch_execute(jobs).await.unwrap();
    let (_, query) = SCALED_OBJECT.split_once("query: >-\n").unwrap();
    let (query, _) = query.split_once("targetQueryValue").unwrap();
    // The login that the manifest gives KEDA is in this role.
    client.batch_execute("SET ROLE jobs_runtime").await.unwrap();
    // Three, and of the named queue one.
    assert_eq!(client.query_one(query, &[]).await.unwrap().get::<_, i64>(0), 4);
}

#[test]
fn the_comparison_counts_the_lines_of_the_programs_that_there_are() {
    let programs = [
        include_str!("../../../bench/ours/examples/receipt.rs"),
        include_str!("../../../bench/graphile_worker/examples/receipt.rs"),
        include_str!("../../../bench/apalis-postgres/examples/receipt.rs"),
        include_str!("../../../bench/riverqueue/examples/receipt.rs"),
        include_str!("../../../bench/awa/examples/receipt.rs"),
    ];
    let counts = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
    let lines: Vec<String> = programs.iter().map(|code| code.lines().filter(counts).count().to_string()).collect();
    let row = format!("| lines of the program | {} |", lines.join(" | "));
    assert!(LIBRARY.contains(&row), "it should say: {row}");
}
