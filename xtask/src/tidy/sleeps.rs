//! Sleeping. A test waits for a condition (`job_testkit::eventually`), never for time to pass. A service may wait for
//! time as one arm of a select, where something else can end the wait; other sleeps are named here with their reason.

use super::source;
use super::workspace::Workspace;

/// A file that may sleep outside a select, and why.
const ALLOWED: &[(&str, &str)] = &[
    ("crates/admin-server/src/lib.rs", "the grace of a stop"),
    ("crates/job-fn/src/app.rs", "the grace of a stop"),
    ("crates/job-fn/src/extend.rs", "between two heartbeats of a handler"),
    ("crates/job-scheduler/src/scheduler.rs", "the grace of a stop"),
    ("crates/job-server/src/callback.rs", "a failure without words lets the one with words pass"),
    ("crates/job-server/src/lib.rs", "the grace of a stop"),
    ("crates/job-testkit/src/wait.rs", "between two looks at a condition"),
    ("crates/job-pg/src/handles/callback.rs", "back-off while the database is away"),
    ("crates/job-pg/src/listener/listen.rs", "between two looks for the worker id's earlier holder"),
    (
        "crates/job-pg/src/schema/migrate.rs",
        "between tries of a migration that others stand in the way of: who waits behind it goes first",
    ),
    ("crates/job-pg/src/testing.rs", "between two looks at a job, for tests of applications"),
    ("crates/job-pg/src/jobs/settle.rs", "back-off while the database is away"),
    (
        "crates/job-utils/src/http_server.rs",
        "between two looks for clients whose time is over, for a descriptor, and the last answers of a server that was dropped",
    ),
    ("crates/job-worker/src/accept.rs", "the moment in which a function may call back at no cost, and back-off"),
    (
        "crates/job-worker/src/attempt.rs",
        "back-off while the database is away; a hook's time after its job was taken away",
    ),
    ("crates/job-worker/src/claim/buffer_release.rs", "until buffered jobs are too old"),
    ("crates/job-worker/src/claim/reconcile.rs", "until the next search for unknown jobs"),
    ("crates/job-worker/src/claim/waiter.rs", "between two claims of what was written before the worker registered"),
    ("crates/job-worker/src/limits.rs", "back-off while the database is away, or a claim's transaction is open"),
    ("crates/job-worker/src/release.rs", "back-off while the database is away"),
    ("crates/job-worker/src/drain.rs", "between two questions for callbacks during a stop"),
    ("crates/job-worker/src/dispatch/hosts.rs", "between two tries to connect to a host; ends with the worker"),
    ("crates/job-worker/src/dispatch/probe.rs", "between two tries of the callback URL; the service ends it at a stop"),
    (
        "crates/job-worker/src/heartbeat.rs",
        "the last answer of an attempt whose job is gone; what an earlier session may take to connect anew, and back-off",
    ),
];

pub(crate) fn check(workspace: &Workspace) -> Vec<String> {
    let mut problems = Vec::new();
    let mut used = Vec::new();
    // What measures lets time pass: it is what it measures.
    let exempt = |path: &str| path.starts_with("xtask/src/tidy/") || path.starts_with("bench/");
    for (path, content) in workspace.ending(".rs").filter(|(path, _)| !exempt(path)) {
        let code: Vec<usize> = source::code(content).map(|(number, _)| number).collect();
        for (index, line) in content.lines().enumerate().filter(|(_, line)| sleeps(line)) {
            let number = index + 1;
            let in_test = source::is_test(path) || !code.contains(&number);
            if in_test {
                problems
                    .push(format!("{path}:{number}: a test sleeps; wait for a condition (job_testkit::eventually)"));
            } else if let Some((allowed, _)) = ALLOWED.iter().find(|(allowed, _)| *allowed == path) {
                used.push(*allowed);
            } else if !line.trim_start().starts_with("() = ") {
                problems
                    .push(format!("{path}:{number}: sleeps; select with an end, or argue in xtask/src/tidy/sleeps.rs"));
            }
        }
    }
    for (path, reason) in ALLOWED.iter().filter(|(path, _)| workspace.has(path) && !used.contains(path)) {
        problems.push(format!("{path}: does not sleep ({reason}); strike it from xtask/src/tidy/sleeps.rs"));
    }
    problems
}

/// Whether a line of code, not of comment, sleeps or imports the means to.
fn sleeps(line: &str) -> bool {
    let line = line.trim_start();
    let calls = ["thread::sleep(", "time::sleep(", "time::sleep_until("].iter().any(|call| line.contains(call));
    let imports =
        line.starts_with("use ") && (line.contains("::sleep") || line.contains(" sleep") || line.contains("{sleep"));
    !line.starts_with("//") && (calls || imports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_in_a_test_or_beside_no_other_end_is_told() {
        let sleep = "//! Doc.\n    tokio::time::sleep(LONG).await;\n";
        let workspace = Workspace::of(&[
            ("crates/a/src/arm.rs", "//! Doc.\n    () = tokio::time::sleep(LONG) => {}\n// tokio::time::sleep(LONG)"),
            ("crates/a/src/bare.rs", sleep),
            ("crates/a/src/import.rs", "//! Doc.\nuse tokio::time::{Instant, sleep};"),
            ("crates/a/src/unit.rs", "//! Doc.\n#[cfg(test)]\nmod tests {\n    () = tokio::time::sleep(LONG) => {}"),
            ("crates/a/tests/it.rs", sleep),
            ("bench/a/src/main.rs", sleep),
            ("crates/job-testkit/src/wait.rs", sleep),
            ("crates/job-worker/src/drain.rs", "//! Doc."),
        ]);
        let problems = check(&workspace);
        let places: Vec<&str> = problems.iter().filter_map(|problem| problem.split(": ").next()).collect();
        let expected = [
            "crates/a/src/bare.rs:2",
            "crates/a/src/import.rs:2",
            "crates/a/src/unit.rs:4",
            "crates/a/tests/it.rs:2",
            "crates/job-worker/src/drain.rs",
        ];
        assert_eq!(places, expected);
    }
}
