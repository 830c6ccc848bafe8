//! Migrations: numbered without gaps; functions in files of their own, each once. `tools/generated` compares them with the lists
//! that are compiled in.

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
        let Some(name) = path.strip_prefix("migrations/").and_then(|name| name.strip_suffix(".sql")) else { continue };
        match number(name) {
            Some(number) => names.push((number, name)),
            None if ["grants", "carry_over", "before_functions", "after_functions", "triggers"].contains(&name) => {}
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
    problems.extend(without_callers(workspace, &defined));
    problems
}

/// What nothing in this repository has to call: functions for SQL of others, as the specification and docs/ have them.
const INTERFACE: &[&str] = &[
    "add_scheduled_job",
    "complete_job",
    "complete_jobs",
    "force_unlock_workers",
    "get_job",
    "get_scheduled_job",
    "graphql_add_job",
    "graphql_add_scheduled_job",
    "permanently_fail_jobs",
    "release_jobs",
    "release_scheduled_jobs",
    "remove_job",
    "reschedule_jobs",
    "run_scheduled_job",
    "set_max_payload",
    "set_notify",
    "tg_add_job_with_row",
    "tg_add_job_with_row_id",
    "trigger_job_with_fields",
];

/// Functions that neither another function, a trigger, a migration nor a statement of the product calls.
fn without_callers(workspace: &Workspace, defined: &BTreeMap<String, &str>) -> Vec<String> {
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
        let called = texts.iter().map(|text| text.matches(&format!("@extschema@.{name}(")).count()).sum::<usize>();
        // Its comment names it, too.
        let told =
            texts.iter().map(|text| text.matches(&format!("ON FUNCTION @extschema@.{name}(")).count()).sum::<usize>();
        if called <= forms + told && !INTERFACE.contains(&name) {
            problems.push(format!("{path}: nothing calls {name}, and it is not on the list of the interface"));
        }
    }
    problems
}

/// Names and arguments of the functions that a text defines, in one line each.
fn signatures(text: &str) -> Vec<String> {
    const DEFINES: [&str; 2] = ["CREATE FUNCTION @extschema@.", "CREATE OR REPLACE FUNCTION @extschema@."];
    let mut found = Vec::new();
    for define in DEFINES {
        for (at, _) in text.match_indices(define) {
            let rest = text.get(at + define.len()..).unwrap_or_default();
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
        assert!(problems.contains("f(a int, b int) is defined in migrations/functions/claim.sql, too"), "{problems}");
        assert!(problems.contains("migrations/V1__a.sql: defines"), "{problems}");
    }

    #[test]
    fn a_function_that_nothing_calls_is_told() {
        let workspace = Workspace::of(&[
            (
                "migrations/functions/claim.sql",
                "CREATE OR REPLACE FUNCTION @extschema@.dead() RETURNS int\nCOMMENT ON FUNCTION @extschema@.dead() IS '';\n\
                 CREATE OR REPLACE FUNCTION @extschema@.by_rust() RETURNS int\n\
                 CREATE OR REPLACE FUNCTION @extschema@.by_sql() RETURNS int\n SELECT @extschema@.by_sql()\n\
                 CREATE OR REPLACE FUNCTION @extschema@.get_job() RETURNS int",
            ),
            ("crates/job-pg/src/claim.rs", "\"SELECT @extschema@.by_rust()\""),
            ("crates/job-pg/tests/it.rs", "\"SELECT @extschema@.dead()\""),
        ]);
        let problems = check(&workspace);
        let told: Vec<&String> = problems.iter().filter(|problem| problem.contains("nothing calls")).collect();
        assert!(told.len() == 1 && told[0].contains("nothing calls dead"), "{problems:?}");
    }
}
