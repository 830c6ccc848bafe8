//! Postgres goes away under a worker and comes back. One server of our own, one story.

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
    let passed = gate.clone();
    let function = FakeFunction::start(move |request| {
        let gate = passed.clone();
        async move {
            if request.target == "/slow" {
                gate.passed().await;
            }
            Answer::complete()
        }
    })
    .await;
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
