//! The last part of `cargo xtask test`: every test on a server of its own, and some once more behind PgBouncer.

use std::process::ExitCode;

use anyhow::Result;
use job_testkit::{Cluster, ClusterOptions, PgBouncer, env};
use toolkit::reaper::Reaper;
use toolkit::setup;
use toolkit::steps::{Steps, cargo};

/// How many sessions a database has behind PgBouncer: fewer than a service has connections, so that it cannot keep one.
const POOLED_SESSIONS: usize = 4;

/// Tests that run at once, for each core. They wait most of the time: for leases, polls and processes that start.
const TESTS_A_CORE: usize = 3;

/// Once more behind PgBouncer: the way of a job and of a schedule, and what is tested of a worker's jobs. What is
/// tested of its identity, its wake-ups and its network needs a session of its own.
const BEHIND_PGBOUNCER: &[(&str, &[&str])] = &[
    (
        "the way of a job and of a schedule behind PgBouncer",
        &["-p", "job-service", "--test", "way_of_a_job", "--test", "way_of_a_schedule"],
    ),
    (
        "a worker's jobs behind PgBouncer",
        &[
            "-p",
            "job-worker",
            "--test",
            "it",
            "--",
            "it::endings",
            "it::failures",
            "it::handlers",
            "it::places",
            "it::queues",
            "it::requests",
            "it::transactions",
        ],
    ),
];

#[tokio::main]
async fn main() -> ExitCode {
    toolkit::main(run()).await
}

async fn run() -> Result<()> {
    let mut steps = Steps::new("tests");
    let directory = env::target_dir().join("xtask-test-postgres");
    let extension = steps.step("PostgreSQL", async {
        setup::postgres().await?;
        let directory = extension::directory();
        Ok(directory.and_then(|directory| extension::install(&directory)))
    });
    let extension = extension.await?;
    if let Err(error) = &extension {
        steps.skip("tests of CREATE EXTENSION", &format!("{error:#}"));
    }
    let pgbouncer = steps.step("PgBouncer", async { Ok(setup::pgbouncer().await) }).await?;
    if let Err(error) = &pgbouncer {
        steps.skip("tests behind PgBouncer", &format!("{error:#}"));
    }
    let server = Cluster::start(&directory, ClusterOptions { durable: false, max_connections: 300 });
    let cluster = steps.step("a cluster for the tests", server).await?;
    let _reaper = Reaper::start(Some(&cluster.pid_file()), &[])?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let variables = [
        ("RUST_TEST_THREADS", (cores * TESTS_A_CORE).to_string()),
        (env::JOBS_TEST_DATABASE_URL, cluster.url("postgres")),
        (env::JOBS_TEST_EXTENSION, if extension.is_ok() { "1".to_owned() } else { "0".to_owned() }),
    ];
    steps.step("tests", cargo(&["test", "--workspace", "--no-fail-fast"], &variables)).await?;
    if pgbouncer.is_ok() {
        let bouncer = PgBouncer::start(&cluster.url("postgres"), POOLED_SESSIONS).await?;
        let _reaper = Reaper::start(None, &[bouncer.pid()])?;
        let pooler = (env::JOBS_TEST_POOLER, format!("127.0.0.1:{}", bouncer.port()));
        let variables: Vec<_> = variables.into_iter().chain([pooler]).collect();
        for (what, arguments) in BEHIND_PGBOUNCER {
            let arguments: Vec<&str> = ["test", "--no-fail-fast"].iter().chain(*arguments).copied().collect();
            steps.step(what, cargo(&arguments, &variables)).await?;
        }
    }
    steps.finish();
    Ok(())
}
