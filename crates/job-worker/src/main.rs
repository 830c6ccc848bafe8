//! The worker as a program: settings from the environment, until SIGTERM or SIGINT.

use std::process::ExitCode;

use clap::Parser;
use job_utils::config::{ProcessEnv, WorkerConfig};
use job_utils::service::ExitError;

/// Claims due jobs and dispatches them to functions over HTTP. Settings come from the environment (see the README).
#[derive(Parser)]
#[command(version)]
struct Arguments {}

fn main() -> ExitCode {
    let Arguments {} = job_utils::service::arguments();
    job_utils::service::main(|shutdown| async {
        let config = WorkerConfig::from_env(&ProcessEnv)?;
        job_worker::run(config, shutdown).await.map_err(ExitError::from_error)?;
        Ok(())
    })
}
