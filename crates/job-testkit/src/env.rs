//! The environment of a test run, and the places that follow from it.

use std::path::PathBuf;

/// The URL of a server for tests, set by `cargo xtask test`. Its user must be a superuser.
pub const JOBS_TEST_DATABASE_URL: &str = "JOBS_TEST_DATABASE_URL";
/// Set to 1 when the extension's files are where the test server finds them.
pub const JOBS_TEST_EXTENSION: &str = "JOBS_TEST_EXTENSION";
/// The directory of PostgreSQL's programs, when they are not found otherwise.
pub const JOBS_PG_BIN: &str = "JOBS_PG_BIN";
/// PgBouncer's program, when it is not found otherwise.
pub const JOBS_PGBOUNCER: &str = "JOBS_PGBOUNCER";
/// Host and port of a PgBouncer in front of the test server, set by `cargo xtask test` for the tests that are run once
/// more behind it: the programs that tests start connect there.
pub const JOBS_TEST_POOLER: &str = "JOBS_TEST_POOLER";

/// A variable of this process; an empty one is an unset one.
#[allow(clippy::disallowed_methods, reason = "job_utils uses this crate in its tests, so this crate cannot use it")]
pub fn var(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()).filter(|value| !value.is_empty())
}

/// Whether tests may use `CREATE EXTENSION "pgpm-database-jobs"`. When not, says on standard error what is skipped.
pub fn extension_installed(test: &str) -> bool {
    let installed = var(JOBS_TEST_EXTENSION).is_some_and(|value| value == "1");
    if !installed {
        eprintln!("SKIPPED {test}: the extension is not installed on the test server (cargo xtask test installs it)");
    }
    installed
}

/// Cargo's target directory: the one that this program was built in, else the workspace's own.
pub fn target_dir() -> PathBuf {
    // CACHEDIR.TAG is what cargo puts into a target directory, and nowhere else on the way up.
    let built_in = std::env::current_exe().ok().and_then(|program| {
        program.ancestors().find(|directory| directory.join("CACHEDIR.TAG").is_file()).map(PathBuf::from)
    });
    built_in.or_else(|| var("CARGO_TARGET_DIR").map(PathBuf::from)).unwrap_or_else(|| workspace_dir().join("target"))
}

/// The workspace's top directory.
pub fn workspace_dir() -> PathBuf {
    let this_crate = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    this_crate.ancestors().nth(2).map(PathBuf::from).unwrap_or(this_crate)
}
