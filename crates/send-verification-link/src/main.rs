//! The program `send-verification-link`.

use std::process::ExitCode;

use clap::Parser;
use job_utils::config::ProcessEnv;
use job_utils::service;
use send_verification_link::{Config, run};

/// Sends invitation, password-reset and verification e-mails for jobs. Configured by the environment alone.
#[derive(Parser)]
#[command(version)]
struct Arguments {}

fn main() -> ExitCode {
    let Arguments {} = service::arguments();
    service::main(|shutdown| async move {
        run(Config::from_env(&ProcessEnv)?, shutdown).await?;
        Ok(())
    })
}
