//! Postgres is restarted under the service: jobs, callbacks and schedules go on without a restart of ours.

use job_testkit::{Answer, Cluster, FakeFunction, Signal, eventually};

use super::support::{LIMIT, callback, get, migrated, program};

async fn run(cluster: &Cluster, sql: &str) {
    job_testkit::postgres::connect(&cluster.url("postgres")).await.batch_execute(sql).await.unwrap();
}

async fn count(cluster: &Cluster, condition: &str) -> i64 {
    let client = job_testkit::postgres::connect(&cluster.url("postgres")).await;
    let sql = format!("SELECT count(*) FROM app_jobs.jobs WHERE {condition}");
    client.query_one(&sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn jobs_callbacks_and_schedules_go_on_after_a_restart_of_postgres() {
    let mut cluster = Cluster::temporary().await.unwrap();
    migrated(cluster.url("postgres")).await.unwrap();
    let function = FakeFunction::start(
        async |request| {
            if request.target == "/tick" { Answer::complete() } else { Answer::accepted() }
        },
    )
    .await;
    let (port, callback) = callback();
    let service = program().envs(cluster.env("postgres")).envs(callback).env("KNATIVE_SERVICE_URL", function.url());
    let mut service = service.spawn();
    run(&cluster, "SELECT app_jobs.add_scheduled_job('tick', '{}', '{\"rule\": \"* * * * * *\"}'::json)").await;
    run(&cluster, "SELECT app_jobs.add_job('before')").await;
    let seen =
        |task: &str| function.requests().into_iter().filter(|request| request.target == task).collect::<Vec<_>>();
    eventually(LIMIT, async || !seen("/before").is_empty() && !seen("/tick").is_empty()).await;

    // A callback that comes during the outage is held and stored.
    cluster.kill().await.unwrap();
    let before = seen("/before").remove(0);
    let callback = tokio::spawn(async move { before.call_back().await });
    eventually(LIMIT, async || get(port, "/readyz").await == Some(503)).await;
    assert_eq!(get(port, "/healthz").await, Some(200));
    cluster.start_again().await.unwrap();
    assert_eq!(callback.await.unwrap().0, 200);
    assert_eq!(count(&cluster, "task_identifier = 'before'").await, 0);

    // New jobs and the old schedule go on.
    let ticks = seen("/tick").len();
    run(&cluster, "SELECT app_jobs.add_job('after')").await;
    eventually(LIMIT, async || !seen("/after").is_empty() && seen("/tick").len() > ticks + 1).await;
    assert_eq!(seen("/after")[0].call_back().await.0, 200);
    assert_eq!(count(&cluster, "task_identifier = 'after'").await, 0);
    service.signal(Signal::Term);
    assert_eq!(service.exit_code(LIMIT).await, 0);
    assert_eq!(count(&cluster, "locked_at IS NOT NULL").await, 0);
}
