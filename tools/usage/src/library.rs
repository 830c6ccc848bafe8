//! What strangers do with the crates: put them into a package, and follow the README to a program that runs.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use job_testkit::process::Program;
use job_testkit::{Signal, TestDb, env};

use serde_json::Value;
use toolkit::steps::{self, Steps, cargo_output, command};

/// How long a newcomer waits for the first line. The program is built by then.
const PATIENCE: Duration = Duration::from_secs(60);

/// Every crate that is published can be packaged and built from its package, alone, and cargo has nothing to say about
/// it.
pub(crate) async fn packages() -> Result<()> {
    // Dirty, because it is checked before a commit as well.
    let mut arguments = vec!["package", "--workspace", "--allow-dirty", "--quiet"];
    let not_published = not_published().await?;
    arguments.extend(not_published.iter().flat_map(|name| ["--exclude", name]));
    // cargo takes what it has packaged for what it downloads: by the place of its directory and the version, it neither
    // unpacks nor builds it again when it is another. So the directory is always in another place, by name; what
    // packages depend on is built once for all of them, and as it is for the workspace.
    let place = tempfile::tempdir()?;
    let target = place.path().join("target");
    std::fs::create_dir_all(env::target_dir())?;
    std::os::unix::fs::symlink(env::target_dir(), &target)?;
    let mut command = command(&arguments);
    command.env("CARGO_TARGET_DIR", &target).env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only");
    let output = command.stderr(Stdio::piped()).output().await.context("cannot run cargo")?;
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
    steps::cargo(&arguments, &[("DATABASE_URL", database_url.to_owned())]).await
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
