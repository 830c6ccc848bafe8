//! What reaches a build: the files below a source that .dockerignore leaves.

use std::path::Path;

use anyhow::{Context, Result};

/// The lines of .dockerignore, without comments.
pub(super) fn patterns(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

/// Copies a file or a directory, named from the top, as COPY does.
pub(super) fn copy(root: &Path, source: &str, patterns: &[&str], to: &Path) -> Result<()> {
    let (from, to_here) = (root.join(source), to.join(source));
    if from.is_dir() {
        // Not left out even where its pattern matches: something in it may be excepted.
        for entry in std::fs::read_dir(&from).with_context(|| format!("cannot read {source}"))? {
            let name = entry?.file_name();
            copy(root, &format!("{source}/{}", name.to_string_lossy()), patterns, to)?;
        }
    } else if !ignored(source, patterns) {
        if let Some(directory) = to_here.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::copy(&from, &to_here).with_context(|| format!("cannot copy {source}"))?;
    }
    Ok(())
}

/// Whether a file is left out: the last pattern decides that matches it or a directory above it.
fn ignored(path: &str, patterns: &[&str]) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let hit = |pattern: &str| {
        let pattern: Vec<&str> = pattern.trim_matches('/').split('/').collect();
        (1..=parts.len()).any(|depth| matches(&parts[..depth], &pattern))
    };
    let last = patterns.iter().rev().find(|pattern| hit(pattern.trim_start_matches('!')));
    last.is_some_and(|pattern| !pattern.starts_with('!'))
}

/// Part by part; `**` stands for any number of them, and `*` for anything within one.
fn matches(path: &[&str], pattern: &[&str]) -> bool {
    match (path, pattern) {
        ([], []) => true,
        (_, ["**", rest @ ..]) => (0..=path.len()).any(|skipped| matches(&path[skipped..], rest)),
        ([part, path @ ..], [wanted, pattern @ ..]) => part_matches(part, wanted) && matches(path, pattern),
        _ => false,
    }
}

fn part_matches(part: &str, wanted: &str) -> bool {
    match wanted.split_once('*') {
        None => part == wanted,
        Some((before, after)) => part.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| part_matches(&rest[at..], after))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pattern_that_matches_decides() {
        let patterns = patterns(
            "# what is not read\n.git\n*.md\n!crates/**/*.md\n\ntool/src/*\n!tool/src/main.rs\ncrates/*/tests\n",
        );
        for (path, left_out) in [
            (".git/config", true),
            ("README.md", true),
            ("crates/one/README.md", false),
            ("crates/README.md", false),
            ("tool/Cargo.toml", false),
            ("tool/src/deep/file.rs", true),
            ("tool/src/main.rs", false),
            ("crates/one/tests/it.rs", true),
            ("crates/one/src/tests/it.rs", false),
        ] {
            assert_eq!(ignored(path, &patterns), left_out, "{path}");
        }
    }

    #[test]
    fn only_what_is_not_left_out_is_copied() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(from.path().join("one/src")).unwrap();
        for file in ["one/Cargo.toml", "one/src/main.rs", "one/src/more.rs"] {
            std::fs::write(from.path().join(file), file).unwrap();
        }
        copy(from.path(), "one", &["one/src/*", "!one/src/main.rs"], to.path()).unwrap();
        let there = |file: &str| to.path().join(file).is_file();
        assert_eq!([there("one/Cargo.toml"), there("one/src/main.rs"), there("one/src/more.rs")], [true, true, false]);
        assert!(copy(from.path(), "two", &[], to.path()).is_err());
    }
}
