//! Every guarantee names tests that exist: a promise whose test is gone is a hope.

use super::workspace::Workspace;

const DOCUMENT: &str = "docs/guarantees.md";

pub(crate) fn check(workspace: &Workspace) -> Vec<String> {
    let Some(text) = workspace.files.get(DOCUMENT) else { return vec![format!("{DOCUMENT} is missing")] };
    let mut problems = Vec::new();
    for (index, line) in text.lines().enumerate() {
        // Between backticks is every second piece.
        let tests: Vec<&str> = line.split('`').skip(1).step_by(2).filter(|span| is_test(span)).collect();
        for test in &tests {
            let head = format!("fn {test}(");
            let exists = workspace.files.iter().any(|(path, text)| path.ends_with(".rs") && text.contains(&head));
            if !exists {
                problems.push(format!("{DOCUMENT}:{}: there is no test `{test}`", index + 1));
            }
        }
        if line.starts_with("| ") && !line.starts_with("| guarantee") && tests.is_empty() {
            problems.push(format!("{DOCUMENT}:{}: the guarantee names no test", index + 1));
        }
    }
    problems
}

/// Whether a code span is the name of a test: they are sentences.
fn is_test(span: &str) -> bool {
    span.matches('_').count() >= 3 && span.chars().all(|letter| matches!(letter, 'a'..='z' | '0'..='9' | '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guarantee_without_a_test_that_exists_is_told() {
        let text = "| guarantee | test |\n|---|---|\n| a | `it_holds_what_it_says` |\n| b | `it_is_not_there_now` |\n| c | `jobs` |";
        let test = "async fn it_holds_what_it_says() {}";
        let workspace = Workspace::of(&[(DOCUMENT, text), ("crates/a/tests/it.rs", test)]);
        let told = [
            "docs/guarantees.md:4: there is no test `it_is_not_there_now`",
            "docs/guarantees.md:5: the guarantee names no test",
        ];
        assert_eq!(check(&workspace), told);
    }
}
