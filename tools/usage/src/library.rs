//! What strangers do with the crates: put them into a package, and follow the README to a program that runs.

use std::borrow::BorrowMut;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use job_testkit::process::Program;
use job_testkit::{Signal, TestDb, env};

use serde_json::Value;
use tokio::process::Command;
use toolkit::steps::{self, Steps, cargo_output, command};

/// How long a newcomer waits for the first line. The program is built by then.
const PATIENCE: Duration = Duration::from_secs(60);

/// Every crate that is published can be packaged and checked from its package, alone, and cargo has nothing to say of
/// it.
pub(crate) async fn packages() -> Result<()> {
    let not_published = not_published().await?;
    let place = tempfile::tempdir()?;
    // Dirty, because it is checked before a commit as well. Not verified by cargo, which builds and links the packages
    // of all crates once for each: four minutes.
    let mut arguments = vec!["package", "--workspace", "--allow-dirty", "--no-verify", "--quiet"];
    arguments.extend(not_published.iter().flat_map(|name| ["--exclude", name]));
    let mut package = command(&arguments);
    package.env("CARGO_TARGET_DIR", place.path().join("packaged"));
    without_a_word(package, &arguments).await?;
    let mut names = Vec::new();
    for file in std::fs::read_dir(place.path().join("packaged/package"))? {
        let file = file?.path();
        if file.extension().is_some_and(|extension| extension == "crate") {
            let mut tar = Command::new("tar");
            tar.arg("-xzf").arg(&file).arg("-C").arg(place.path());
            steps::output_of(tar).await?;
            names.extend(file.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    ensure!(!names.is_empty(), "cargo has packaged nothing");
    // Each takes the others from their packages, and what all depend on as it has been checked for the workspace.
    let (mut patches, mut crates) = (String::new(), Vec::new());
    for directory in &names {
        let name = directory.rsplit_once('-').context("a package without a version")?.0;
        patches += &format!("{name} = {{ path = {directory:?} }}\n");
        crates.push(name);
    }
    let workspace = format!("[workspace]\nresolver = \"3\"\nmembers = {names:?}\n[patch.crates-io]\n{patches}");
    std::fs::write(place.path().join("Cargo.toml"), workspace)?;
    std::fs::copy(env::workspace_dir().join("Cargo.lock"), place.path().join("Cargo.lock"))?;
    for name in crates {
        let arguments = ["check", "--quiet", "--offline", "--package", name];
        let mut check = command(&arguments);
        check.current_dir(place.path()).env("CARGO_TARGET_DIR", env::target_dir());
        without_a_word(check.env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only"), &arguments).await?;
    }
    Ok(())
}

/// Runs cargo, which has to succeed without a warning.
async fn without_a_word(mut cargo: impl BorrowMut<Command>, arguments: &[&str]) -> Result<()> {
    let output = cargo.borrow_mut().stderr(Stdio::piped()).output().await.context("cannot run cargo")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || said.contains("warning:") {
        bail!("`cargo {}` said:\n{said}", arguments.join(" "));
    }
    Ok(())
}

/// The packages whose manifest says so.
async fn not_published() -> Result<Vec<String>> {
    let metadata: Value =
        serde_json::from_str(&cargo_output(&["metadata", "--format-version", "1", "--no-deps"]).await?)?;
    let packages = metadata["packages"].as_array().context("cargo metadata without packages")?;
    let is_kept = |package: &&Value| package["publish"].as_array().is_some_and(Vec::is_empty);
    Ok(packages.iter().filter(is_kept).filter_map(|package| Some(package["name"].as_str()?.to_owned())).collect())
}

/// `cargo new`, the dependencies that the README names, its program pasted: it runs against DATABASE_URL.
pub(crate) async fn newcomer() -> Result<()> {
    let readme = std::fs::read_to_string(env::workspace_dir().join("README.md"))?;
    let section = readme.split_once("## As a Rust library").context("the README has no section for newcomers")?.1;
    let program = section.split_once("```rust,no_run\n").and_then(|(_, rest)| rest.split_once("```"));
    let program = program.context("the README shows no program to newcomers")?.0;
    let section = section.split("\n## ").next().unwrap_or_default();
    let additions: Vec<String> = section
        .lines()
        .filter_map(|line| line.strip_prefix("cargo add "))
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

/// Enqueueing and completing in sqlx's transactions, as docs/library.md shows it. In the workspace of the benchmarks,
/// to keep sqlx out of ours.
pub(crate) async fn with_sqlx() -> Result<()> {
    let database = TestDb::empty().await;
    rival("ours", "sqlx", database.url()).await
}

/// examples/from_graphile_worker.rs on tables that graphile_worker has made, and filled by its own functions. Those of
/// examples/tests are made by hand.
pub(crate) async fn from_graphile_worker() -> Result<()> {
    let database = TestDb::empty().await;
    let url = database.url();
    rival("rival-graphile-worker", "waiting-graphile-worker", url).await?;
    let program = Program::at(env::target_dir().join("debug/from_graphile_worker")).env("DATABASE_URL", url);
    let mut process = program.spawn();
    process.wait_for_line("took over 5 jobs", PATIENCE).await;
    process.wait_for_line("to third", PATIENCE).await;
    let client = database.connect().await;
    // Two stay there; of the others only one is not due.
    let left = "SELECT (SELECT count(*) FROM graphile_worker._private_jobs), \
                (SELECT count(*) FROM app_jobs.jobs WHERE run_at > now() AND key = 'later' AND queue_name = 'mail' \
                 AND max_attempts = 7 AND priority = -3 AND payload->>'to' = 'later')";
    let left = client.query_one(left, &[]).await?;
    ensure!((left.get::<_, i64>(0), left.get::<_, i64>(1)) == (2, 1), "{left:?}");
    process.signal(Signal::Term);
    let code = process.exit_code(PATIENCE).await;
    ensure!(code == 0, "it ended with {code}:\n{}", process.output());
    let lines = process.lines();
    let mut ran: Vec<&str> = lines.iter().filter_map(|line| line.trim().strip_prefix("to ")).collect();
    ran.retain(|to| *to != "plain");
    ensure!(ran == ["first", "second", "third"], "the order was {ran:?}");
    Ok(())
}

/// The small application that docs/library.md compares, with each crate of bench/.
const RECEIPTS: &[(&str, &str)] = &[
    ("ours", "receipt-ours"),
    ("rival-graphile-worker", "receipt-graphile-worker"),
    ("rival-apalis-postgres", "receipt-apalis-postgres"),
    ("rival-riverqueue", "receipt-riverqueue"),
    ("rival-awa", "receipt-awa"),
];

/// `cargo xtask peers`: every one of them compiles and does what it says. Not in `ci`: it builds all rivals.
pub(crate) async fn peers() -> Result<()> {
    let mut steps = Steps::new("cargo xtask peers");
    for (package, example) in RECEIPTS {
        let run = async {
            let database = TestDb::empty().await;
            rival(package, example, database.url()).await
        };
        steps.step(example, run).await?;
    }
    steps.finish();
    Ok(())
}

/// Runs an example of the workspace of the benchmarks.
async fn rival(package: &str, example: &str, database_url: &str) -> Result<()> {
    let arguments = ["run", "--quiet", "--manifest-path", "bench/Cargo.toml", "-p", package, "--example", example];
    // What it shares with our workspace is not built again.
    let variables = [
        ("DATABASE_URL", database_url.to_owned()),
        ("CARGO_TARGET_DIR", env::target_dir().to_string_lossy().into_owned()),
        ("CARGO_PROFILE_DEV_DEBUG", "line-tables-only".to_owned()),
    ];
    steps::cargo(&arguments, &variables).await
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
