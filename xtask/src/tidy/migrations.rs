//! Migrations: numbered without gaps; functions in files of their own, each once. `tools/generated` compares them with
//! the lists that are compiled in.

use std::collections::BTreeMap;

use super::workspace::Workspace;

pub(crate) fn check(workspace: &Workspace) -> Vec<String> {
    let mut names: Vec<(usize, &str)> = Vec::new();
    let mut problems = Vec::new();
    let mut defined: BTreeMap<String, &str> = BTreeMap::new();
    for (path, text) in workspace.ending(".sql") {
        let functions = signatures(text);
        if path.starts_with("migrations/functions/") {
            for signature in functions {
                if let Some(other) = defined.insert(signature.clone(), path) {
                    problems.push(format!("{path}: {signature} is defined in {other}, too"));
                }
            }
            continue;
        }
        // Its marker lasts as long as the installation.
        let marks = path == "migrations/before_functions.sql";
        if path.starts_with("migrations/") && !marks && !functions.is_empty() {
            problems.push(format!("{path}: defines {functions:?}, which belong into migrations/functions/"));
        }
        if path.starts_with("migrations/fragments/") {
            continue;
        }
        let Some(name) = path.strip_prefix("migrations/").and_then(|name| name.strip_suffix(".sql")) else { continue };
        match number(name) {
            Some(number) => names.push((number, name)),
            None if [
                "grants",
                "carry_over",
                "before_migrations",
                "before_functions",
                "after_functions",
                "triggers",
            ]
            .contains(&name) => {}
            None => problems.push(format!("{path}: is none of the files that migrations/README.md names")),
        }
    }
    names.sort_unstable();
    for (index, (number, name)) in names.iter().enumerate() {
        if *number != index + 1 {
            problems.push(format!("migrations/{name}.sql: number {} was expected here", index + 1));
            break;
        }
    }
    problems.extend(misplaced(workspace, &defined));
    problems
}

/// The interface: the functions of the jobs schema, each with a COMMENT. The specification and docs/ have them, and SQL
/// of others calls them. All others are internal.
const INTERFACE: &[&str] = &[
    "add_job",
    "add_job_for_any_tenant",
    "add_jobs",
    "add_scheduled_job",
    "add_scheduled_job_for_any_tenant",
    "cancel_jobs",
    "complete_in_transaction",
    "complete_job",
    "complete_jobs",
    "enqueue",
    "enqueue_all",
    "enqueue_all_for_any_tenant",
    "enqueue_all_for_own_tenant",
    "enqueue_for_any_tenant",
    "enqueue_for_own_tenant",
    "fail_job",
    "force_unlock_workers",
    "get_job",
    "get_scheduled_job",
    "graphql_add_job",
    "graphql_add_scheduled_job",
    "pause",
    "permanently_fail_jobs",
    "release_jobs",
    "release_scheduled_jobs",
    "remove_job",
    "reschedule_jobs",
    "resume",
    "run_scheduled_job",
    "set_fair",
    "set_limit",
    "set_max_payload",
    "set_notify",
    "set_weight",
    "show_all_tenants_to",
    "tg_add_job_with_row",
    "tg_add_job_with_row_id",
    "trigger_job_with_fields",
];

/// Functions in the wrong schema, and internal ones that neither another function, a trigger, a migration nor a
/// statement of the product calls.
fn misplaced(workspace: &Workspace, defined: &BTreeMap<String, &str>) -> Vec<String> {
    let product = |path: &str| path.starts_with("crates/") && path.contains("/src/") && path.ends_with(".rs");
    let texts: Vec<&str> = workspace
        .files
        .iter()
        .filter(|(path, _)| path.starts_with("migrations/") || product(path))
        .map(|(_, text)| text.as_str())
        .collect();
    let mut problems = Vec::new();
    let mut forms: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
    for (signature, path) in defined {
        let name = signature.split('(').next().unwrap_or_default();
        forms.entry(name).or_insert((0, path)).0 += 1;
    }
    for (name, (forms, path)) in forms {
        let Some(internal) = name.strip_prefix(INTERNAL) else {
            let name = name.trim_start_matches(JOBS);
            if !INTERFACE.contains(&name) {
                problems.push(format!(
                    "{path}: {name} is not on the list of the interface: an internal function is in {INTERNAL}"
                ));
            }
            continue;
        };
        if INTERFACE.contains(&internal) {
            problems.push(format!("{path}: {internal} is on the list of the interface, which is in {JOBS}"));
        }
        let called = texts.iter().map(|text| text.matches(&format!("{name}(")).count()).sum::<usize>();
        if called <= forms {
            problems.push(format!("{path}: nothing calls {internal}"));
        }
    }
    problems
}

/// How SQL texts name a function of the jobs schema, and one of the schema of internal functions beside it.
const JOBS: &str = "@extschema@.";
const INTERNAL: &str = "@internal@.";

/// Schemas, names and arguments of the functions that a text defines, in one line each.
fn signatures(text: &str) -> Vec<String> {
    const DEFINES: [&str; 2] = ["CREATE FUNCTION @", "CREATE OR REPLACE FUNCTION @"];
    let mut found = Vec::new();
    for define in DEFINES {
        for (at, _) in text.match_indices(define) {
            let rest = text.get(at + define.len() - 1..).unwrap_or_default();
            let end = rest.find("RETURNS").or_else(|| rest.find("LANGUAGE")).unwrap_or(rest.len());
            let signature = rest.get(..end).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
            // Those of a text that is filled in are told apart when it is.
            if !signature.contains('%') {
                found.push(signature);
            }
        }
    }
    found
}

fn number(name: &str) -> Option<usize> {
    let (number, rest) = name.strip_prefix('V')?.split_once("__")?;
    (!rest.is_empty() && !number.starts_with('0')).then(|| number.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_migration_has_a_number_and_a_name() {
        assert_eq!(number("V12__more_queues"), Some(12));
        for bad in ["12__x", "V__x", "V1_x", "V1__", "V01__x", "Vx__y"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_gap_and_a_stray_name_are_told() {
        let workspace =
            Workspace::of(&[("migrations/V2__b.sql", ""), ("migrations/extra.sql", ""), ("migrations/grants.sql", "")]);
        let problems = check(&workspace);
        assert!(problems.iter().any(|problem| problem.contains("number 1 was expected")), "{problems:?}");
        assert!(problems.iter().any(|problem| problem.starts_with("migrations/extra.sql")), "{problems:?}");
    }

    #[test]
    fn a_function_that_stands_twice_or_elsewhere_is_told() {
        let one = "CREATE OR REPLACE FUNCTION @extschema@.f(a int,\n    b int) RETURNS int";
        let workspace = Workspace::of(&[
            ("migrations/functions/claim.sql", one),
            ("migrations/functions/settle.sql", "CREATE FUNCTION @extschema@.f(a int, b int)\nRETURNS int"),
            ("migrations/V1__a.sql", one),
        ]);
        let problems = check(&workspace).join("\n");
        assert!(
            problems.contains("@extschema@.f(a int, b int) is defined in migrations/functions/claim.sql, too"),
            "{problems}"
        );
        assert!(problems.contains("migrations/V1__a.sql: defines"), "{problems}");
    }

    #[test]
    fn a_function_that_nothing_calls_and_one_in_the_wrong_schema_are_told() {
        let workspace = Workspace::of(&[
            (
                "migrations/functions/claim.sql",
                "CREATE OR REPLACE FUNCTION @internal@.dead() RETURNS int\n\
                 CREATE OR REPLACE FUNCTION @internal@.by_rust() RETURNS int\n\
                 CREATE OR REPLACE FUNCTION @internal@.by_sql() RETURNS int\n SELECT @internal@.by_sql()\n\
                 CREATE OR REPLACE FUNCTION @extschema@.stray() RETURNS int\n SELECT @extschema@.stray()\n\
                 CREATE OR REPLACE FUNCTION @internal@.fail_job() RETURNS int\n SELECT @internal@.fail_job()\n\
                 CREATE OR REPLACE FUNCTION @extschema@.get_job() RETURNS int",
            ),
            ("crates/job-pg/src/claim.rs", "\"SELECT @internal@.by_rust()\""),
            ("crates/job-pg/tests/it.rs", "\"SELECT @internal@.dead()\""),
        ]);
        let told =
            check(&workspace).into_iter().filter(|problem| problem.starts_with("migrations/functions/claim.sql"));
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                "migrations/functions/claim.sql: stray is not on the list of the interface: an internal function is in @internal@.",
                "migrations/functions/claim.sql: nothing calls dead",
                "migrations/functions/claim.sql: fail_job is on the list of the interface, which is in @extschema@.",
            ]
        );
    }
}
