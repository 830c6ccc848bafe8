//! Files: each says what it is for, none is too long, none is a `mod.rs`. Lines of SQL and of prose end in time, too.

use super::workspace::Workspace;

/// Where a file of one duty ends. Generated and written-down things (lock files, documents) may be longer.
const MOST_LINES: usize = 450;

/// The most characters of a line of SQL, of prose and of a comment in Rust. rustfmt has the same for code.
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
    let prose = prose.flat_map(|(path, content)| wrappable(numbered(content)).map(move |line| (path, line)));
    let sql = workspace.ending(".sql").flat_map(|(path, content)| numbered(content).map(move |line| (path, line)));
    let comments = workspace.ending(".rs").flat_map(|(path, content)| {
        let comments = numbered(content).filter(|(_, text)| text.trim_start().starts_with("//"));
        wrappable(comments).map(move |line| (path, line))
    });
    for (path, (line, text)) in prose.chain(sql).chain(comments) {
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

/// The lines of a document or of Rust's comments that can be wrapped: not those of tables and blocks of code, nor a
/// word alone, such as a URL.
fn wrappable<'a>(lines: impl Iterator<Item = (usize, &'a str)>) -> impl Iterator<Item = (usize, &'a str)> {
    let mut in_code = false;
    lines.filter(move |(_, line)| {
        let line = line.trim_start().trim_start_matches("//").trim_start_matches(['/', '!']).trim();
        let fence = line.starts_with("```");
        in_code ^= fence;
        !in_code && !fence && !line.starts_with('|') && line.contains(' ')
    })
}
