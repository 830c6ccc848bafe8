//! migrations/ beside what is compiled in: every file is in a list, and version.txt is that of the functions and
//! triggers.

use std::path::PathBuf;

use anyhow::{Context, Result};
use job_pg::migrate::{FRAGMENTS, FUNCTIONS, MIGRATIONS, current_digest};
use job_testkit::env;

/// What is wrong with the lists and with version.txt.
pub(crate) fn check() -> Result<Vec<String>> {
    let names = |list: &[(&str, &str)]| list.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>();
    let migrations = files("", |name| name.starts_with('V'))?;
    let functions = files("functions", |_| true)?;
    let fragments = files("fragments", |_| true)?;
    let lists = [
        unlisted("MIGRATIONS", names(MIGRATIONS), "migrations/", migrations),
        unlisted("FUNCTIONS", names(FUNCTIONS), "migrations/functions/", functions),
        unlisted("FRAGMENTS", names(FRAGMENTS), "migrations/fragments/", fragments),
    ];
    Ok(lists.into_iter().flatten().chain(stale()).collect())
}

/// Raises the number when functions or triggers have changed since it was written.
pub(crate) fn fix() -> Result<()> {
    if stale().is_none() {
        return Ok(());
    }
    let text = std::fs::read_to_string(version()).unwrap_or_default();
    let number = text.split_whitespace().next().and_then(|number| number.parse::<i32>().ok()).unwrap_or_default();
    let text = format!("{} {}\n", number + 1, current_digest());
    std::fs::write(version(), text).context("cannot write migrations/version.txt")
}

/// Number and digest of the SQL, for programs to tell which is newer.
fn version() -> PathBuf {
    env::workspace_dir().join("migrations/version.txt")
}

fn stale() -> Option<String> {
    let text = std::fs::read_to_string(version()).unwrap_or_default();
    match text.split_whitespace().collect::<Vec<_>>()[..] {
        [number, digest] if number.parse::<i32>().is_ok_and(|number| number > 0) && digest == current_digest() => None,
        _ => Some("migrations/version.txt: the SQL has changed: run cargo xtask tidy --fix".to_owned()),
    }
}

/// The names of the SQL files of a directory below migrations/, without their ending.
fn files(directory: &str, is_meant: fn(&str) -> bool) -> Result<Vec<String>> {
    let directory = env::workspace_dir().join("migrations").join(directory);
    let entries = std::fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter_map(|name| Some(name.strip_suffix(".sql")?.to_owned())).filter(|name| is_meant(name)).collect())
}

fn unlisted(list: &str, mut listed: Vec<String>, directory: &str, mut files: Vec<String>) -> Option<String> {
    listed.sort_unstable();
    files.sort_unstable();
    let problem = || format!("job_pg::migrate::{list} lists {listed:?}, but {directory} holds {files:?}");
    (listed != files).then(problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_no_list_has_is_told() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(unlisted("LIST", names(&["b", "a"]), "there/", names(&["a", "b"])), None);
        let told = unlisted("LIST", names(&["a"]), "there/", names(&["a", "new"])).unwrap();
        assert!(told.contains("LIST lists [\"a\"], but there/ holds [\"a\", \"new\"]"), "{told}");
    }

    #[test]
    fn what_is_there_is_seen() {
        assert!(files("", |name| name.starts_with('V')).unwrap().len() > 1);
        assert!(files("functions", |_| true).unwrap().contains(&"claim".to_owned()));
    }
}
