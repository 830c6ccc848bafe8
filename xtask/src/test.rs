//! `cargo xtask test`: formats, lints, tidy, and every test on a server of its own.

use anyhow::Result;
use job_testkit::{Cluster, ClusterOptions, env};

use crate::minder::Minder;
use crate::steps::{Steps, cargo};
use crate::{extension, setup, tidy};

pub(crate) async fn run() -> Result<()> {
    let mut steps = Steps::new("cargo xtask test");
    let directory = env::target_dir().join("xtask-test-postgres");
    steps.cargo("formats", &["fmt", "--all", "--", "--check"]).await?;
    steps.step("tidy", async { tidy::run(false) }).await?;
    steps.cargo("lints", &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]).await?;
    // Tests start each other's binaries; with the tests' own targets in one build, nothing is compiled twice.
    steps.cargo("build", &["build", "--workspace", "--all-targets", "--quiet"]).await?;
    let extension = steps.step("PostgreSQL", async {
        setup::postgres().await?;
        let directory = extension::directory();
        Ok(directory.and_then(|directory| extension::install(&directory)))
    });
    let extension = extension.await?;
    if let Err(error) = &extension {
        steps.skip("tests of CREATE EXTENSION", &format!("{error:#}"));
    }
    let server = Cluster::start(&directory, ClusterOptions { durable: false, max_connections: 300 });
    let cluster = steps.step("a cluster for the tests", server).await?;
    let _minder = Minder::start(Some(&cluster), &[])?;
    let variables = [
        (env::JOBS_TEST_DATABASE_URL, cluster.url("postgres")),
        (env::JOBS_TEST_EXTENSION, if extension.is_ok() { "1".to_owned() } else { "0".to_owned() }),
    ];
    steps.step("tests", cargo(&["test", "--workspace", "--no-fail-fast"], &variables)).await?;
    steps.finish();
    Ok(())
}
