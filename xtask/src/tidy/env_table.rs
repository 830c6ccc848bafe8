//! The environment table in README.md, made from the constants that the programs read.

use anyhow::{Context, Result};
use job_testkit::env;
use job_utils::config::Var;

use super::workspace::Workspace;

const DOCUMENT: &str = "README.md";
const BEGIN: &str = "<!-- env:begin -->";
const END: &str = "<!-- env:end -->";

/// What the project's own commands and tests read. They stand below job_utils, so they are described here.
const OURS: &[Var] = &[
    Var {
        name: env::JOBS_PG_BIN,
        default: "",
        used_by: "cargo xtask, tests",
        about: "Directory of PostgreSQL's programs (initdb, pg_ctl, psql) when they are not found otherwise.",
    },
    Var {
        name: env::JOBS_PGBOUNCER,
        default: "",
        used_by: "cargo xtask, tests",
        about: "PgBouncer's program when it is not found otherwise.",
    },
    Var {
        name: env::JOBS_TEST_DATABASE_URL,
        default: "",
        used_by: "tests",
        about: "A server for tests, as a superuser; unset: a private one is started.",
    },
    Var {
        name: env::JOBS_TEST_EXTENSION,
        default: "",
        used_by: "tests",
        about: "`1` when the extension is installed on that server.",
    },
    Var {
        name: env::JOBS_TEST_POOLER,
        default: "",
        used_by: "tests",
        about: "Host and port of a PgBouncer in front of that server: the programs that tests start connect there.",
    },
];

/// Every variable there is, in the order of the table. A program with variables of its own is added here.
fn vars() -> Vec<Var> {
    let programs: [&[&Var]; 5] =
        [job_fn::VARS, send_verification_link::VARS, send_email::VARS, mailer::VARS, admin_server::VARS];
    let mut vars: Vec<Var> = job_utils::config::all().into_iter().copied().collect();
    vars.extend(programs.concat().into_iter().copied());
    vars.extend(OURS);
    vars
}

/// The name of every variable there is.
pub(crate) fn names() -> Vec<&'static str> {
    vars().iter().map(|var| var.name).collect()
}

/// The table. A variable that programs share is listed once; one that means another thing elsewhere (PORT) again.
fn table() -> String {
    let mut table = "| Variable | Default | Used by | |\n|---|---|---|---|\n".to_owned();
    let mut listed = Vec::new();
    for var in vars() {
        if listed.contains(&var) {
            continue;
        }
        listed.push(var);
        let default = if var.default.is_empty() { String::new() } else { format!("`{}`", escaped(var.default)) };
        table.push_str(&format!(
            "| `{}` | {default} | {} | {} |\n",
            var.name,
            escaped(var.used_by),
            escaped(var.about)
        ));
    }
    table
}

fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

/// The document with the table put between its marks; None when a mark is missing.
fn rewritten(document: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{}{END}{after}", table()))
}

pub(crate) fn check(workspace: &Workspace) -> Vec<String> {
    let Some(document) = workspace.files.get(DOCUMENT) else { return vec![format!("{DOCUMENT} is missing")] };
    match rewritten(document) {
        None => vec![format!("{DOCUMENT}: no {BEGIN} … {END} for the environment table")],
        Some(wanted) if wanted != *document => {
            vec![format!("{DOCUMENT}: the environment table is out of date; run `cargo xtask tidy --fix`")]
        }
        Some(_) => Vec::new(),
    }
}

/// Rewrites the table in place.
pub(crate) fn fix(workspace: &Workspace) -> Result<()> {
    let document = workspace.files.get(DOCUMENT).with_context(|| format!("{DOCUMENT} is missing"))?;
    let wanted = rewritten(document).with_context(|| format!("{DOCUMENT} has no {BEGIN} … {END}"))?;
    if wanted != *document {
        std::fs::write(env::workspace_dir().join(DOCUMENT), wanted)
            .with_context(|| format!("cannot write {DOCUMENT}"))?;
        println!("{DOCUMENT}: environment table rewritten");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_table_is_told_and_the_rewritten_one_is_not() {
        let stale = format!("# Title\n{BEGIN}\nold\n{END}\nrest\n");
        let workspace = |text: &str| Workspace::of(&[(DOCUMENT, text)]);
        assert_eq!(check(&workspace(&stale)).len(), 1);
        let fresh = rewritten(&stale).unwrap();
        assert!(fresh.starts_with("# Title\n") && fresh.ends_with("\nrest\n") && fresh.contains("| `PGHOST` |"));
        assert!(check(&workspace(&fresh)).is_empty());
        assert_eq!(check(&workspace("no marks")).len(), 1);
    }

    #[test]
    fn no_program_takes_a_variable_of_another_for_a_misspelt_one() {
        let functions: [&[&'static Var]; 2] = [send_email::VARS, send_verification_link::VARS];
        let functions = functions.map(|own| [job_fn::VARS, mailer::VARS, own].concat());
        for program in [job_utils::config::all(), admin_server::VARS.to_vec()].into_iter().chain(functions) {
            for name in names() {
                let env = std::collections::BTreeMap::from([(name, "x")]);
                assert_eq!(job_utils::config::misspelt(&env, &program), [], "{name}");
            }
        }
    }

    #[test]
    fn every_variable_says_what_it_does() {
        for var in vars() {
            assert!(!var.about.is_empty() && !var.used_by.is_empty(), "{}", var.name);
        }
    }
}
