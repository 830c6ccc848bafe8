//! docs/roles.md, run as written on a server of its own: the owner migrates, the service works under the runtime role,
//! the application enqueues as a producer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a helper of a test fails its test")]

use std::time::Duration;

use job_testkit::cluster::free_port;
use job_testkit::process::Program;
use job_testkit::{Answer, Cluster, FakeFunction, Gate, Process, Signal, eventually, postgres};
use serde_json::json;

const DOCUMENT: &str = include_str!("../../../docs/roles.md");
const TENANT: &str = "6f4e8f4c-1bb0-4e83-9f5c-2f3a3f1f7c11";

/// Long enough for a busy machine; nothing waits for it when all goes well.
const LIMIT: Duration = Duration::from_secs(30);

/// The SQL blocks of the page, in order.
fn blocks() -> Vec<&'static str> {
    DOCUMENT.split("```sql\n").skip(1).filter_map(|rest| rest.split_once("```")).map(|(code, _)| code).collect()
}

/// Runs a block as a person does, with psql.
async fn psql(cluster: &Cluster, user: &str, database: &str, sql: &str) {
    let mut psql = Program::at(cluster.bin().join("psql")).envs(cluster.env(database)).env("PGUSER", user);
    for argument in ["--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--command"] {
        psql = psql.arg(argument);
    }
    // One argument a statement: as one string they would be one transaction.
    let statements: Vec<&str> = sql.split_inclusive(";\n").filter(|statement| !statement.trim().is_empty()).collect();
    let (first, rest) = statements.split_first().expect("the block has a statement");
    psql = psql.arg(first);
    for statement in rest {
        psql = psql.arg("--command").arg(statement);
    }
    let mut process = psql.spawn();
    assert_eq!(process.exit_code(LIMIT).await, 0, "{user}: {sql}\n{}", process.output());
}

/// A program of ours as a user of the database `shop`.
fn program(cluster: &Cluster, user: &str) -> Program {
    Program::at(env!("CARGO_BIN_EXE_job-service")).envs(cluster.env("shop")).env("PGUSER", user)
}

/// The service as `shop_jobs`, looking for jobs and schedules. It polls once an hour: notifications have to do.
async fn service(cluster: &Cluster, function: &FakeFunction, port: u16) -> Process {
    let mut service = program(cluster, "shop_jobs")
        .env("HOSTNAME", "shop-jobs-1")
        .env("KNATIVE_SERVICE_URL", function.url())
        .env("INTERNAL_JOBS_CALLBACK_URL", format!("http://127.0.0.1:{port}"))
        .env("INTERNAL_JOBS_CALLBACK_PORT", port.to_string())
        .env("JOBS_POLL_INTERVAL", "1h")
        .spawn();
    service.wait_for_line("worker looks for jobs", LIMIT).await;
    service.wait_for_line("scheduler looks for schedules", LIMIT).await;
    service
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_set_up_works_from_the_first_role_to_the_last_job() {
    let [superuser, producer, owner, too_much] = blocks().try_into().expect("the page has four blocks of SQL");
    let cluster = Cluster::temporary().await.unwrap();
    psql(&cluster, "postgres", "postgres", superuser).await;
    let mut migrate = program(&cluster, "jobs_owner").arg("migrate").spawn();
    assert_eq!(migrate.exit_code(LIMIT).await, 0, "{}", migrate.output());
    assert!(!migrate.output().contains("WARN"), "every role is there: {}", migrate.output());
    psql(&cluster, "jobs_owner", "shop", owner).await;
    psql(&cluster, "jobs_owner", "shop", too_much).await;
    let as_user =
        async |user: &str| postgres::connect(&cluster.url("shop").replace("postgres@", &format!("{user}@"))).await;
    let watch = as_user("jobs_owner").await;
    let number = async |sql: &str| watch.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);

    // Jobs that are called back, that fail, of a queue, and of a schedule.
    let gate = Gate::closed();
    let passed = gate.clone();
    let function = FakeFunction::start(move |request| {
        let gate = passed.clone();
        async move {
            match request.target.as_str() {
                "/bad" => Answer::status(500),
                "/order:placed" => Answer::accepted(),
                "/long" => {
                    gate.passed().await;
                    Answer::complete()
                }
                _ => Answer::complete(),
            }
        }
    })
    .await;
    let port = free_port().unwrap();
    let mut service = service(&cluster, &function, port).await;
    assert_eq!(reqwest::get(format!("http://127.0.0.1:{port}/readyz")).await.unwrap().status(), 200);

    psql(&cluster, "shop", "shop", producer).await;
    let request = function.wait_for(1, LIMIT).await.remove(0);
    assert_eq!((request.target.as_str(), request.json()), ("/order:placed", json!({"id": 42})));
    assert_eq!(request.header("x-database-id"), Some(TENANT));
    service.wait_for_line("job accepted", LIMIT).await;
    assert_eq!(request.call_back().await.0, 200);
    assert_eq!(number("SELECT count(*) FROM app_jobs.jobs").await, 0);

    let shop = as_user("shop").await;
    shop.batch_execute(&format!(
        "SELECT set_config('jwt.claims.database_id', '{TENANT}', false);
         SELECT app_jobs.add_job('line', '{{}}', NULL, 'q'), app_jobs.add_job('line', '{{}}', NULL, 'q');
         SELECT app_jobs.add_job('bad'), app_jobs.add_job('{TENANT}'::uuid, 'bad');
         SELECT app_jobs.add_scheduled_job('tick', '{{}}', '{{\"rule\": \"* * * * * *\"}}'::json)"
    ))
    .await
    .unwrap();
    let seen = async |target: &str| function.requests().iter().filter(|request| request.target == target).count();
    eventually(LIMIT, async || seen("/line").await == 2 && seen("/tick").await >= 2).await;
    let failed = "SELECT count(*) FROM app_jobs.jobs WHERE task_identifier = 'bad' AND last_error IS NOT NULL AND locked_at IS NULL";
    eventually(LIMIT, async || number(failed).await == 2).await;

    // Who sees what.
    let jobs = async |user: &str, tenant: &str| {
        let client = as_user(user).await;
        client.batch_execute(&format!("SELECT set_config('jwt.claims.database_id', '{tenant}', false)")).await.unwrap();
        let count = "SELECT count(*) FROM app_jobs.jobs WHERE task_identifier = 'bad'";
        client
            .query_one(count, &[])
            .await
            .map(|row| row.get::<_, i64>(0))
            .map_err(|error| error.code().unwrap().code().to_owned())
    };
    assert_eq!(jobs("shop_tenant", TENANT).await, Ok(2));
    assert_eq!(watch.query(too_much, &[]).await.unwrap().len(), 0, "nobody has more than the page gives");
    assert_eq!(jobs("shop_tenant", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11").await, Ok(0));
    assert_eq!(jobs("shop_monitor", "").await, Ok(2));
    assert_eq!(jobs("shop", TENANT).await, Err("42501".to_owned()));
    assert_eq!(jobs("shop_jobs", "").await, Ok(2));

    // Killed, it takes back at its next start what it held; a stop in order gives it back itself.
    shop.batch_execute("SELECT app_jobs.add_job('long')").await.unwrap();
    eventually(LIMIT, async || seen("/long").await == 1).await;
    service.signal(Signal::Kill);
    service.exit(LIMIT).await;
    assert!(!service.output().contains("permission denied"), "{}", service.output());
    let mut service = self::service(&cluster, &function, port).await;
    eventually(LIMIT, async || seen("/long").await == 2).await;
    gate.open();
    service.signal(Signal::Term);
    assert_eq!(service.exit_code(LIMIT).await, 0, "{}", service.output());
    let held = "SELECT (SELECT count(*) FROM app_jobs.jobs WHERE locked_at IS NOT NULL)
                     + (SELECT count(*) FROM app_jobs.scheduled_jobs WHERE locked_at IS NOT NULL)";
    assert_eq!(number(held).await, 0);
    assert!(!service.output().contains("permission denied"), "{}", service.output());
}
