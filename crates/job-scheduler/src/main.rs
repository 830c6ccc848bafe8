//! `job-scheduler`: without an argument, turns due schedules into jobs; `next` shows when a schedule would fire.

use std::io;
use std::process::ExitCode;

use clap::Parser;
use job_scheduler::preview::Preview;
use job_utils::config::scheduler::read_time_zone;
use job_utils::config::{ProcessEnv, Reader, SchedulerConfig};
use job_utils::service::{self, ExitError};
use job_utils::shutdown::Shutdown;

/// Turns schedules into jobs. Without a command it runs, configured by the environment.
#[derive(Parser)]
#[command(name = "job-scheduler", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Prints when a schedule would fire.
    Next(Preview),
}

fn main() -> ExitCode {
    let arguments = service::arguments();
    service::main(|shutdown| program(arguments, shutdown))
}

async fn program(arguments: Arguments, shutdown: Shutdown) -> Result<(), ExitError> {
    match arguments.command {
        None => {
            let config = SchedulerConfig::from_env(&ProcessEnv)?;
            job_scheduler::run(config, shutdown).await.map_err(ExitError::from_error)?;
            Ok(())
        }
        Some(Command::Next(preview)) => {
            let mut reader = Reader::new(&ProcessEnv);
            let zone = read_time_zone(&mut reader);
            let zone = reader.finish(zone)?;
            preview.run(&zone, jiff::Timestamp::now(), io::stdin().lock(), io::stdout().lock())
        }
    }
}
