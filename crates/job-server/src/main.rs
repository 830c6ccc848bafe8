//! The callback server as a program: settings from the environment, until SIGTERM or SIGINT.

use std::process::ExitCode;

use clap::Parser;
use job_pg::config::known;
use job_server::ServerConfig;
use job_utils::config::ProcessEnv;
use job_utils::probe::Target;
use job_utils::service::{self, Command, ExitError};

/// The callback server: functions report here how a job ended. Settings come from the environment
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
        return service::health(Target::callback_server);
    }
    service::main(&known(&[job_server::VARS]), |shutdown| async {
        let config = ServerConfig::from_env(&ProcessEnv)?;
        job_server::run(config, shutdown).await.map_err(ExitError::from_error)?;
        Ok(())
    })
}
