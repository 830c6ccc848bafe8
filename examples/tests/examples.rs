//! Every example runs, and does what it says.

use std::time::Duration;

use job_service::{Db, NewJob, ServerConfig, Service, Shutdown, Worker, enqueue, migrate};
use job_testkit::process::{Process, Program};
use job_testkit::{Signal, TestDb, eventually};
use tokio_postgres::Client;

const LIMIT: Duration = Duration::from_secs(30);

/// An example on an empty database.
async fn start(path: &str, more: &[(&str, &str)]) -> (TestDb, Process) {
    let db = TestDb::empty().await;
    let process = Program::at(path).env("DATABASE_URL", db.url()).envs(more.iter().copied()).spawn();
    (db, process)
}

async fn stop(mut process: Process) {
    process.signal(Signal::Term);
    assert_eq!(process.exit_code(LIMIT).await, 0, "{}", process.output());
}

async fn count(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

const JOBS: &str = "SELECT count(*) FROM app_jobs.jobs";

#[tokio::test]
async fn quickstart() {
    let (db, mut process) = start(env!("CARGO_BIN_EXE_quickstart"), &[]).await;
    process.wait_for_line("hello Ada, attempt 1", LIMIT).await;
    let client = db.connect().await;
    eventually(LIMIT, async || count(&client, JOBS).await == 0).await;
    stop(process).await;
}

#[test]
fn quickstart_has_twenty_lines_of_code_and_is_in_the_readmes() {
    let quickstart = include_str!("../quickstart.rs");
    let (about, program) = quickstart.split_once("\n\n").unwrap();
    assert!(about.starts_with("//!"));
    assert!(program.lines().filter(|line| !line.is_empty()).count() <= 20);
    let shown = format!("```rust,no_run\n{program}```");
    let (workspace, worker) = (include_str!("../../README.md"), include_str!("../../crates/job-worker/README.md"));
    assert!(workspace.contains(&shown));
    assert!(worker.contains(&shown));
    // `cargo xtask ci` follows what the workspace's says to a program that runs.
    let (_, section) = workspace.split_once("## As a Rust library").unwrap();
    let (additions, _) = section.split_once("```rust").unwrap();
    let additions: Vec<&str> = additions.lines().filter(|line| line.starts_with("cargo add ")).collect();
    assert_eq!(additions.len(), 3);
    for addition in additions {
        assert!(worker.contains(addition), "the README of job-worker should say: {addition}");
    }
}

#[tokio::test]
async fn outbox() {
    let (db, mut process) = start(env!("CARGO_BIN_EXE_outbox"), &[("PORT", "0")]).await;
    let url = process.wait_for_line("http://", LIMIT).await;
    let http = reqwest::Client::new();
    let order = async |total: i32| {
        let order = serde_json::json!({ "total": total });
        http.post(url.trim()).json(&order).send().await.unwrap().status().as_u16()
    };
    let client = db.connect().await;
    // Two orders alike are refused by the commit, when the job of the second has been enqueued.
    client.batch_execute("ALTER TABLE orders ADD UNIQUE (total) DEFERRABLE INITIALLY DEFERRED").await.unwrap();
    let receipts = "SELECT count(*) FROM receipts";
    assert_eq!(order(1999).await, 200);
    eventually(LIMIT, async || count(&client, receipts).await == 1).await;
    assert_eq!(count(&client, JOBS).await, 0, "the receipt and the end of its job are one commit");
    assert_eq!(order(1999).await, 409);
    let made = "SELECT last_value FROM app_jobs.jobs_id_seq";
    assert_eq!(count(&client, made).await, 2, "its job was enqueued");
    assert_eq!(count(&client, JOBS).await, 0, "and is gone with the order");
    assert_eq!(order(2000).await, 200);
    eventually(LIMIT, async || count(&client, receipts).await == 2).await;
    let paid = "SELECT count(*) FROM receipts WHERE text IN ('paid: 1999', 'paid: 2000')";
    assert_eq!(count(&client, paid).await, 2, "a receipt an order");
    stop(process).await;
}

#[tokio::test]
async fn outbox_answers_by_whose_fault_it_is() {
    let (db, mut process) = start(env!("CARGO_BIN_EXE_outbox"), &[("PORT", "0")]).await;
    let url = process.wait_for_line("http://", LIMIT).await;
    let http = reqwest::Client::new();
    let order = async |body: &str| {
        let request = http.post(url.trim()).header("content-type", "application/json").body(body.to_owned());
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (status, said) = order(r#"{"total": 0}"#).await;
    let told: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((status, told["field"].as_str()), (422, Some("total")), "{said}");
    let (status, said) = order("{}").await;
    assert!(status == 422 && said.contains("total"), "{status} {said}");

    // What is wrong in here is told in the log alone.
    let client = db.connect().await;
    client
        .batch_execute(
            "ALTER TABLE orders RENAME TO orders_of_old; CREATE VIEW orders AS SELECT 1 / 0 AS id, 1 AS total",
        )
        .await
        .unwrap();
    let (status, said) = order(r#"{"total": 1}"#).await;
    assert!(status == 500 && !said.contains("view"), "{status} {said}");
    process.wait_for_line("an order failed: a statement failed: ", LIMIT).await;
    client.batch_execute("DROP VIEW orders; ALTER TABLE orders_of_old RENAME TO orders").await.unwrap();

    // The database takes no connections for a while, and ends those that there are.
    let admin = job_testkit::postgres::connect(&db.url().replace(db.name(), "postgres")).await;
    let allow = async |yes: bool| {
        let sql = format!("ALTER DATABASE {} ALLOW_CONNECTIONS {yes}", db.name());
        admin.batch_execute(&sql).await.unwrap();
    };
    allow(false).await;
    let end = format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{}'", db.name());
    admin.query(&end, &[]).await.unwrap();
    let (status, said) = order(r#"{"total": 1}"#).await;
    assert!(status == 503 && said.contains("try again"), "{status} {said}");
    allow(true).await;
    eventually(LIMIT, async || order(r#"{"total": 1}"#).await.0 == 200).await;
    stop(process).await;
}

#[tokio::test]
async fn function() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut process = Program::at(env!("CARGO_BIN_EXE_function")).env("PORT", port.to_string()).spawn();
    let http = reqwest::Client::new();
    let call = async |body: &'static str| {
        let answer = http.post(format!("http://127.0.0.1:{port}/greet")).body(body).send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.unwrap()))
    };
    eventually(LIMIT, async || call(r#"{"name": "Ada"}"#).await.is_some()).await;
    assert_eq!(call(r#"{"name": "Ada"}"#).await, Some((200, r#"{"complete":true}"#.to_owned())));
    assert_eq!(call(r#"{"name": ""}"#).await.unwrap().0, 400);

    // A worker dispatches to it: the answer ends the job, or says what is wrong.
    let postgres = TestDb::empty().await;
    let db = Db::from_url(postgres.url()).unwrap();
    migrate(&db).await.unwrap();
    let functions = format!("http://127.0.0.1:{port}");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let callbacks = format!("http://{}", listener.local_addr().unwrap());
    let worker = Worker::builder(db.clone()).dispatch(&functions, &callbacks).build().unwrap();
    let service = Service::builder(db.clone()).worker(worker).server_on(ServerConfig::default(), listener).build();
    let shutdown = Shutdown::new();
    let running = tokio::spawn(service.run(shutdown.clone()));
    let greet = |name: &str| NewJob::new("greet", &serde_json::json!({ "name": name }));
    let bob = enqueue(&db, greet("Bob")).await.unwrap().id;
    process.wait_for_line(&format!("hello Bob, job Some(\"{bob}\")"), LIMIT).await;
    let client = postgres.connect().await;
    eventually(LIMIT, async || count(&client, JOBS).await == 0).await;
    enqueue(&db, greet("")).await.unwrap();
    let refused =
        "SELECT count(*) FROM app_jobs.jobs WHERE attempts = 1 AND last_error LIKE '%Missing required field ''name''%'";
    eventually(LIMIT, async || count(&client, refused).await == 1).await;
    // First the function, which calls back beside its answer.
    stop(process).await;
    shutdown.trigger();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn cron() {
    let (db, mut process) = start(env!("CARGO_BIN_EXE_cron"), &[("RULE", "* * * * * *")]).await;
    process.wait_for_line("older than 30 days", LIMIT).await;
    stop(process).await;
    // Said again, it is the same schedule.
    let mut again = Program::at(env!("CARGO_BIN_EXE_cron"));
    again = again.env("DATABASE_URL", db.url()).env("RULE", "*/1 * * * * *");
    let mut process = again.spawn();
    process.wait_for_line("older than 30 days", LIMIT).await;
    let client = db.connect().await;
    assert_eq!(count(&client, "SELECT count(*) FROM app_jobs.scheduled_jobs").await, 1);
    stop(process).await;
}

#[tokio::test]
async fn from_graphile_worker() {
    let db = TestDb::empty().await;
    let client = db.connect().await;
    // Its tables, as far as the example reads them. `cargo xtask ci` runs it on those that graphile_worker itself
    // makes.
    let theirs = "CREATE SCHEMA graphile_worker;
        CREATE TABLE graphile_worker._private_tasks (id int PRIMARY KEY, identifier text);
        CREATE TABLE graphile_worker._private_job_queues (id int PRIMARY KEY, queue_name text);
        CREATE TABLE graphile_worker._private_jobs (id bigint PRIMARY KEY, job_queue_id int, task_id int, payload json,
            priority smallint DEFAULT 0, run_at timestamptz DEFAULT now(), attempts smallint DEFAULT 0,
            max_attempts smallint DEFAULT 25, key text, locked_at timestamptz);
        INSERT INTO graphile_worker._private_tasks VALUES (1, 'send_email');
        INSERT INTO graphile_worker._private_job_queues VALUES (1, 'mail');
        INSERT INTO graphile_worker._private_jobs (id, task_id, payload) VALUES (1, 1, '{\"to\": \"a@example.com\"}');
        INSERT INTO graphile_worker._private_jobs (id, task_id, payload, locked_at) VALUES (2, 1, '{\"to\": \"b\"}', now());
        INSERT INTO graphile_worker._private_jobs (id, task_id, payload, attempts) VALUES (3, 1, '{\"to\": \"c\"}', 25);
        INSERT INTO graphile_worker._private_jobs (id, job_queue_id, task_id, payload, run_at, attempts, key)
        VALUES (4, 1, 1, '{\"to\": \"d\"}', now() + interval '1 hour', 5, 'later');
        INSERT INTO graphile_worker._private_job_queues VALUES (2, 'ordered');
        INSERT INTO graphile_worker._private_jobs (id, job_queue_id, task_id, payload) VALUES
            (12, 2, 1, '{\"to\": \"third\"}'), (11, 2, 1, '{\"to\": \"second\"}'), (10, 2, 1, '{\"to\": \"first\"}')";
    client.batch_execute(theirs).await.unwrap();
    let program = Program::at(env!("CARGO_BIN_EXE_from_graphile_worker")).env("DATABASE_URL", db.url());
    let mut process = program.spawn();
    process.wait_for_line("took over 5 jobs", LIMIT).await;
    eventually(LIMIT, async || count(&client, JOBS).await == 1).await;
    let lines = process.lines();
    let mut ran: Vec<&str> = lines.iter().filter_map(|line| line.trim().strip_prefix("to ")).collect();
    assert!(ran.contains(&"a@example.com"), "{ran:?}");
    ran.retain(|to| *to != "a@example.com");
    assert_eq!(ran, ["first", "second", "third"], "as they would have run there, whatever their order in the table");
    let later = "SELECT count(*) FROM app_jobs.jobs WHERE key = 'later' AND queue_name = 'mail' AND max_attempts = 20 \
                 AND run_at > now() + interval '59 minutes'";
    assert_eq!(count(&client, later).await, 1);
    assert_eq!(count(&client, "SELECT count(*) FROM graphile_worker._private_jobs").await, 2);
    stop(process).await;
}
