//! What is generated from the programs: the tables of settings in docs/, and the version of the SQL in migrations/.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command for people, who read its output")]

mod migrations;
mod tables;

use anyhow::{Result, bail};
pub use tables::names;

/// Checks everything that is generated; with `fix`, rewrites it first.
///
/// # Errors
/// What is out of date has been told on standard error, or a file cannot be read or written.
pub fn run(fix: bool) -> Result<()> {
    if fix {
        tables::fix()?;
        migrations::fix()?;
    }
    let problems = [tables::check()?, migrations::check()?].concat();
    for problem in &problems {
        eprintln!("{problem}");
    }
    match problems.len() {
        0 => Ok(()),
        count => bail!("generated: {count} out of date"),
    }
}
