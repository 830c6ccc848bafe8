//! SQL only in its rooms: one place to look for every statement that touches a job.

use super::source;
use super::workspace::Workspace;

/// Where SQL may be written, beside tests.
const ROOMS: &[&str] = &[
    "crates/job-pg/src/",
    "crates/admin-server/src/lookup.rs",
    "crates/admin-server/src/lookup/",
    "crates/admin-server/src/migrate.rs",
    "crates/job-testkit/",
    "examples/",
    "tools/",
    "xtask/src/tidy/",
    "bench/",
];

/// How statements begin. Upper case, as all SQL here is written; what a service calls in lower case has no rows.
const STATEMENTS: &[&str] = &[
    "SELECT ",
    "INSERT INTO ",
    "DELETE FROM ",
    "CREATE ",
    "ALTER ",
    "DROP ",
    "TRUNCATE ",
    "LISTEN ",
    "UNLISTEN ",
    "GRANT ",
    "REVOKE ",
    "WITH ",
    "select ",
    "insert into ",
    "delete from ",
    "create table ",
];

pub(crate) fn check(workspace: &Workspace) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, content) in workspace.ending(".rs") {
        if ROOMS.iter().any(|room| path.starts_with(room)) || source::is_test(path) || path.contains("/examples/") {
            continue;
        }
        for (number, line) in source::code(content) {
            if is_sql(line) {
                problems.push(format!("{path}:{number}: SQL belongs in crates/job-pg/src"));
            }
        }
    }
    for (path, _) in workspace.ending(".sql") {
        let in_room = path.starts_with("migrations/") || path.contains("/migrations/") || path.contains("/tests/");
        if !in_room && !path.starts_with("deploy/") && !path.starts_with("tools/") {
            problems.push(format!("{path}: SQL files belong in migrations/"));
        }
    }
    problems
}

/// Whether a statement begins in this line: at its start inside a longer literal, or right after a quote.
fn is_sql(line: &str) -> bool {
    let starts = |text: &str| STATEMENTS.iter().any(|word| text.starts_with(word));
    starts(line.trim_start()) || line.match_indices('"').any(|(at, _)| starts(line[at + 1..].trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_outside_its_room_is_told() {
        let sql = "//! Doc.\nconst SQL: &str = \"SELECT 1\";\n";
        let workspace = Workspace::of(&[
            ("crates/job-worker/src/claim.rs", sql),
            ("crates/job-worker/src/said.rs", "//! SELECT in a comment.\nlet said = \"please SELECT one\";\n"),
            ("crates/job-worker/src/tested.rs", "//! Doc.\n#[cfg(test)]\nmod tests { const S: &str = \"SELECT 1\"; }"),
            ("crates/job-worker/tests/it.rs", sql),
            ("crates/job-pg/src/jobs/claim.rs", sql),
            ("crates/job-server/src/stray.sql", "SELECT 1"),
        ]);
        let problems = check(&workspace);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("crates/job-worker/src/claim.rs:2:"));
        assert!(problems[1].starts_with("crates/job-server/src/stray.sql:"));
    }
}
