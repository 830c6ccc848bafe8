//! The programs that are measured: found in bench/, built, and run one command at a time.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use job_testkit::env;
use serde_json::Value;
use tokio::process::Command;

use toolkit::steps;

/// What a program is in the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Limits,
    Ours,
    Rival,
}

/// How long one command may take at the most; nothing that is measured takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(600);

/// Directories of bench/ that hold no rival.
const NO_RIVALS: &[&str] = &["ours", "limits", "function", "rivalkit"];

/// How services are built: as they are shipped.
const PROFILE: &str = "dist";

/// Where a service of ours is, once it is built.
pub(super) fn service(name: &str) -> PathBuf {
    env::target_dir().join(PROFILE).join(name)
}

/// One program.
#[derive(Debug, Clone)]
pub(super) struct Program {
    /// The name of its directory.
    pub(super) name: String,
    /// Name and version for the tables.
    pub(super) label: String,
    pub(super) kind: Kind,
    command: Vec<OsString>,
}

/// What a command answered.
pub(super) enum Reply {
    Done(Value),
    /// The program has no such thing.
    Unsupported,
}

impl Program {
    /// Runs a command to its end; its answer is the last line that it prints.
    pub(super) async fn call(&self, arguments: &[String]) -> Result<Reply> {
        let what = format!("{} {}", self.name, arguments.first().map_or("", String::as_str));
        let child = self.command(arguments)?.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let output = child.with_context(|| format!("cannot start {what}"))?.wait_with_output();
        let output = tokio::time::timeout(PATIENCE, output).await;
        let output = output.ok().with_context(|| format!("{what}: no end within {PATIENCE:?}"))??;
        let stdout = String::from_utf8_lossy(&output.stdout);
        let answer = stdout.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok());
        match (output.status.code(), answer) {
            (Some(0), Some(answer)) => Ok(Reply::Done(answer)),
            (Some(2), Some(answer)) if answer.get("unsupported").is_some() => Ok(Reply::Unsupported),
            (code, _) => {
                let stderr = String::from_utf8_lossy(&output.stderr);
                let last: Vec<&str> = stderr.lines().filter(|line| !line.trim().is_empty()).collect();
                bail!("{what}: status {code:?}: {}", last[last.len().saturating_sub(3)..].join("; "))
            }
        }
    }

    /// The program itself, for a process of our own.
    pub(super) fn path(&self) -> Result<&Path> {
        self.command.first().map(Path::new).context("no command")
    }

    /// The command, not yet started. It is killed when its handle is dropped.
    fn command(&self, arguments: &[String]) -> Result<Command> {
        let (program, first) = self.command.split_first().context("no command")?;
        let mut command = Command::new(program);
        command.args(first).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        // The last lines say what was wrong, and not from where that came.
        command.env("RUST_BACKTRACE", "0");
        Ok(command)
    }
}

/// All programs of a run.
pub(super) struct Programs {
    pub(super) limits: Program,
    pub(super) ours: Program,
    pub(super) function: Program,
    pub(super) rivals: Vec<Program>,
    /// The version of Node, when there are programs for it.
    pub(super) node: Option<String>,
    /// What is not there, and why.
    pub(super) absent: Vec<String>,
}

impl Programs {
    /// Builds what is needed: of our own services only these, rivals only with `peers`, and of these only those with
    /// the names given, if any are. A rival that cannot be built is named and left out.
    pub(super) async fn prepare(services: &BTreeSet<&str>, peers: bool, names: &[String]) -> Result<Self> {
        for service in services {
            println!("building {service}");
            let arguments = ["build", "--profile", PROFILE, "-q", "-j", "2", "-p", service, "--bin", service];
            steps::cargo(&arguments, &[]).await?;
        }
        // In one build, or cargo would build what they share with the features of each.
        build(&["limits", "ours", "function"]).await?;
        let mut programs = Self {
            limits: own("limits", Kind::Limits),
            ours: own("ours", Kind::Ours),
            function: own("function", Kind::Limits),
            rivals: Vec::new(),
            node: None,
            absent: Vec::new(),
        };
        if peers {
            programs.find_crates(names).await?;
            programs.find_packages(names).await?;
        } else {
            programs.absent.push("rivals: not asked for (`--peers`)".to_owned());
        }
        Ok(programs)
    }

    async fn find_crates(&mut self, names: &[String]) -> Result<()> {
        for name in directories_with(&bench(), "Cargo.toml")? {
            if NO_RIVALS.contains(&name.as_str()) || !is_wanted(&name, names) {
                continue;
            }
            let manifest = std::fs::read_to_string(bench().join(&name).join("Cargo.toml"))?;
            let package = quoted_after(&manifest, "name = ").with_context(|| format!("bench/{name} has no name"))?;
            let label = match locked_version(&name) {
                Some(version) => format!("{name} {version} (crate)"),
                None => format!("{name} (crate)"),
            };
            match build(&[&package]).await {
                Ok(()) => {
                    let command = vec![binary(&package).into()];
                    self.rivals.push(Program { name, label, kind: Kind::Rival, command });
                }
                Err(error) => self.absent.push(format!("{label}: {error:#}")),
            }
        }
        Ok(())
    }

    async fn find_packages(&mut self, names: &[String]) -> Result<()> {
        let npm = bench().join("npm");
        if !npm.is_dir() {
            return Ok(());
        }
        let node = Command::new("node").arg("--version").output().await;
        let Some(node) = node.ok().filter(|output| output.status.success()) else {
            self.absent.push("the rivals from npm: node is not on this machine".to_owned());
            return Ok(());
        };
        self.node = Some(String::from_utf8_lossy(&node.stdout).trim().to_owned());
        if !is_installed(&npm) {
            let mut install = Command::new("npm");
            install.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&npm);
            if !install.status().await.is_ok_and(|status| status.success()) {
                self.absent.push("the rivals from npm: `npm ci` in bench/npm failed".to_owned());
                return Ok(());
            }
        }
        for name in directories_with(&npm, "index.mjs")? {
            if !is_wanted(&package_name(&name), names) {
                continue;
            }
            let package = if name == ORIGINAL { "@constructive-io/knative-job-worker" } else { &name };
            let manifest = npm.join("node_modules").join(package).join("package.json");
            let manifest = std::fs::read_to_string(manifest).unwrap_or_default();
            let Some(version) = quoted_after(&manifest, "\"version\": ") else {
                self.absent.push(format!("{name} (npm): not installed; remove bench/npm/node_modules and try again"));
                continue;
            };
            let shown = if name == ORIGINAL { "the original" } else { &name };
            let command = vec!["node".into(), npm.join(&name).join("index.mjs").into()];
            let label = format!("{shown} {version} (npm)");
            self.rivals.push(Program { name: package_name(&name), label, kind: Kind::Rival, command });
        }
        Ok(())
    }

    /// The directory of the original's programs, when the original is there.
    pub(super) fn original(&self) -> Option<PathBuf> {
        self.rivals.iter().any(|rival| rival.name == ORIGINAL).then(|| bench().join("npm").join(ORIGINAL))
    }
}

/// The system that this one replaces.
pub(super) const ORIGINAL: &str = "original";

/// Whether npm has installed what is locked now: it writes down what it installed, last.
fn is_installed(npm: &Path) -> bool {
    let written = |file: PathBuf| file.metadata().and_then(|metadata| metadata.modified());
    let installed = written(npm.join("node_modules").join(".package-lock.json"));
    let locked = written(npm.join("package-lock.json"));
    matches!((installed, locked), (Ok(installed), Ok(locked)) if installed >= locked)
}

/// Names are keys: crates have their directory's, packages of Node `npm-` before it.
fn package_name(directory: &str) -> String {
    if directory == ORIGINAL { directory.to_owned() } else { format!("npm-{directory}") }
}

/// Whether a name is among these; none given: all are.
fn is_wanted(name: &str, names: &[String]) -> bool {
    names.is_empty() || names.iter().any(|wanted| wanted == name)
}

/// The directory of all programs.
pub(super) fn bench() -> PathBuf {
    env::workspace_dir().join("bench")
}

fn own(name: &str, kind: Kind) -> Program {
    let label = if kind == Kind::Ours { "**this project**" } else { "limit" };
    Program { name: name.to_owned(), label: label.to_owned(), kind, command: vec![binary(name).into()] }
}

/// Where a package of the workspace in bench/ is, once it is built.
fn binary(package: &str) -> PathBuf {
    bench().join("target").join("release").join(package)
}

/// Builds packages of the workspace in bench/.
async fn build(packages: &[&str]) -> Result<()> {
    let (manifest, target) = (bench().join("Cargo.toml"), bench().join("target"));
    let (manifest, directory) = (manifest.to_string_lossy(), target.to_string_lossy());
    let mut arguments = vec!["build", "--release", "-q", "-j", "2"];
    arguments.extend(["--manifest-path", &manifest, "--target-dir", &directory]);
    arguments.extend(packages.iter().flat_map(|package| ["-p", package]));
    let names = packages.join(", ");
    println!("building {names}");
    // No path of this machine may get into the report.
    steps::cargo(&arguments, &[]).await.ok().with_context(|| format!("{names} cannot be built"))
}

/// The names of directories in `parent` that hold `file`, in order.
fn directories_with(parent: &Path, file: &str) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(parent).with_context(|| format!("cannot read {}", parent.display()))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().join(file).is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

/// The version of a crate in bench/Cargo.lock.
fn locked_version(name: &str) -> Option<String> {
    let lock = std::fs::read_to_string(bench().join("Cargo.lock")).ok()?;
    let (_, package) = lock.split_once(&format!("\nname = \"{name}\"\n"))?;
    quoted_after(package, "version = ")
}

/// The text between the quotes that follow a mark.
fn quoted_after(text: &str, mark: &str) -> Option<String> {
    let (_, rest) = text.split_once(mark)?;
    rest.split('"').nth(1).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_versions_are_read_from_manifests() {
        let manifest = "[package]\nname = \"rival-awa\"\nversion = \"0.0.0\"\n";
        assert_eq!(quoted_after(manifest, "name = ").as_deref(), Some("rival-awa"));
        assert_eq!(quoted_after("{ \"version\": \"1.2.3\" }", "\"version\": ").as_deref(), Some("1.2.3"));
        assert_eq!(quoted_after(manifest, "edition = "), None);
    }
}
