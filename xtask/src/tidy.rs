//! The rules of this workspace that neither rustc, clippy nor rustfmt checks. A rule without a check will be broken.

mod arrows;
mod documents;
pub(crate) mod env_table;
mod files;
mod guarantees;
mod migrations;
mod modules;
mod paths;
mod sleeps;
mod source;
mod sql;
pub(crate) mod workspace;

use anyhow::{Result, bail};

use workspace::Workspace;

/// Checks every rule; with `fix`, rewrites what is generated first.
pub(crate) fn run(fix: bool) -> Result<()> {
    let mut workspace = Workspace::load()?;
    if fix {
        env_table::fix(&workspace)?;
        migrations::fix()?;
        workspace = Workspace::load()?;
    }
    let problems = [
        files::check(&workspace),
        arrows::check(&workspace),
        modules::check(&workspace),
        sql::check(&workspace),
        sleeps::check(&workspace),
        migrations::check(&workspace),
        migrations::check_version(),
        paths::check(&workspace),
        documents::check(&workspace),
        env_table::check(&workspace),
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
