//! PostGraphile, the API engine of the original's platform, on our schema: what it shows of it is a committed list.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use job_testkit::{Program, TestDb, env};
use tokio::process::Command;

use toolkit::npm::Packages;

const PACKAGES: Packages = Packages {
    manifest: include_str!("postgraphile/package.json"),
    lock: include_str!("postgraphile/package-lock.json"),
};
const PRINT: &str = include_str!("postgraphile/print.mjs");

/// What it shows. Where a change is meant, this is what to write there: the step's error has it.
const SHOWN: &str = include_str!("postgraphile/shown.txt");

/// How long the migration may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where PostGraphile is.
pub(crate) struct Installed(std::path::PathBuf);

/// Installs it under target/, unless it is there. An error says what is missing.
pub(crate) async fn install() -> Result<Installed> {
    let directory = env::target_dir().join("postgraphile");
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    std::fs::write(directory.join("print.mjs"), PRINT).context("cannot write print.mjs")?;
    PACKAGES.install(&directory).await?;
    Ok(Installed(directory))
}

/// `cargo xtask postgraphile`.
pub(crate) async fn run() -> Result<()> {
    compare(install().await?).await
}

/// The queue's part of the GraphQL schema is the committed list.
pub(crate) async fn compare(Installed(directory): Installed) -> Result<()> {
    let database = TestDb::empty().await;
    let migrate = Program::named("job-service").arg("migrate").env("DATABASE_URL", database.url());
    let mut migrate = migrate.try_spawn()?;
    ensure!(migrate.exit_code(PATIENCE).await == 0, "{}", migrate.output());
    let shown = output(&directory, "node", &["print.mjs", database.url()]).await?;
    let lines: Vec<&str> = shown.lines().collect();
    let expected: Vec<&str> = SHOWN.lines().collect();
    let more: Vec<&&str> = lines.iter().filter(|line| !expected.contains(line)).collect();
    let missing: Vec<&&str> = expected.iter().filter(|line| !lines.contains(line)).collect();
    ensure!(
        more.is_empty() && missing.is_empty(),
        "it shows more than tools/usage/src/postgraphile/shown.txt has: {more:#?}, and lacks {missing:#?}. What is not for applications has \
         a comment that begins with the line @behavior -*"
    );
    Ok(())
}

/// What a program prints.
async fn output(directory: &Path, program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
