//! What every binary does around its `run`: logging, runtime, signals, exit code.

use std::process::ExitCode;

use crate::config::{ConfigError, Env, Known, ProcessEnv, misspelt};
use crate::probe::{self, Target};
use crate::shutdown::Shutdown;
use crate::telemetry;

/// Exit code for a configuration that cannot be used (`EX_USAGE` of sysexits.h).
pub const EXIT_CONFIG: u8 = 64;
/// Exit code for a failure while running (`EX_SOFTWARE` of sysexits.h).
pub const EXIT_FAILURE: u8 = 70;

/// Why a program ended badly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExitError {
    /// The configuration or the arguments cannot be used: exit code 64.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An argument cannot be used: exit code 64.
    #[error("{0}")]
    Usage(String),
    /// Something failed while running: exit code 70.
    #[error(transparent)]
    Failure(#[from] anyhow::Error),
}

impl ExitError {
    /// How a program ends with this error: 64 when a setting is at the bottom of it, however deep, else 70.
    pub fn from_error(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(error) = cause {
            if let Some(config) = error.downcast_ref::<ConfigError>() {
                return Self::Config(config.clone());
            }
            cause = error.source();
        }
        Self::Failure(error.into())
    }
}

/// What a program can be told that otherwise only runs.
#[cfg(feature = "cli")]
#[derive(Debug, Clone, Copy, clap::Subcommand)]
#[non_exhaustive]
pub enum Command {
    /// Ask the service that runs here whether it works: exit code 0, or 70 and the reason.
    Health,
}

/// Reads a program's arguments. Help and version exit with 0, anything that cannot be understood with 64.
#[cfg(feature = "cli")]
pub fn arguments<A: clap::Parser>() -> A {
    A::try_parse().unwrap_or_else(|error| {
        let code = if error.use_stderr() { EXIT_CONFIG } else { 0 };
        // Nobody is left to hear of a closed output.
        let _ = error.print();
        std::process::exit(code.into())
    })
}

/// Warns of variables that are probably misspelt ones of those that the program knows.
fn warn_of_misspelt(known: &Known) {
    for (name, meant) in misspelt(&ProcessEnv, known) {
        tracing::warn!("{name} is set, and nothing reads it: did you mean {meant}?");
    }
}

/// Runs a program: reads its configuration, sets up logging, a runtime and signals, waits for `program`, and turns its
/// result into an exit code (0, 64 for bad configuration, 70 for a failure). Faults of the configuration and of the
/// logging's variables are told together. Variables that are probably misspelt ones of `known` are warned of.
pub fn configured<C, F, Fut>(
    known: &Known,
    configure: impl FnOnce(&dyn Env) -> Result<C, ConfigError>,
    program: F,
) -> ExitCode
where
    F: FnOnce(C, Shutdown) -> Fut,
    Fut: Future<Output = Result<(), ExitError>>,
{
    exit(start(known, configure, program))
}

/// [`configured`] for a program that reads its configuration itself, once logging is set up.
pub fn main<F, Fut>(known: &Known, program: F) -> ExitCode
where
    F: FnOnce(Shutdown) -> Fut,
    Fut: Future<Output = Result<(), ExitError>>,
{
    exit(start(known, |_| Ok(()), |(), shutdown| program(shutdown)))
}

/// The command `health`: asks the running service where its own configuration says that it listens. Without logging and
/// runtime, since it runs every few seconds.
pub fn health(target: impl FnOnce(&dyn Env) -> Result<Target, ConfigError>) -> ExitCode {
    let asked = target(&ProcessEnv).map_err(ExitError::from);
    exit(asked.and_then(|target| probe::ask(&target).map_err(ExitError::from_error)))
}

fn exit(result: Result<(), ExitError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = match &error {
                ExitError::Config(_) | ExitError::Usage(_) => EXIT_CONFIG,
                ExitError::Failure(_) => EXIT_FAILURE,
            };
            report(&error);
            ExitCode::from(code)
        }
    }
}

fn start<C, F, Fut>(
    known: &Known,
    configure: impl FnOnce(&dyn Env) -> Result<C, ConfigError>,
    program: F,
) -> Result<(), ExitError>
where
    F: FnOnce(C, Shutdown) -> Fut,
    Fut: Future<Output = Result<(), ExitError>>,
{
    // Logging first: reading a configuration may have something to say.
    let logging = telemetry::init(&ProcessEnv);
    warn_of_misspelt(known);
    let config = ConfigError::both(logging, configure(&ProcessEnv))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(anyhow::Error::from)?;
    let result = runtime.block_on(async {
        let shutdown = Shutdown::on_signals().map_err(anyhow::Error::from)?;
        program(config, shutdown).await
    });
    // Detached tasks (a name look-up in a blocking thread, say) must not hold up the exit.
    runtime.shutdown_background();
    result
}

#[allow(clippy::print_stderr, reason = "the last word of a program must not depend on the log filter")]
fn report(error: &ExitError) {
    match error {
        ExitError::Failure(error) => eprintln!("error: {error:#}"),
        other => eprintln!("error: {other}"),
    }
}
