//! What xtask and the programs in `tools/` share: steps with a line each, and child processes that end with them.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "for commands for people, who read their output")]

pub mod child;
pub mod npm;
pub mod reaper;
#[cfg(feature = "setup")]
pub mod setup;
pub mod steps;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};

/// A command's `main`: its work until the end, or until SIGINT or SIGTERM. A signal drops the work, which kills its
/// processes and stops its servers.
pub async fn main(work: impl Future<Output = Result<()>>) -> ExitCode {
    let result = tokio::select! {
        result = work => result,
        interrupted = child::interrupted() => interrupted.and_then(|()| bail!("interrupted")),
    };
    exit_code(result)
}

/// The end of a command: an error is told.
pub fn exit_code(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The top of the workspace.
pub fn workspace_dir() -> PathBuf {
    let this_crate = Path::new(env!("CARGO_MANIFEST_DIR"));
    this_crate.ancestors().nth(2).unwrap_or(this_crate).to_owned()
}
