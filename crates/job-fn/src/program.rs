//! A function as a program.

use std::process::ExitCode;

use job_utils::config::{Known, ProcessEnv, Reader};
use job_utils::service::{self, ExitError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{App, Config, Context, FunctionError, VARS, health_target};

/// A whole function program: logging, `PORT`, signals, `handler`, exit code. With the argument `health` it asks the
/// function that runs here whether it works, for the health check of a container.
///
/// With the feature `main`, which is on by default.
pub fn main<H, P, F, R, E>(handler: H) -> ExitCode
where
    H: Fn(Context, P) -> F + Send + Sync + 'static,
    P: DeserializeOwned + Send + 'static,
    F: Future<Output = Result<R, E>> + Send + 'static,
    R: Serialize,
    E: Into<FunctionError>,
{
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "health") {
        return service::health(health_target);
    }
    service::main(&Known::new(&[VARS]), |shutdown| async move {
        let mut reader = Reader::new(&ProcessEnv);
        let config = Config::read(&mut reader);
        let config = reader.finish(config)?;
        App::new(handler).listen(&config, shutdown).await?;
        Ok::<_, ExitError>(())
    })
}
