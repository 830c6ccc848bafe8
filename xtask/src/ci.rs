//! `cargo xtask ci`: the slower checks. A workspace build unifies features and hides a trespass, so each crate is built
//! alone.

use anyhow::{Result, bail};

use crate::steps::{Steps, cargo, cargo_output};
use crate::tidy::workspace::Workspace;
use crate::{chaos, deploy_check, library, rules};

/// Crates that must not link a database client.
const NO_POSTGRES: &[&str] = &["job-fn", "mailer", "send-email", "send-verification-link", "job-utils"];

/// One plan for every change; `cargo xtask chaos` takes others.
const CHAOS_SEED: u64 = 20;

/// Some schedules for every change; `cargo xtask rules` takes others, and more.
const RULES_SEED: u64 = 4;

pub(crate) async fn run() -> Result<()> {
    let mut steps = Steps::new("cargo xtask ci");
    let workspace = Workspace::load()?;
    for name in workspace.crates.keys() {
        steps.cargo(&format!("{name} alone"), &["check", "--quiet", "-p", name]).await?;
    }
    let with_db = ["check", "--quiet", "-p", "job-utils", "--features", "db"];
    steps.cargo("job-utils alone, with the database", &with_db).await?;
    steps.step("functions link no database client", no_postgres()).await?;
    steps.step("packages for crates.io", library::packages()).await?;
    steps.step("a newcomer follows the README", library::newcomer()).await?;
    steps.step("with sqlx", library::with_sqlx()).await?;
    let doc = &["doc", "--workspace", "--no-deps", "--quiet"];
    steps.step("documentation", cargo(doc, &[("RUSTDOCFLAGS", "-D warnings".to_owned())])).await?;
    if cargo_output(&["--list"]).await?.lines().any(|line| line.trim_start().starts_with("deny")) {
        steps.cargo("licences and advisories", &["deny", "--workspace", "check"]).await?;
    } else {
        steps.skip("licences and advisories", "cargo-deny is not installed");
    }
    steps.step("deploy-check", deploy_check::run()).await?;
    match rules::Programs::prepare().await {
        Ok(programs) => {
            let some = rules::compare(&programs, rules::Options::small(RULES_SEED));
            steps.step("schedules beside croniter and cron-parser", some).await?;
        }
        Err(missing) => steps.skip("schedules beside croniter and cron-parser", &format!("{missing:#}")),
    }
    steps.step("chaos, 20 s of it", chaos::run(chaos::Options::short(CHAOS_SEED))).await?;
    steps.finish();
    Ok(())
}

async fn no_postgres() -> Result<()> {
    for name in NO_POSTGRES {
        let tree = cargo_output(&["tree", "--quiet", "-p", name, "-e", "normal", "--prefix", "none"]).await?;
        if !tree.lines().next().is_some_and(|line| line.starts_with(name)) {
            bail!("`cargo tree -p {name}` does not begin with {name}: this check sees nothing");
        }
        if let Some(line) = tree.lines().find(|line| line.starts_with("tokio-postgres ")) {
            bail!("{name} links {line}; see `cargo tree -p {name} -e normal -i tokio-postgres`");
        }
    }
    Ok(())
}
