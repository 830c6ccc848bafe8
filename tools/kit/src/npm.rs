//! Packages from npm, as a committed lock file has them: the same versions and the same bytes on each machine.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

/// What is installed.
pub struct Packages {
    /// `package.json`.
    pub manifest: &'static str,
    /// `package-lock.json`.
    pub lock: &'static str,
}

impl Packages {
    /// Installs them into `node_modules` of a directory, unless they are there. An error says what is missing.
    pub async fn install(&self, directory: &Path) -> Result<()> {
        for (name, text) in [("package.json", self.manifest), ("package-lock.json", self.lock)] {
            std::fs::write(directory.join(name), text).with_context(|| format!("cannot write {name}"))?;
        }
        run(directory, "node", &["--version"]).await.context("Node.js is missing")?;
        // npm empties node_modules first, so what this names is there whole.
        let installed = directory.join("node_modules").join("installed.json");
        if std::fs::read_to_string(&installed).is_ok_and(|installed| installed == self.lock) {
            return Ok(());
        }
        let install = ["ci", "--loglevel=error", "--no-audit", "--no-fund", "--ignore-scripts"];
        run(directory, "npm", &install).await.context("npm's packages cannot be had")?;
        std::fs::write(&installed, self.lock).with_context(|| format!("cannot write {}", installed.display()))
    }
}

async fn run(directory: &Path, program: &str, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
