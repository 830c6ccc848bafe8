//! Postgres is restarted under the service: jobs, callbacks and schedules go on without a restart of ours.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use job_fn::{App, Context};
use job_testkit::process::Program;
use job_testkit::{Answer, Cluster, FakeFunction, Gate, Signal, eventually};
use job_utils::shutdown::Shutdown;
use serde_json::Value;
use tokio::net::TcpListener;

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

#[tokio::test]
async fn a_rust_function_calls_back_again_until_its_outcome_is_stored() {
    let mut cluster = Cluster::temporary().await.unwrap();
    migrated(cluster.url("postgres")).await.unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let gate = Gate::closed();
    let starts = Arc::new(AtomicUsize::new(0));
    let (passed, counted) = (gate.clone(), starts.clone());
    let app = App::new(move |_: Context, _: Value| {
        let (gate, starts) = (passed.clone(), counted.clone());
        async move {
            starts.fetch_add(1, Ordering::SeqCst);
            gate.passed().await;
            // An answer that completes nothing: the callback alone ends the job.
            anyhow::Ok("accepted")
        }
    });
    let stop = Shutdown::new();
    let function = tokio::spawn(app.run(listener, stop.clone()));
    // Worker and server apart: the worker stays.
    let (port, callback) = callback();
    let env = cluster.env("postgres");
    let server = || {
        let server = Program::named("job-server").envs(env.clone()).env("JOBS_SHUTDOWN_GRACE", "1s");
        server.env("INTERNAL_JOBS_CALLBACK_PORT", port.to_string())
    };
    let worker = Program::named("job-worker").envs(cluster.env("postgres")).envs(callback);
    let mut worker = worker.env("KNATIVE_SERVICE_URL", &url).spawn();
    let mut first = server().spawn();
    first.wait_for_line("callback server listens", LIMIT).await;
    worker.wait_for_line("worker looks for jobs", LIMIT).await;
    run(&cluster, "SELECT app_jobs.add_job('rust')").await;
    eventually(LIMIT, async || starts.load(Ordering::SeqCst) == 1).await;
    // A claim is not flushed by itself: what is committed after it takes it along.
    run(&cluster, "CREATE TABLE flushed ()").await;
    cluster.kill().await.unwrap();
    gate.open();
    // The callback is held, for Postgres is away; then refused with 503, for the server stops; then nobody is there.
    first.wait_for_line("outcomes wait for Postgres", LIMIT).await;
    first.signal(Signal::Term);
    assert_eq!(first.exit_code(LIMIT).await, 0, "{}", first.output());
    cluster.start_again().await.unwrap();
    let mut second = server().spawn();
    second.wait_for_line("job completed by callback", LIMIT).await;
    eventually(LIMIT, async || count(&cluster, "true").await == 0).await;
    assert_eq!(starts.load(Ordering::SeqCst), 1, "{}", worker.output());
    stop.trigger();
    assert_eq!(function.await.unwrap().unwrap().abandoned, 0);
}
