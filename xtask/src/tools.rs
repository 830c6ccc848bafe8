//! The programs in `tools/`: built with what they start, and run.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use toolkit::{child, steps};

/// A program in tools/.
pub(crate) struct Tool {
    name: &'static str,
    /// The programs that it starts.
    starts: &'static [&'static str],
}

pub(crate) const DEMO: Tool = Tool { name: "demo", starts: &["job-service", "admin-server", "send-verification-link"] };
pub(crate) const BENCH: Tool = Tool { name: "bench", starts: &[] };
pub(crate) const CHAOS: Tool = Tool { name: "chaos", starts: &["job-worker", "job-server", "job-scheduler"] };
pub(crate) const RULES: Tool = Tool { name: "rules", starts: &["job-scheduler"] };
pub(crate) const DEPLOY_CHECK: Tool = Tool { name: "deploy-check", starts: &[] };
pub(crate) const COMPOSE_TEST: Tool = Tool { name: "compose-test", starts: &[] };
pub(crate) const USAGE: Tool = Tool { name: "usage", starts: &["job-service", "from_graphile_worker"] };
pub(crate) const EXTENSION: Tool = Tool { name: "extension", starts: &[] };
pub(crate) const GENERATED: Tool = Tool { name: "generated", starts: &[] };
pub(crate) const RUN_TESTS: Tool = Tool { name: "run-tests", starts: &[] };

impl Tool {
    /// Builds it and what it starts, of all the workspace: cargo then unifies features as it does for the tests, and
    /// nothing is compiled once more with others.
    pub(crate) async fn build(&self) -> Result<()> {
        let mut arguments = vec!["build", "--workspace", "--bin", self.name];
        arguments.extend(self.starts.iter().flat_map(|name| ["--bin", name]));
        steps::cargo(&arguments, &[]).await
    }

    /// Builds it, and runs it in the place of this process: signals and the terminal are its own.
    pub(crate) async fn become_it(&self, arguments: &[OsString]) -> Result<()> {
        self.build().await?;
        let error = std::process::Command::new(self.path()?).args(arguments).exec();
        Err(error).with_context(|| format!("cannot run {}", self.name))
    }

    /// Runs it, as it is built, to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Result<()> {
        let mut command = tokio::process::Command::new(self.path()?);
        command.args(arguments).kill_on_drop(true);
        let status = child::status(command).await?;
        if !status.success() {
            bail!("{} {} failed ({status})", self.name, arguments.join(" "));
        }
        Ok(())
    }

    /// Beside this program, where cargo puts both.
    fn path(&self) -> Result<PathBuf> {
        Ok(std::env::current_exe().context("this program has no path")?.with_file_name(self.name))
    }
}
