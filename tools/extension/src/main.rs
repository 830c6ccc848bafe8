//! The command `cargo xtask extension`.

use std::process::ExitCode;

use clap::Parser;
use extension::Action;

/// The PostgreSQL extension pgpm-database-jobs
#[derive(Parser)]
#[command(bin_name = "cargo xtask extension")]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

fn main() -> ExitCode {
    toolkit::exit_code(extension::run(Arguments::parse().action))
}
