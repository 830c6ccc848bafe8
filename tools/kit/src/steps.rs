//! Steps with one line each: what, how long, and whether it passed.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::{child, workspace_dir};

/// A run of several steps that stops at the first that fails.
pub struct Steps {
    name: &'static str,
    start: Instant,
    done: usize,
}

impl Steps {
    /// A run of this name, which begins now.
    pub fn new(name: &'static str) -> Self {
        Self { name, start: Instant::now(), done: 0 }
    }

    /// Runs one step and prints its line. A failure ends the run, and is the run's summary.
    pub async fn step<T>(&mut self, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        println!("==> {what}");
        let start = Instant::now();
        let result = work.await;
        let word = if result.is_ok() { "ok" } else { "FAILED" };
        println!("<== {what}: {word} ({})", seconds(start.elapsed()));
        self.done += 1;
        result.with_context(|| {
            let total = seconds(self.start.elapsed());
            format!("{}: FAILED at step {} ({what}) after {total}", self.name, self.done)
        })
    }

    /// A step that is a cargo command.
    ///
    /// # Errors
    /// It has failed.
    pub async fn cargo(&mut self, what: &str, arguments: &[&str]) -> Result<()> {
        self.step(what, cargo(arguments, &[])).await
    }

    /// A step that is left out, visibly.
    pub fn skip(&self, what: &str, why: &str) {
        println!("--- {what}: SKIPPED ({why})");
    }

    /// The last line.
    pub fn finish(self) {
        println!("{}: ok, {} steps in {}", self.name, self.done, seconds(self.start.elapsed()));
    }
}

fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{} min {:.0} s", seconds as u64 / 60, seconds % 60.0)
    }
}

/// Runs cargo at the top of the workspace; its output is ours.
pub async fn cargo(arguments: &[&str], variables: &[(&str, String)]) -> Result<()> {
    let mut command = command(arguments);
    command.envs(variables.iter().cloned());
    let status = child::status(command).await?;
    if !status.success() {
        bail!("`cargo {}` failed ({status})", arguments.join(" "));
    }
    Ok(())
}

/// What a cargo command prints.
pub async fn cargo_output(arguments: &[&str]) -> Result<String> {
    let output = command(arguments).stderr(Stdio::inherit()).output().await.context("cannot run cargo")?;
    if !output.status.success() {
        bail!("`cargo {}` failed ({})", arguments.join(" "), output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The cargo that runs this.
pub fn cargo_program() -> String {
    #[allow(clippy::disallowed_methods, reason = "cargo sets it; this crate stands below job_utils")]
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// What a command prints to standard output; its complaint is the error.
pub async fn output_of(mut command: Command) -> Result<String> {
    command.kill_on_drop(true);
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let output = command.output().await.with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A cargo command at the top of the workspace, not yet started.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(cargo_program());
    command.args(arguments).current_dir(workspace_dir()).stdin(Stdio::null()).kill_on_drop(true);
    command
}
