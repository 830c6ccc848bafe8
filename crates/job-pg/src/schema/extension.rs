//! The extension `pgpm-database-jobs`, made from the embedded migrations: the same SQL, another way in.

use std::path::Path;

use crate::config::SchemaName;
use crate::schema::migrate::{GRANTS, MIGRATIONS, install_scripts};

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
    ("limits", ""),
];

/// Every file of the extension, as (name, content), for the directory `<pg_config --sharedir>/extension`. Its version
/// is that of this crate. A release that changes the SQL adds an update from the release before it.
pub fn files() -> Vec<(String, String)> {
    let version = env!("CARGO_PKG_VERSION");
    let schema = SchemaName::default();
    let control = format!(
        "comment = 'Job queue and schedules: {0}'\n\
         default_version = '{version}'\n\
         schema = {0}\n\
         relocatable = false\n\
         superuser = false\n",
        schema.as_str()
    );
    let migrations: String = MIGRATIONS.iter().map(|(_, sql)| format!("{sql}\n")).collect();
    let script = header(&format!("CREATE EXTENSION \\\"{NAME}\\\""))
        + &migrations
        + &install_scripts(true, true).join("\n")
        + &closing();
    // PostgreSQL fills in the one schema, which the control file names, and knows of no second one.
    let script = script.replace("@internal@", &schema.internal());
    vec![(format!("{NAME}.control"), control), (format!("{NAME}--{version}.sql"), script)]
}

/// Writes every file into a directory, which is made where there is none. A file that is there already with the same
/// content is left alone.
///
/// # Errors
/// The directory or a file cannot be written.
pub fn install(directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    for (name, content) in files() {
        let path = directory.join(name);
        if std::fs::read_to_string(&path).is_ok_and(|there| there == content) {
            continue;
        }
        // Written beside and moved, so that a server never reads half a file.
        let half = path.with_extension("new");
        std::fs::write(&half, content)?;
        std::fs::rename(&half, &path)?;
    }
    Ok(())
}

/// What comes first in each script: psql must not run it by hand, and a database must be able to hold every text.
fn header(command: &str) -> String {
    format!("\\echo Use \"{command}\" to load this file. \\quit\n\n{REQUIRE_UTF8}\n")
}

/// ASCII only: a database of another encoding has to read it.
const REQUIRE_UTF8: &str = "DO $encoding$\n\
    BEGIN\n\
    \x20   IF pg_catalog.current_setting('server_encoding') OPERATOR(pg_catalog.<>) 'UTF8' THEN\n\
    \x20       RAISE EXCEPTION 'the encoding of the database is %, and only UTF8 can hold every text',\n\
    \x20           pg_catalog.current_setting('server_encoding')\n\
    \x20           USING ERRCODE = 'feature_not_supported',\n\
    \x20               HINT = 'Create a database with ENCODING ''UTF8'' TEMPLATE template0, and move what is in this one.';\n\
    \x20   END IF;\n\
    END\n\
    $encoding$;\n";

/// The grants, and what pg_dump keeps.
fn closing() -> String {
    let mut script = format!("{GRANTS}\n-- What pg_dump keeps of the extension's tables.\n");
    for (relation, condition) in DUMPED {
        script.push_str(&format!(
            "SELECT pg_catalog.pg_extension_config_dump('@extschema@.{relation}', '{condition}');\n"
        ));
    }
    script
}
