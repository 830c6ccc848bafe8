//! The compose files: compose itself reads them.

use std::path::Path;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

/// The files at the top of the repository.
pub(crate) const FILES: [&str; 2] = ["docker-compose.yml", "docker-compose.jobs.yml"];

/// `docker-compose`, or `docker compose` where that is all there is; None when neither answers.
pub(crate) async fn program() -> Option<Vec<String>> {
    for words in [&["docker-compose"][..], &["docker", "compose"]] {
        let mut command = command(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        let answer = command.arg("version").output().await;
        if answer.is_ok_and(|answer| answer.status.success()) {
            return Some(words.iter().map(|word| (*word).to_owned()).collect());
        }
    }
    None
}

/// Compose as a command, without arguments.
pub(crate) fn command(program: &[String]) -> Command {
    let mut command = Command::new(program.first().map_or("docker-compose", String::as_str));
    command.args(program.get(1..).unwrap_or_default()).kill_on_drop(true);
    command
}

pub(crate) async fn check(program: &[String], root: &Path) -> Result<()> {
    for file in FILES {
        let mut command = command(program);
        command.args(["-f", file, "config", "--quiet"]).current_dir(root);
        let output = command.output().await.with_context(|| format!("cannot run {}", program.join(" ")))?;
        if !output.status.success() {
            bail!("{file}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
    }
    Ok(())
}
