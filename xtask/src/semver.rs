//! `cargo xtask semver --since <revision>`: what has changed in the libraries so that their users would have to.

use anyhow::{Result, bail};
use clap::Args;

use toolkit::steps::{cargo, cargo_output};

/// Whose API is promised.
const LIBRARIES: &[&str] =
    &["job-utils", "job-worker", "job-server", "job-scheduler", "job-service", "job-fn", "job-testkit"];

/// What to compare with.
#[derive(Args)]
pub(crate) struct Options {
    /// A tag or commit of this repository
    #[arg(long)]
    since: String,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    if !cargo_output(&["--list"]).await?.lines().any(|line| line.trim_start().starts_with("semver-checks")) {
        bail!("cargo-semver-checks is not installed: `cargo install cargo-semver-checks --locked`");
    }
    let mut arguments = vec!["semver-checks", "--baseline-rev", &options.since];
    arguments.extend(LIBRARIES.iter().flat_map(|name| ["-p", name]));
    cargo(&arguments, &[]).await
}
