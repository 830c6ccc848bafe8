//! Strangers at the callback port of a process that is a worker as well.

use job_testkit::process::Program;
use job_testkit::{Answer, FakeFunction, eventually};
use tokio::net::TcpStream;

use super::support::{Bench, ID, LIMIT, callback, get};

#[tokio::test]
async fn strangers_at_the_callback_port_leave_the_worker_its_descriptors() {
    let bench = Bench::new().await;
    let function = FakeFunction::answering(Answer::complete()).await;
    let (port, variables) = callback();
    let service = Program::with_descriptors(env!("CARGO_BIN_EXE_job-service"), 256).env("HOSTNAME", ID);
    let service = service.envs(bench.db.env()).envs(variables).env("KNATIVE_SERVICE_URL", function.url());
    let mut service = service.spawn();
    service.wait_for_line("worker looks for jobs", LIMIT).await;
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    assert_eq!(get(port, "/healthz").await, Some(200), "{}", service.output());
    let add = "SELECT count(*) FROM generate_series(1, 100) AS n, app_jobs.add_job('task', json_build_object('n', n))";
    bench.sql.execute(add, &[]).await.unwrap();
    let left =
        "SELECT count(*), coalesce(sum(attempts) FILTER (WHERE last_error IS NOT NULL), 0)::int8 FROM app_jobs.jobs";
    eventually(LIMIT, async || {
        let row = bench.sql.query_one(left, &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(1), 0, "an attempt failed: {}", service.output());
        row.get::<_, i64>(0) == 0
    })
    .await;
    assert_eq!(function.requests().len(), 100, "each was sent once");
    assert_eq!(get(port, "/healthz").await, Some(200));
}
