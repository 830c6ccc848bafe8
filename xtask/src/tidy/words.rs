//! Names are the field's standard terms. These words were names of this project's own once, and do not come back.

use super::workspace::Workspace;

/// A word, and what says the same to everybody.
const REFUSED: &[(&str, &str)] = &[
    ("deaf", "not listening"),
    ("keeper", "connection, or supervisor"),
    ("lasting", "long"),
    ("lender", "pool"),
    ("lent", "a connection, or a permit"),
    ("minder", "reaper"),
    ("pressing", "within a limit"),
    ("pulse", "heartbeat"),
    ("sparingly", "log limit"),
    ("surroundings", "context"),
    ("suspicions", "alarm"),
    ("vigil", "waiter registration"),
];

/// Where they are looked for.
const SEARCHED: &[&str] = &["crates/", "tools/"];

pub(crate) fn check(workspace: &Workspace) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, content) in
        workspace.ending(".rs").filter(|(path, _)| SEARCHED.iter().any(|folder| path.starts_with(folder)))
    {
        for (index, line) in content.lines().enumerate() {
            let words = words(line);
            for (word, instead) in REFUSED.iter().filter(|(refused, _)| words.iter().any(|word| word == refused)) {
                problems.push(format!("{path}:{}: says {word:?}; the usual word is {instead:?}", index + 1));
            }
        }
    }
    problems
}

/// The words of a line, those of names too, in lower case.
fn words(line: &str) -> Vec<String> {
    let mut spaced = String::with_capacity(line.len());
    let mut after_lower = false;
    for c in line.chars() {
        if c.is_uppercase() && after_lower {
            spaced.push(' ');
        }
        after_lower = c.is_lowercase();
        spaced.extend(if c.is_alphabetic() { c.to_lowercase().next() } else { Some(' ') });
    }
    spaced.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_word_is_found_in_names_of_any_form_and_not_within_other_words() {
        let lines = "struct PulseTimer;\nfn go_deaf() {}\n// A vigil.\nconst LENT: u8 = 0;\nlet silent = impulse;\n";
        let files = [("crates/c/src/a.rs", lines), ("tools/t/src/a.rs", "fn minder() {}\n"), ("docs/a.rs", lines)];
        let problems = check(&Workspace::of(&files));
        let found: Vec<&str> = problems.iter().filter_map(|problem| problem.split(": ").next()).collect();
        let mut expected = [1, 2, 3, 4].map(|line| format!("crates/c/src/a.rs:{line}")).to_vec();
        expected.push("tools/t/src/a.rs:1".to_owned());
        assert_eq!(found, expected);
    }
}
