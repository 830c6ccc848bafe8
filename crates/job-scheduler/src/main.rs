//! `job-scheduler`: without an argument, turns due schedules into jobs; `next` shows when a schedule would fire.

use std::io;
use std::process::ExitCode;

use clap::Parser;
use job_pg::config::known;
use job_scheduler::preview::Preview;
use job_scheduler::timetable::TimeZone;
use job_scheduler::{SchedulerConfig, VARS, read_time_zone};
use job_utils::config::{ConfigError, Env, Reader};
use job_utils::probe::Target;
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
    /// Ask the scheduler that runs here whether it works: exit code 0, or 70 and the reason.
    Health,
}

fn main() -> ExitCode {
    let arguments: Arguments = service::arguments();
    match arguments.command {
        None => service::configured(&known(&[VARS]), SchedulerConfig::from_env, run),
        Some(Command::Health) => service::health(Target::alone),
        Some(Command::Next(preview)) => service::configured(&known(&[VARS]), zone, |zone, _| async move {
            preview.run(&zone, jiff::Timestamp::now(), io::stdin().lock(), io::stdout().lock())
        }),
    }
}

async fn run(config: SchedulerConfig, shutdown: Shutdown) -> Result<(), ExitError> {
    job_scheduler::run(config, shutdown).await.map_err(ExitError::from_error)?;
    Ok(())
}

/// What a preview needs to know.
fn zone(env: &dyn Env) -> Result<TimeZone, ConfigError> {
    let mut reader = Reader::new(env);
    let zone = read_time_zone(&mut reader);
    reader.finish(zone)
}
