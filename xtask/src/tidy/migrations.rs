//! Migrations: numbered without gaps, and every one in the list that is compiled in.

use job_utils::db::migrate::MIGRATIONS;

use super::workspace::Workspace;

pub(crate) fn check(workspace: &Workspace) -> Vec<String> {
    let mut names: Vec<(usize, &str)> = Vec::new();
    let mut problems = Vec::new();
    for (path, _) in workspace.ending(".sql") {
        let Some(name) = path.strip_prefix("migrations/").and_then(|name| name.strip_suffix(".sql")) else { continue };
        match number(name) {
            Some(number) => names.push((number, name)),
            None if name == "grants" => {}
            None => problems.push(format!("{path}: is named neither V<number>__<name>.sql nor grants.sql")),
        }
    }
    names.sort_unstable();
    for (index, (number, name)) in names.iter().enumerate() {
        if *number != index + 1 {
            problems.push(format!("migrations/{name}.sql: number {} was expected here", index + 1));
            break;
        }
    }
    let files: Vec<&str> = names.iter().map(|(_, name)| *name).collect();
    let listed: Vec<&str> = MIGRATIONS.iter().map(|(name, _)| *name).collect();
    if files != listed {
        problems.push(format!("job_utils::db::migrate::MIGRATIONS lists {listed:?}, but migrations/ holds {files:?}"));
    }
    problems
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
}
