//! admin-server as a program: serves the API until SIGTERM or SIGINT, or with `migrate` makes its tables.

use std::process::ExitCode;

use admin_server::{Config, MigrateConfig};
use clap::{Parser, Subcommand};
use job_utils::config::ProcessEnv;
use job_utils::service::{self, ExitError};

/// A development stand-in for constructive-admin-server. Settings come from the environment (docs/configuration.md).
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Makes the tables of databases, users and sites where they are missing, and fills them when they are empty.
    Migrate,
    /// Ask the server that runs here whether it works: exit code 0, or 70 and the reason.
    Health,
}

fn main() -> ExitCode {
    let Arguments { command } = service::arguments();
    let known = job_pg::config::known(&[admin_server::VARS]);
    match command {
        Some(Command::Health) => service::health(admin_server::health_target),
        Some(Command::Migrate) => service::main(&known, |shutdown| async move {
            let config = MigrateConfig::from_env(&ProcessEnv)?;
            admin_server::migrate(&config, &shutdown).await.map_err(ExitError::from_error)
        }),
        None => service::main(&known, |shutdown| async move {
            admin_server::run(Config::from_env(&ProcessEnv)?, shutdown).await.map_err(ExitError::from_error)
        }),
    }
}
