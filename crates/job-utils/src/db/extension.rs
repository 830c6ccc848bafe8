//! The extension `pgpm-database-jobs`, made from the embedded migrations: the same SQL, another way in.

use crate::db::migrate::{GRANTS, MIGRATIONS};

/// The extension's name; SQL needs it in double quotes.
pub const NAME: &str = "pgpm-database-jobs";

/// Tables and sequences whose rows pg_dump keeps. job_queues is derived: restoring jobs rebuilds it.
const DUMPED: &[(&str, &str)] = &[
    ("jobs", ""),
    ("jobs_id_seq", ""),
    ("scheduled_jobs", ""),
    ("scheduled_jobs_id_seq", ""),
    ("job_queues", "WHERE false"),
    ("settings", ""),
];

/// The first version that was released: what came before it was never installed anywhere.
const FIRST_VERSION: usize = 5;

/// Every file of the extension, as (name, content), for the directory `<pg_config --sharedir>/extension`. The version is
/// the number of the last migration; each later migration is an update from the version before it.
pub fn files() -> Vec<(String, String)> {
    let version = MIGRATIONS.len();
    let control = format!(
        "comment = 'Job queue and schedules: app_jobs'\n\
         default_version = '{version}'\n\
         schema = app_jobs\n\
         relocatable = false\n\
         superuser = false\n"
    );
    let install = format!("CREATE EXTENSION \\\"{NAME}\\\"");
    let mut files =
        vec![(format!("{NAME}.control"), control), (format!("{NAME}--{version}.sql"), script(&install, MIGRATIONS))];
    let update = format!("ALTER EXTENSION \\\"{NAME}\\\" UPDATE");
    for to in FIRST_VERSION + 1..=version {
        files.push((format!("{NAME}--{}--{to}.sql", to - 1), script(&update, &MIGRATIONS[to - 1..to])));
    }
    files
}

/// Migrations as an extension script: not to be run by hand, with the grants and what pg_dump keeps.
fn script(command: &str, migrations: &[(&str, &str)]) -> String {
    let mut script = format!("\\echo Use \"{command}\" to load this file. \\quit\n\n");
    for (_, sql) in migrations {
        script.push_str(sql);
        script.push('\n');
    }
    script.push_str(GRANTS);
    script.push_str("\n-- What pg_dump keeps of the extension's tables.\n");
    for (relation, condition) in DUMPED {
        script.push_str(&format!(
            "SELECT pg_catalog.pg_extension_config_dump('@extschema@.{relation}', '{condition}');\n"
        ));
    }
    script
}
