//! The program `send-verification-link`.

use std::process::ExitCode;

use clap::Parser;
use job_utils::config::{Known, ProcessEnv};
use job_utils::service::{self, Command};
use send_verification_link::{Config, run};

/// Sends invitation, password-reset and verification e-mails for jobs. Configured by the environment alone.
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
    let known = Known::new(&[job_fn::VARS, mailer::VARS, send_verification_link::VARS]);
    service::main(&known, |shutdown| async move {
        run(Config::from_env(&ProcessEnv)?, shutdown).await?;
        Ok(())
    })
}
