//! Files: each says what it is for, none is too long, none is a `mod.rs`. Lines of SQL and of prose end in time, too.

use super::workspace::Workspace;

/// Where a file of one duty ends. Generated and written-down things (lock files, documents) may be longer.
const MOST_LINES: usize = 450;

/// The most characters of a line of SQL or prose. rustfmt has the same for Rust.
const MOST_CHARACTERS: usize = 120;

/// Written by `cargo xtask bench` and `cargo xtask rules`.
const GENERATED: &[&str] = &["docs/benchmarks.md", "docs/rules.md"];

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
    let prose = workspace.ending(".md").filter(|(path, _)| !GENERATED.contains(path));
    for (path, line, text) in
        prose.flat_map(|(path, content)| wrappable(content).map(move |(line, text)| (path, line, text))).chain(
            workspace
                .ending(".sql")
                .flat_map(|(path, content)| numbered(content).map(move |(n, text)| (path, n, text))),
        )
    {
        let characters = text.chars().count();
        if characters > MOST_CHARACTERS {
            problems.push(format!("{path}:{line}: {characters} characters, {MOST_CHARACTERS} at most: wrap the line"));
        }
    }
    problems
}

fn numbered(content: &str) -> impl Iterator<Item = (usize, &str)> {
    content.lines().enumerate().map(|(index, line)| (index + 1, line))
}

/// The lines of a document that can be wrapped: not those of tables and blocks of code, nor a word alone, such as a URL.
fn wrappable(document: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    numbered(document).filter(move |(_, line)| {
        let line = line.trim();
        let fence = line.starts_with("```");
        in_code ^= fence;
        !in_code && !fence && !line.starts_with('|') && line.contains(' ')
    })
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

    #[test]
    fn a_line_of_sql_or_prose_ends_in_time_where_it_can_be_wrapped() {
        let (fits, long) = ("é ".repeat(MOST_CHARACTERS / 2), "é ".repeat(MOST_CHARACTERS / 2) + "é");
        let url = format!("https://{}", "x".repeat(MOST_CHARACTERS));
        let document = format!("{fits}\n{url}\n| {long} |\n```sql\n{long}\n```\n\n{long}\n");
        let workspace = Workspace::of(&[
            ("a/README.md", &document),
            ("docs/benchmarks.md", &long),
            ("migrations/V1__a.sql", &format!("{fits}\n{long}\n-- {url}")),
        ]);
        let told = |place: &str, characters: usize| {
            format!("{place}: {characters} characters, {MOST_CHARACTERS} at most: wrap the line")
        };
        let expected = [
            told("a/README.md:8", MOST_CHARACTERS + 1),
            told("migrations/V1__a.sql:2", MOST_CHARACTERS + 1),
            told("migrations/V1__a.sql:3", MOST_CHARACTERS + 11),
        ];
        assert_eq!(check(&workspace), expected);
    }
}
