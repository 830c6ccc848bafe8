//! The project's own commands: `cargo xtask demo`, `test`, `ci`, `peers`, `semver`, `fuzz`, `tidy`, `bench`, `chaos`, `rules`,
//! `deploy-check`, `compose-test`, `extension`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command for people, who read its output")]

mod bench;
mod chaos;
mod ci;
mod compose_test;
mod demo;
mod deploy_check;
mod extension;
mod fuzz;
mod library;
mod minder;
mod npm;
mod postgraphile;
mod readme_functions;
mod rules;
mod semver;
mod setup;
mod steps;
mod test;
mod tidy;

use std::pin::Pin;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use job_utils::shutdown::Shutdown;

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
    Demo {
        /// Keep the stack up afterwards, until Ctrl-C
        #[arg(long)]
        stay: bool,
    },
    /// Run every check and every test on a private PostgreSQL
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
    Bench(bench::Options),
    /// Run the real services under a seeded plan of faults, and prove from what happened that every job is accounted for
    Chaos(chaos::Options),
    /// Compare when schedules fire with other evaluators of cron rules, and explain every difference
    Rules(rules::Options),
    /// Compare what PostGraphile shows of the schema with the committed list
    Postgraphile,
    /// Start the functions that README.md (Python) and docs/functions.md (JavaScript) show, and send them jobs
    ReadmeFunctions,
    /// A function instance of a chaos run
    #[command(hide = true)]
    ChaosFunction(chaos::function::Options),
    /// Check the Dockerfiles and compose files, and render and validate the manifests in deploy/kubernetes
    DeployCheck(deploy_check::Options),
    /// Build the images and run the specification's examples against the compose stack; needs a Docker engine
    ComposeTest(compose_test::Options),
    /// The PostgreSQL extension pgpm-database-jobs
    Extension {
        #[command(subcommand)]
        action: extension::Action,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<()> {
    let shutdown = Shutdown::on_signals()?;
    // Dropping a command's future kills its processes and stops its server. The demo stops its stack in order, so it gets
    // the token instead.
    let work: Pin<Box<dyn Future<Output = Result<()>>>> = match command {
        Command::Demo { stay } => return demo::run(stay, shutdown).await,
        Command::Test => Box::pin(test::run()),
        Command::Ci(options) => Box::pin(ci::run(options)),
        Command::Peers => Box::pin(library::peers()),
        Command::Semver(options) => Box::pin(semver::run(options)),
        Command::Fuzz(options) => Box::pin(fuzz::run(options)),
        Command::Bench(options) => Box::pin(bench::run(options)),
        Command::Chaos(options) => Box::pin(chaos::run(options)),
        Command::Rules(options) => Box::pin(rules::run(options)),
        Command::Postgraphile => Box::pin(postgraphile::run()),
        Command::ReadmeFunctions => Box::pin(readme_functions::run()),
        Command::ChaosFunction(options) => Box::pin(chaos::function::run(options)),
        Command::DeployCheck(options) => Box::pin(deploy_check::run(options)),
        Command::ComposeTest(options) => Box::pin(compose_test::run(options)),
        Command::Tidy { fix } => return tidy::run(fix),
        Command::Extension { action } => return extension::run(action),
    };
    tokio::select! {
        result = work => result,
        () = shutdown.triggered() => bail!("interrupted"),
    }
}
