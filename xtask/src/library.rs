//! What strangers do with the crates: put them into a package, and follow the README to a program that runs.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use job_testkit::process::Program;
use job_testkit::{Signal, TestDb, env};

use crate::steps::{self, command};

/// Not for crates.io.
const NOT_PUBLISHED: &[&str] = &["examples", "xtask", "job-fuzz"];

/// How long a newcomer waits for the first line. The program is built by then.
const PATIENCE: Duration = Duration::from_secs(60);

/// Every crate that is published can be packaged, and cargo has nothing to say about it.
pub(crate) async fn packages() -> Result<()> {
    // Dirty, because it is checked before a commit as well.
    let mut arguments = vec!["package", "--workspace", "--no-verify", "--allow-dirty", "--quiet"];
    arguments.extend(NOT_PUBLISHED.iter().flat_map(|name| ["--exclude", name]));
    let output = command(&arguments).stderr(Stdio::piped()).output().await.context("cannot run cargo")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || said.contains("warning:") {
        bail!("`cargo {}` said:\n{said}", arguments.join(" "));
    }
    Ok(())
}

/// `cargo new`, the dependencies that the README names, its program pasted: it runs against DATABASE_URL.
pub(crate) async fn newcomer() -> Result<()> {
    let readme = std::fs::read_to_string(env::workspace_dir().join("README.md"))?;
    let section = readme.split_once("## As a Rust library").context("the README has no section for newcomers")?.1;
    let program = section.split_once("```rust,no_run\n").and_then(|(_, rest)| rest.split_once("```"));
    let program = program.context("the README shows no program to newcomers")?.0;
    // What is between backticks there, and begins with `cargo add`.
    let additions = section.split("```").next().unwrap_or_default().split('`').skip(1).step_by(2);
    let additions: Vec<String> = additions
        .filter_map(|code| code.strip_prefix("cargo add "))
        .map(|code| code.replace("<this repository>", &env::workspace_dir().to_string_lossy()))
        .collect();
    ensure!(additions.len() == 3, "the README names other dependencies than three: {additions:?}");

    let directory = tempfile::tempdir()?;
    let project = directory.path().join("newcomer");
    cargo(directory.path(), "new --quiet --vcs none newcomer").await?;
    // The versions that are built already.
    std::fs::copy(env::workspace_dir().join("Cargo.lock"), project.join("Cargo.lock"))?;
    for addition in &additions {
        cargo(&project, &format!("add --quiet --offline {addition}")).await?;
    }
    std::fs::write(project.join("src/main.rs"), program)?;
    cargo(&project, "build --quiet --offline").await?;

    let database = TestDb::empty().await;
    let program = Program::at(env::target_dir().join("debug/newcomer")).env("DATABASE_URL", database.url());
    let mut process = program.spawn();
    process.wait_for_line("hello Ada", PATIENCE).await;
    process.signal(Signal::Term);
    let code = process.exit_code(PATIENCE).await;
    ensure!(code == 0, "it ended with {code}:\n{}", process.output());
    Ok(())
}

/// Enqueueing and completing in sqlx's transactions, as docs/library.md shows it. In the workspace of the benchmarks, to keep sqlx out
/// of ours.
pub(crate) async fn with_sqlx() -> Result<()> {
    let database = TestDb::empty().await;
    let arguments = ["run", "--quiet", "--manifest-path", "bench/Cargo.toml", "-p", "ours", "--example", "sqlx"];
    steps::cargo(&arguments, &[("DATABASE_URL", database.url().to_owned())]).await
}

/// Runs cargo in a directory, with this workspace's target directory and profile, so that nothing is built twice.
async fn cargo(directory: &Path, arguments: &str) -> Result<()> {
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    let mut command = command(&arguments);
    command.current_dir(directory).env("CARGO_TARGET_DIR", env::target_dir());
    command.env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only");
    let status = command.status().await.context("cannot run cargo")?;
    ensure!(status.success(), "`cargo {}` failed ({status})", arguments.join(" "));
    Ok(())
}
