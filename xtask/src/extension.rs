//! Puts the extension's files where PostgreSQL looks for them. What is in them is `job_utils::db::extension`'s business.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;
use job_testkit::cluster::locate;
use job_utils::db::extension;

/// What to do with the extension.
#[derive(Subcommand)]
pub(crate) enum Action {
    /// Write its control and SQL files where `pg_config --sharedir` says
    Install {
        /// Write them to this directory instead
        #[arg(long)]
        into: Option<PathBuf>,
    },
    /// Print the files
    Print,
}

pub(crate) fn run(action: Action) -> Result<()> {
    match action {
        Action::Install { into } => {
            let directory = into.map_or_else(directory, Ok)?;
            install(&directory)?;
            println!("extension {} is in {}", extension::NAME, directory.display());
            println!("next, in your database: CREATE EXTENSION IF NOT EXISTS \"{}\";", extension::NAME);
        }
        Action::Print => {
            for (name, content) in extension::files() {
                println!("-- {name}\n{content}");
            }
        }
    }
    Ok(())
}

/// The server's directory of extensions.
pub(crate) fn directory() -> Result<PathBuf> {
    Ok(locate::sharedir()?.join("extension"))
}

/// Writes every file of the extension, making the directory where there is none. A file that is there already with the same content is left alone.
pub(crate) fn install(directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    for (name, content) in extension::files() {
        let path = directory.join(name);
        if std::fs::read_to_string(&path).is_ok_and(|there| there == content) {
            continue;
        }
        // Written beside and moved, so that a server never reads half a file.
        let half = path.with_extension("new");
        std::fs::write(&half, content)
            .and_then(|()| std::fs::rename(&half, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
