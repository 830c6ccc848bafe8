//! The command `cargo xtask deploy-check`.

use std::process::ExitCode;

use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    toolkit::main(deploy_check::run(deploy_check::Options::parse())).await
}
