//! Where PostgreSQL's programs are on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::env;

/// The directory with `initdb`, `pg_ctl` and `postgres`: JOBS_PG_BIN, what `pg_config` says, PATH, Debian's directories
/// (the newest version first), Homebrew's.
pub fn bin_dir() -> Result<PathBuf> {
    if let Some(chosen) = env::var(env::JOBS_PG_BIN) {
        let chosen = PathBuf::from(chosen);
        if !has_server(&chosen) {
            bail!("{} is {}, which has no initdb, pg_ctl and postgres", env::JOBS_PG_BIN, chosen.display());
        }
        return Ok(chosen);
    }
    let mut candidates: Vec<PathBuf> = pg_config("--bindir").into_iter().collect();
    candidates.extend(on_path());
    candidates.extend(versions_below(Path::new("/usr/lib/postgresql"), "bin"));
    for prefix in ["/opt/homebrew/opt", "/usr/local/opt"] {
        candidates.extend(versions_below(Path::new(prefix), "bin"));
    }
    match candidates.into_iter().find(|candidate| has_server(candidate)) {
        Some(found) => Ok(found),
        None => bail!("PostgreSQL's server programs (initdb, pg_ctl, postgres) were not found on this machine"),
    }
}

/// What the `pg_config` beside the server, else the one on PATH, answers to one option.
pub fn sharedir() -> Result<PathBuf> {
    let beside = bin_dir()?.join("pg_config");
    let answer = if beside.is_file() { ask(&beside, "--sharedir") } else { pg_config("--sharedir") };
    match answer {
        Some(directory) => Ok(directory),
        None => bail!("pg_config was not found, so the directory of extensions is not known"),
    }
}

fn has_server(directory: &Path) -> bool {
    ["initdb", "pg_ctl", "postgres"].iter().all(|program| directory.join(program).is_file())
}

fn pg_config(option: &str) -> Option<PathBuf> {
    ask(Path::new("pg_config"), option)
}

fn ask(pg_config: &Path, option: &str) -> Option<PathBuf> {
    let output = Command::new(pg_config).arg(option).output().ok()?;
    let line = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !line.trim().is_empty()).then(|| PathBuf::from(line.trim()))
}

fn on_path() -> Vec<PathBuf> {
    let path = env::var("PATH").unwrap_or_default();
    // Resolved, because programs that are links find their libraries and share files beside the real ones.
    std::env::split_paths(&path)
        .filter_map(|directory| directory.join("pg_ctl").canonicalize().ok()?.parent().map(PathBuf::from))
        .collect()
}

/// `<parent>/*15/<below>` and the like, the highest number first: directories named by a version (`15`,
/// `postgresql@15`) or without one (`postgresql`).
fn versions_below(parent: &Path, below: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix("postgresql").unwrap_or(&name).trim_start_matches('@');
            let number = if version.is_empty() { u32::MAX } else { version.parse().ok()? };
            Some((number, entry.path().join(below)))
        })
        .collect();
    found.sort_by(|left, right| right.cmp(left));
    found.into_iter().map(|(_, directory)| directory).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_comes_first_and_other_directories_not_at_all() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["9", "15", "postgresql@16", "postgresql", "openssl@3", "junk"] {
            std::fs::create_dir(parent.path().join(name)).unwrap();
        }
        let found = versions_below(parent.path(), "bin");
        let names: Vec<_> = found.iter().filter_map(|path| path.parent()?.file_name()?.to_str()).collect();
        assert_eq!(names, ["postgresql", "postgresql@16", "15", "9"]);
        assert!(found.iter().all(|path| path.ends_with("bin")));
    }
}
