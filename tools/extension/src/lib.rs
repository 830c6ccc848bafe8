//! Puts the extension's files where PostgreSQL looks for them. What is in them is `job_pg::extension`'s business.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command for people, who read its output")]

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;
use job_pg::extension;
use job_testkit::cluster::locate;

/// What to do with the extension.
#[derive(Subcommand)]
pub enum Action {
    /// Write its control and SQL files where `pg_config --sharedir` says
    Install {
        /// Write them to this directory instead
        #[arg(long)]
        into: Option<PathBuf>,
    },
    /// Print the files
    Print,
}

/// Does it, and tells.
///
/// # Errors
/// The server's directory is not found, or a file cannot be written.
pub fn run(action: Action) -> Result<()> {
    match action {
        Action::Install { into } => {
            let directory = into.map_or_else(directory, Ok)?;
            install(&directory)?;
            println!("extension {} is in {}", extension::NAME, directory.display());
            println!("next, in your database: CREATE EXTENSION IF NOT EXISTS \"{}\";", extension::NAME);
        }
        Action::Print => {
            for (name, content) in extension::files() {
                println!("-- {name}\n{content}");
            }
        }
    }
    Ok(())
}

/// The server's directory of extensions.
pub fn directory() -> Result<PathBuf> {
    Ok(locate::sharedir()?.join("extension"))
}

/// Writes the files of the extension there.
pub fn install(directory: &Path) -> Result<()> {
    extension::install(directory).with_context(|| format!("cannot write the extension to {}", directory.display()))
}
