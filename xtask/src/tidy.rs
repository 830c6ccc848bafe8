//! The rules of this workspace that neither rustc, clippy nor rustfmt checks. A rule without a check will be broken.
//! Those of what is generated from the programs are checked by `tools/generated`.

mod arrows;
mod documents;
mod files;
mod guarantees;
mod migrations;
mod modules;
mod paths;
mod sleeps;
mod source;
mod sql;
mod words;
pub(crate) mod workspace;

use anyhow::{Result, bail};

use crate::tools::GENERATED;
use workspace::Workspace;

/// `cargo xtask tidy`.
pub(crate) async fn command(fix: bool) -> Result<()> {
    // Both are told, whatever the first says.
    let rules = rules();
    GENERATED.build().await?;
    GENERATED.run(if fix { &["--fix"] } else { &[] }).await.and(rules)
}

/// Checks every rule. `tools/generated` is built.
pub(crate) async fn run() -> Result<()> {
    rules()?;
    GENERATED.run(&[]).await
}

fn rules() -> Result<()> {
    let workspace = Workspace::load()?;
    let problems = [
        files::check(&workspace),
        arrows::check(&workspace),
        modules::check(&workspace),
        sql::check(&workspace),
        sleeps::check(&workspace),
        words::check(&workspace),
        migrations::check(&workspace),
        paths::check(&workspace),
        documents::check(&workspace),
        guarantees::check(&workspace),
    ]
    .concat();
    for problem in &problems {
        eprintln!("{problem}");
    }
    match problems.len() {
        0 => Ok(()),
        1 => bail!("one rule is broken"),
        count => bail!("{count} rules are broken"),
    }
}
