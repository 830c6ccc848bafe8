//! What users do with this project, done by a program: they build its packages, follow the README to a program that
//! runs, start the functions of the documentation, and look at the schema with PostGraphile.
//!
//! `cargo xtask ci` runs all of it; `peers`, `readme-functions` and `postgraphile` are commands of xtask.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command for people, who read its output")]

mod library;
mod postgraphile;
mod readme_functions;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use toolkit::steps::Steps;

/// Does with this project what its users do
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Command {
    /// Everything but the peers
    All,
    /// Run the small application that docs/library.md compares with each of the crates compared
    Peers,
    /// Start the functions that README.md (Python) and docs/functions.md (JavaScript) show, and send them jobs
    ReadmeFunctions,
    /// Compare what PostGraphile shows of the schema with the committed list
    Postgraphile,
}

#[tokio::main]
async fn main() -> ExitCode {
    toolkit::main(run(Command::parse())).await
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::All => all().await,
        Command::Peers => library::peers().await,
        Command::ReadmeFunctions => readme_functions::run().await,
        Command::Postgraphile => postgraphile::run().await,
    }
}

async fn all() -> Result<()> {
    let mut steps = Steps::new("usage");
    steps.step("packages for crates.io", library::packages()).await?;
    steps.step("a newcomer follows the README", library::newcomer()).await?;
    steps.step("with sqlx", library::with_sqlx()).await?;
    steps.step("from graphile_worker's own tables", library::from_graphile_worker()).await?;
    readme_functions::check(&mut steps).await?;
    match postgraphile::install().await {
        Ok(installed) => steps.step("PostGraphile's schema", postgraphile::compare(installed)).await?,
        Err(missing) => steps.skip("PostGraphile's schema", &format!("{missing:#}")),
    }
    steps.finish();
    Ok(())
}
