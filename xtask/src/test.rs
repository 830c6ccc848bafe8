//! `cargo xtask test`: formats, lints, tidy, and every test on a server of its own.

use anyhow::Result;
use toolkit::steps::Steps;

use crate::{tidy, tools};

pub(crate) async fn run() -> Result<()> {
    let mut steps = Steps::new("cargo xtask test");
    steps.cargo("formats", &["fmt", "--all", "--", "--check"]).await?;
    steps.cargo("lints", &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]).await?;
    // Tests start each other's binaries; with the tests' own targets in one build, nothing is compiled twice.
    steps.cargo("build", &["build", "--workspace", "--all-targets", "--quiet"]).await?;
    steps.step("tidy", tidy::run()).await?;
    // Only that program knows a server.
    steps.step("tests", tools::RUN_TESTS.run(&[])).await?;
    steps.finish();
    Ok(())
}
