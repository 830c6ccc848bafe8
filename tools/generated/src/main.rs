//! The part of `cargo xtask tidy` that needs the programs.

use std::process::ExitCode;

use clap::Parser;

/// Checks what is generated from the programs
#[derive(Parser)]
#[command(bin_name = "cargo xtask tidy")]
struct Options {
    /// Rewrite it
    #[arg(long)]
    fix: bool,
}

fn main() -> ExitCode {
    toolkit::exit_code(generated::run(Options::parse().fix))
}
