//! Files: each says what it is for, none is too long, none is a `mod.rs`.

use super::workspace::Workspace;

/// Where a file of one duty ends. Generated and written-down things (lock files, documents) may be longer.
const MOST_LINES: usize = 450;

pub(crate) fn check(workspace: &Workspace) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, content) in workspace.ending(".rs") {
        if !content.starts_with("//!") && !content.starts_with("#![doc") {
            problems.push(format!("{path}: begins without module docs (`//!`): say what the file is for"));
        }
        if path.ends_with("/mod.rs") {
            problems.push(format!("{path}: use foo.rs and foo/ instead of foo/mod.rs"));
        }
    }
    for (path, content) in workspace.ending(".rs").chain(workspace.ending(".sql")) {
        let lines = content.lines().count();
        if lines > MOST_LINES {
            problems.push(format!("{path}: {lines} lines, {MOST_LINES} at most: split it by duty"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_it_is_for_and_ends_in_time() {
        let long = "//! Long.\n".repeat(MOST_LINES + 1);
        let workspace = Workspace::of(&[
            ("a/ok.rs", "//! Fine."),
            ("a/readme.rs", "#![doc = include_str!(\"../README.md\")]"),
            ("a/mute.rs", "use std::fmt;"),
            ("a/mod.rs", "//! Fine."),
            ("a/long.rs", &long),
        ]);
        let problems = check(&workspace);
        let places: Vec<&str> = problems.iter().filter_map(|problem| problem.split(':').next()).collect();
        assert_eq!(places, ["a/mod.rs", "a/mute.rs", "a/long.rs"]);
    }
}
