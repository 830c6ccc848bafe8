//! Tables in documents that are made from what the programs read: the environment, and libpq's parameters.

use std::path::PathBuf;

use anyhow::{Context, Result};
use job_pg::config::libpq::PARAMETERS;
use job_testkit::env;
use job_utils::config::Var;

/// A table, and the document with the marks between which it stands.
struct Table {
    document: &'static str,
    begin: &'static str,
    end: &'static str,
    text: fn() -> String,
}

const TABLES: [Table; 2] = [
    Table {
        document: "docs/configuration.md",
        begin: "<!-- env:begin -->",
        end: "<!-- env:end -->",
        text: environment,
    },
    Table {
        document: "docs/connections.md",
        begin: "<!-- libpq:begin -->",
        end: "<!-- libpq:end -->",
        text: parameters,
    },
];

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
    let mut vars: Vec<Var> = job_service::known().read().iter().map(|var| **var).collect();
    for var in programs.concat() {
        // Services and functions read some both.
        if !vars.contains(var) {
            vars.push(*var);
        }
    }
    vars.extend(OURS);
    vars
}

/// The name of every variable there is.
pub fn names() -> Vec<&'static str> {
    vars().iter().map(|var| var.name).collect()
}

/// The environment. A variable that programs share is listed once; one that means another thing elsewhere (PORT) again.
fn environment() -> String {
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

/// libpq's parameters, and what becomes of each.
fn parameters() -> String {
    let mut table = "| Parameter | Variable | Here |\n|---|---|---|\n".to_owned();
    let code = |name: &str| if name.is_empty() { String::new() } else { format!("`{name}`") };
    for parameter in PARAMETERS {
        let (name, variable) = (code(parameter.name), code(parameter.variable));
        table.push_str(&format!("| {name} | {variable} | {} |\n", escaped(&parameter.becomes())));
    }
    table
}

impl Table {
    /// The document with the table put between its marks; None when a mark is missing.
    fn rewritten(&self, document: &str) -> Option<String> {
        let (before, rest) = document.split_once(self.begin)?;
        let (_, after) = rest.split_once(self.end)?;
        Some(format!("{before}{}\n{}{}{after}", self.begin, (self.text)(), self.end))
    }

    /// What is wrong with the document.
    fn fault(&self, text: &str) -> Option<String> {
        let Self { document, begin, end, .. } = self;
        match self.rewritten(text) {
            None => Some(format!("{document}: no {begin} … {end} for the table")),
            Some(wanted) if wanted != text => {
                Some(format!("{document}: the table at {begin} is out of date; run `cargo xtask tidy --fix`"))
            }
            Some(_) => None,
        }
    }

    fn path(&self) -> PathBuf {
        env::workspace_dir().join(self.document)
    }

    fn read(&self) -> Result<String> {
        std::fs::read_to_string(self.path()).with_context(|| format!("cannot read {}", self.document))
    }
}

pub(crate) fn check() -> Result<Vec<String>> {
    let faults: Result<Vec<Option<String>>> = TABLES.iter().map(|table| Ok(table.fault(&table.read()?))).collect();
    Ok(faults?.into_iter().flatten().collect())
}

/// Rewrites the tables in place.
pub(crate) fn fix() -> Result<()> {
    for table in TABLES {
        let document = table.document;
        let text = table.read()?;
        let wanted =
            table.rewritten(&text).with_context(|| format!("{document} has no {} … {}", table.begin, table.end))?;
        if wanted != text {
            std::fs::write(table.path(), wanted).with_context(|| format!("cannot write {document}"))?;
            println!("{document}: table rewritten");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use job_utils::config::{Known, misspelt};

    use super::*;

    #[test]
    fn a_stale_table_is_told_and_the_rewritten_one_is_not() {
        for (table, row) in TABLES.iter().zip(["| `PGHOST` |", "| `sslcrl` | `PGSSLCRL` | refused: "]) {
            let stale = format!("# Title\n{}\nold\n{}\nrest\n", table.begin, table.end);
            assert!(table.fault(&stale).is_some());
            let fresh = table.rewritten(&stale).unwrap();
            assert!(fresh.starts_with("# Title\n") && fresh.ends_with("\nrest\n") && fresh.contains(row));
            assert_eq!(table.fault(&fresh), None);
            assert!(table.fault("no marks").is_some());
        }
    }

    #[test]
    fn no_program_takes_a_variable_of_another_for_a_misspelt_one() {
        let own: [&[&'static Var]; 4] =
            [job_worker::config::VARS, job_server::VARS, job_scheduler::VARS, admin_server::VARS];
        let functions: [&[&'static Var]; 2] = [send_email::VARS, send_verification_link::VARS];
        let services = own.map(|own| job_pg::config::known(&[own])).into_iter().chain([job_service::known()]);
        for program in services.chain(functions.map(|own| Known::new(&[job_fn::VARS, mailer::VARS, own]))) {
            for name in names() {
                let env = std::collections::BTreeMap::from([(name, "x")]);
                assert_eq!(misspelt(&env, &program), [], "{name}");
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
