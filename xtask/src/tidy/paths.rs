//! Every path that ARCHITECTURE.md, docs/decisions.md and docs/development.md name exists.

use super::workspace::Workspace;

const DOCUMENTS: [&str; 3] = ["ARCHITECTURE.md", "docs/decisions.md", "docs/development.md"];
const ENDINGS: &[&str] = &[".rs", ".md", ".toml", ".sql", ".yml", ".yaml", ".sh"];

pub(crate) fn check(workspace: &Workspace) -> Vec<String> {
    DOCUMENTS.iter().flat_map(|document| problems(workspace, document)).collect()
}

fn problems(workspace: &Workspace, document: &str) -> Vec<String> {
    let Some(text) = workspace.files.get(document) else { return vec![format!("{document} is missing")] };
    let mut problems = Vec::new();
    for (index, line) in text.lines().enumerate() {
        // Between backticks is every second piece.
        for span in line.split('`').skip(1).step_by(2) {
            for path in spelled_out(span).iter().filter(|path| is_path(path)) {
                if !workspace.has(path) {
                    problems.push(format!("{document}:{}: there is no `{path}`", index + 1));
                }
            }
        }
    }
    problems
}

/// Whether a code span names a file or directory, from the top of the repository.
fn is_path(span: &str) -> bool {
    let plain = span.chars().all(|letter| letter.is_ascii_alphanumeric() || "._-/".contains(letter));
    let known = ["crates/", "xtask/", "tools/", "migrations/", "deploy/", "fuzz/", ".ci/", ".cargo/"]
        .iter()
        .any(|top| span.starts_with(top));
    plain && !span.starts_with('/') && (known || ENDINGS.iter().any(|ending| span.ends_with(ending)))
}

/// `a/{b,c}.rs` is `a/b.rs` and `a/c.rs`.
fn spelled_out(span: &str) -> Vec<String> {
    match span.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
        Some((before, (choices, after))) => {
            choices.split(',').map(|choice| format!("{before}{}{after}", choice.trim())).collect()
        }
        None => vec![span.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_not_there_is_told_with_its_line() {
        let text = "See `crates/a/src/lib.rs`, `crates/a/`,\n`crates/a/src/{lib,gone}.rs`, `/healthz`, `SELECT 1`, `x.y`, `gone.md`.";
        let workspace = Workspace::of(&[
            (DOCUMENTS[0], text),
            ("crates/a/src/lib.rs", ""),
            (DOCUMENTS[1], "`crates/b/`"),
            (DOCUMENTS[2], ""),
        ]);
        let gone = [
            "ARCHITECTURE.md:2: there is no `crates/a/src/gone.rs`",
            "ARCHITECTURE.md:2: there is no `gone.md`",
            "docs/decisions.md:1: there is no `crates/b/`",
        ];
        assert_eq!(check(&workspace), gone);
    }
}
