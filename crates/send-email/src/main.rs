//! The program `send-email`.

use std::process::ExitCode;

use clap::Parser;
use job_utils::config::ProcessEnv;
use job_utils::service;
use send_email::{Config, run};

/// Sends the e-mails that jobs describe. Configured by the environment alone.
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
