//! The program `send-email`.

use std::process::ExitCode;

use clap::Parser;
use job_utils::config::{Known, ProcessEnv};
use job_utils::service::{self, Command};
use send_email::{Config, run};

/// Sends the e-mails that jobs describe. Configured by the environment alone.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

fn main() -> ExitCode {
    let Arguments { command } = service::arguments();
    if let Some(Command::Health) = command {
        return service::health(job_fn::health_target);
    }
    let known = Known::new(&[job_fn::VARS, mailer::VARS, send_email::VARS]);
    service::main(&known, |shutdown| async move {
        run(Config::from_env(&ProcessEnv)?, shutdown).await?;
        Ok(())
    })
}
