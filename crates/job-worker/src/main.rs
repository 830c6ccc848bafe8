//! The worker as a program: settings from the environment, until SIGTERM or SIGINT.

use std::process::ExitCode;

use clap::Parser;
use job_pg::config::known;
use job_utils::config::ProcessEnv;
use job_utils::probe::Target;
use job_utils::service::{self, Command, ExitError};
use job_worker::WorkerConfig;

/// Claims due jobs and dispatches them to functions over HTTP. Settings come from the environment
/// (docs/configuration.md).
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

fn main() -> ExitCode {
    let Arguments { command } = service::arguments();
    if let Some(Command::Health) = command {
        return service::health(Target::alone);
    }
    service::main(&known(&[job_worker::config::VARS]), |shutdown| async {
        let config = WorkerConfig::from_env(&ProcessEnv)?;
        job_worker::run(config, shutdown).await.map_err(ExitError::from_error)?;
        Ok(())
    })
}
