//! Postgres goes away under a worker and comes back, or has no connection left. A server of its own for each story.

use std::time::{Duration, Instant};

use job_testkit::{Answer, Cluster, FakeFunction, Gate, Signal, eventually};
use tokio_postgres::Client;

use super::support::{LIMIT, migrated, program};

async fn connect(cluster: &Cluster) -> Client {
    job_testkit::postgres::connect(&cluster.url("postgres")).await
}

async fn left(cluster: &Cluster) -> i64 {
    let client = connect(cluster).await;
    client.query_one("SELECT count(*) FROM app_jobs.jobs", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_worker_outlives_its_postgres() {
    let mut cluster = Cluster::temporary().await.unwrap();
    migrated(cluster.url("postgres")).await.unwrap();
    cluster.stop().await.unwrap();

    // It starts before Postgres and says what it waits for.
    let gate = Gate::closed();
    let function = FakeFunction::waiting(&gate, |target| target == "/slow", Answer::complete()).await;
    let worker = program().envs(cluster.env("postgres")).env("KNATIVE_SERVICE_URL", function.url());
    let mut worker = worker.env("JOBS_SHUTDOWN_GRACE", "2s").spawn();
    let line = worker.wait_for_line("waiting for Postgres", LIMIT).await;
    assert!(line.contains(&format!("127.0.0.1:{}", cluster.port())), "{line}");
    cluster.start_again().await.unwrap();
    connect(&cluster).await.batch_execute("SELECT app_jobs.add_job('first')").await.unwrap();
    assert_eq!(function.wait_for(1, LIMIT).await[0].target, "/first");
    eventually(LIMIT, async || left(&cluster).await == 0).await;

    // A restart: with an hour between two polls, only a new LISTEN can tell it of the next job.
    cluster.restart().await.unwrap();
    connect(&cluster).await.batch_execute("SELECT app_jobs.add_job('second')").await.unwrap();
    assert_eq!(function.wait_for(2, LIMIT).await[1].target, "/second");
    eventually(LIMIT, async || left(&cluster).await == 0).await;
    worker.wait_for_line("listening again", LIMIT).await;
    let before = Instant::now();
    connect(&cluster).await.batch_execute("SELECT app_jobs.add_job('third')").await.unwrap();
    function.wait_for(3, LIMIT).await;
    assert!(before.elapsed() < Duration::from_secs(3), "{:?}", before.elapsed());
    eventually(LIMIT, async || left(&cluster).await == 0).await;

    // A function answers while Postgres is away: the outcome is kept, and the job is not sent again.
    connect(&cluster).await.batch_execute("SELECT app_jobs.add_job('slow')").await.unwrap();
    function.wait_for(4, LIMIT).await;
    // A claim is not flushed by itself: what is committed after it takes it along.
    connect(&cluster).await.batch_execute("CREATE TABLE flushed ()").await.unwrap();
    cluster.kill().await.unwrap();
    gate.open();
    worker.wait_for_line("outcomes wait for Postgres", LIMIT).await;
    cluster.start_again().await.unwrap();
    eventually(LIMIT, async || left(&cluster).await == 0).await;
    assert_eq!(function.requests().len(), 4);

    // A session that an administrator ends is replaced.
    let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'jobs'";
    connect(&cluster).await.batch_execute(terminate).await.unwrap();
    connect(&cluster).await.batch_execute("SELECT app_jobs.add_job('fifth')").await.unwrap();
    function.wait_for(5, LIMIT).await;
    eventually(LIMIT, async || left(&cluster).await == 0).await;

    // It stops without Postgres as well, soon.
    cluster.stop().await.unwrap();
    let before = Instant::now();
    worker.signal(Signal::Term);
    assert_eq!(worker.exit_code(LIMIT).await, 0);
    assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
}

#[tokio::test]
async fn a_server_without_a_connection_left_is_waited_for_and_what_it_gives_is_enough() {
    let cluster = Cluster::temporary().await.unwrap();
    let admin = connect(&cluster).await;
    admin.batch_execute("CREATE ROLE limited LOGIN").await.unwrap();
    admin.batch_execute("CREATE DATABASE jobs OWNER limited").await.unwrap();
    let url = cluster.url("jobs").replace("postgres@", "limited@");
    migrated(url.clone()).await.unwrap();
    let sql = job_testkit::postgres::connect(&cluster.url("jobs")).await;
    let limit = async |connections: i32| {
        admin.batch_execute(&format!("ALTER ROLE limited CONNECTION LIMIT {connections}")).await.unwrap();
    };
    let gone = async || {
        let left = "SELECT count(*) FROM app_jobs.jobs";
        eventually(LIMIT, async || sql.query_one(left, &[]).await.unwrap().get::<_, i64>(0) == 0).await;
    };
    let gate = Gate::closed();
    let function = FakeFunction::waiting(&gate, |target| target == "/slow", Answer::complete()).await;

    // At the start.
    limit(0).await;
    let worker = program().env("DATABASE_URL", url).env("KNATIVE_SERVICE_URL", function.url());
    let mut worker = worker.spawn();
    worker.wait_for_line("too many connections for role", LIMIT).await;
    sql.batch_execute("SELECT app_jobs.add_job('first')").await.unwrap();
    limit(-1).await;
    gone().await;

    // In the middle, with a job in flight.
    sql.batch_execute("SELECT app_jobs.add_job('slow')").await.unwrap();
    function.wait_for(2, LIMIT).await;
    limit(0).await;
    let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'limited'";
    admin.batch_execute(terminate).await.unwrap();
    gate.open();
    worker.wait_for_line("outcomes wait for Postgres", LIMIT).await;

    // One to listen, one to work.
    limit(2).await;
    gone().await;
    worker.wait_for_line("listening again", LIMIT).await;
    sql.batch_execute("SELECT app_jobs.add_job('third') FROM generate_series(1, 20)").await.unwrap();
    gone().await;
    assert_eq!(function.requests().len(), 22);
    worker.signal(Signal::Term);
    assert_eq!(worker.exit_code(LIMIT).await, 0, "{}", worker.output());
}
