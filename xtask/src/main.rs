//! The project's own commands. Some are done here; the others are programs in `tools/`, which are built and started.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command for people, who read its output")]

mod ci;
mod fuzz;
mod semver;
mod test;
mod tidy;
mod tools;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the whole system on a private PostgreSQL and show three jobs and a schedule from enqueue to done
    #[command(disable_help_flag = true)]
    Demo(Rest),
    /// Run every test on a private PostgreSQL, and check formats, lints and the rules of the workspace
    Test,
    /// Run the slower checks: each crate built alone, what functions link, the documentation
    Ci(ci::Options),
    /// Run the small application that docs/library.md compares with each of the crates compared
    Peers,
    /// Tell what in the libraries' APIs is no longer as it was (cargo-semver-checks)
    Semver(semver::Options),
    /// Give every fuzz target in fuzz/ random inputs for a while
    Fuzz(fuzz::Options),
    /// Check the rules of this workspace that no other tool checks
    Tidy {
        /// Rewrite what is generated (the tables in docs/configuration.md and docs/connections.md)
        #[arg(long)]
        fix: bool,
    },
    /// Measure against the limits of this machine and other job libraries, and write docs/benchmarks.md
    #[command(disable_help_flag = true)]
    Bench(Rest),
    /// Run the real services under a seeded plan of faults, and prove from what happened that every job is accounted
    /// for
    #[command(disable_help_flag = true)]
    Chaos(Rest),
    /// Compare when schedules fire with other evaluators of cron rules, and explain every difference
    #[command(disable_help_flag = true)]
    Rules(Rest),
    /// Compare what PostGraphile shows of the schema with the committed list
    Postgraphile,
    /// Start the functions that README.md (Python) and docs/functions.md (JavaScript) show, and send them jobs
    ReadmeFunctions,
    /// Check the Dockerfiles and compose files, and render and validate the manifests in deploy/kubernetes
    #[command(disable_help_flag = true)]
    DeployCheck(Rest),
    /// Build the images and run the specification's examples against the compose stack; needs a Docker engine
    #[command(disable_help_flag = true)]
    ComposeTest(Rest),
    /// The PostgreSQL extension pgpm-database-jobs: install its files, or print them
    #[command(disable_help_flag = true, disable_help_subcommand = true)]
    Extension(Rest),
}

/// The arguments of a program in tools/, which reads them itself; --help too.
#[derive(Args)]
struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    arguments: Vec<OsString>,
}

#[tokio::main]
async fn main() -> ExitCode {
    toolkit::exit_code(run(Arguments::parse().command).await)
}

/// A signal goes to the processes that this one waits for; they end, and so does this.
async fn run(command: Command) -> Result<()> {
    let own = |command: &str| [OsString::from(command)];
    match command {
        Command::Test => test::run().await,
        Command::Ci(options) => ci::run(options).await,
        Command::Semver(options) => semver::run(options).await,
        Command::Fuzz(options) => fuzz::run(options).await,
        Command::Tidy { fix } => tidy::command(fix).await,
        Command::Demo(rest) => tools::DEMO.become_it(&rest.arguments).await,
        Command::Bench(rest) => tools::BENCH.become_it(&rest.arguments).await,
        Command::Chaos(rest) => tools::CHAOS.become_it(&rest.arguments).await,
        Command::Rules(rest) => tools::RULES.become_it(&rest.arguments).await,
        Command::DeployCheck(rest) => tools::DEPLOY_CHECK.become_it(&rest.arguments).await,
        Command::ComposeTest(rest) => tools::COMPOSE_TEST.become_it(&rest.arguments).await,
        Command::Extension(rest) => tools::EXTENSION.become_it(&rest.arguments).await,
        Command::Peers => tools::USAGE.become_it(&own("peers")).await,
        Command::Postgraphile => tools::USAGE.become_it(&own("postgraphile")).await,
        Command::ReadmeFunctions => tools::USAGE.become_it(&own("readme-functions")).await,
    }
}
