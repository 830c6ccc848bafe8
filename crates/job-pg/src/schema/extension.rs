//! The extension `pgpm-database-jobs`, made from the embedded migrations: the same SQL, another way in.

use std::path::Path;

use crate::config::SchemaName;
use crate::schema::migrate::{
    ALIVE, BEFORE_MIGRATIONS, GRANTS, INTERNAL_SINCE, MIGRATIONS, install_scripts, settings, version_number,
};
use crate::schema::ready::HAS_TABLES;

/// The extension's name; SQL needs it in double quotes.
pub const NAME: &str = "pgpm-database-jobs";

/// Tables and sequences whose rows pg_dump keeps.
const DUMPED: &[(&str, &str)] = &[
    ("jobs", ""),
    ("jobs_id_seq", ""),
    ("scheduled_jobs", ""),
    ("scheduled_jobs_id_seq", ""),
    ("gates", ""),
    ("task_hosts", ""),
    ("settings", ""),
    ("limits", ""),
];

/// Versions of before the first release, of which the last had many contents.
const UNRELEASED: [&str; 2] = ["25", "0.1.0"];

/// The number of `migrations/version.txt` in the first version that is made of it.
const FIRST_NUMBER: i32 = 14;

/// Every file of the extension, as (name, content), for the directory `<pg_config --sharedir>/extension`. Its version
/// follows the number in `migrations/version.txt`, which goes up with every change of the SQL. There is an update from
/// every version before.
pub fn files() -> Vec<(String, String)> {
    let version = name_of(version_number());
    let schema = SchemaName::default();
    let control = format!(
        "comment = 'Job queue and schedules: {0}'\n\
         default_version = '{version}'\n\
         schema = {0}\n\
         relocatable = false\n\
         superuser = false\n",
        schema.as_str()
    );
    let mut files = vec![(format!("{NAME}.control"), control), (format!("{NAME}--{version}.sql"), creation())];
    for from in UNRELEASED {
        files.push((format!("{NAME}--{from}--{}.sql", name_of(FIRST_NUMBER)), header(UPDATE)));
    }
    for number in FIRST_NUMBER + 1..=version_number() {
        // PostgreSQL runs one after the other, and the last one installs everything.
        let script = if number == version_number() { update() } else { header(UPDATE) };
        files.push((format!("{NAME}--{}--{}.sql", name_of(number - 1), name_of(number)), script));
    }
    // PostgreSQL fills in the one schema, which the control file names, and knows of no second one.
    files.into_iter().map(|(name, script)| (name, script.replace("@internal@", &schema.internal()))).collect()
}

/// The version with this number. Plain numbers were versions of before the first release.
fn name_of(number: i32) -> String {
    format!("1.{number}")
}

/// What CREATE EXTENSION runs.
fn creation() -> String {
    let migrations: String = MIGRATIONS.iter().map(|(_, sql)| format!("{sql}\n")).collect();
    header(&format!("CREATE EXTENSION \\\"{NAME}\\\""))
        + &migrations
        + &install_scripts(true, true).join("\n")
        + &closing()
}

/// The command of an update, in a shell-like text within quotes.
const UPDATE: &str = "ALTER EXTENSION \\\"pgpm-database-jobs\\\" UPDATE";

/// What brings an extension with today's tables up to date, and refuses one with others.
fn update() -> String {
    let refusals = format!(
        "DO $refusals$\n\
         DECLARE\n\
         \x20   programs text;\n\
         BEGIN\n\
         \x20   IF NOT ({HAS_TABLES}) THEN\n\
         \x20       RAISE EXCEPTION 'the tables of this extension are of a version that cannot be updated'\n\
         \x20           USING ERRCODE = 'feature_not_supported', DETAIL = 'Nothing was changed.',\n\
         \x20               HINT = 'Save the rows of jobs and scheduled_jobs (pg_dump --data-only), DROP EXTENSION and '\n\
         \x20                   'CREATE EXTENSION, and restore them.';\n\
         \x20   END IF;\n\
         \x20   IF (SELECT s.version FROM @extschema@.schema_state s WHERE s.part = 'functions') < {INTERNAL_SINCE} THEN\n\
         \x20       programs := ({ALIVE});\n\
         \x20       IF programs IS NOT NULL THEN\n\
         \x20           RAISE EXCEPTION 'workers or schedulers of an older version are at work: %', programs\n\
         \x20               USING ERRCODE = 'object_in_use', DETAIL = 'They call functions that the update drops.',\n\
         \x20                   HINT = 'Stop them. One that was killed is forgotten when its lease ends (JOBS_LEASE).';\n\
         \x20       END IF;\n\
         \x20   END IF;\n\
         END\n\
         $refusals$;\n"
    );
    header(UPDATE) + &refusals + &install_scripts(true, true).join("\n") + &closing()
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
    format!("\\echo Use \"{command}\" to load this file. \\quit\n\n{}", opening())
}

/// The settings, and what is refused before anything is done.
pub(crate) fn opening() -> String {
    format!("{}\n{REQUIRE_UTF8}\n{BEFORE_MIGRATIONS}\n", settings(true))
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
pub(crate) fn closing() -> String {
    let mut script = format!("{GRANTS}\n-- What pg_dump keeps of the extension's tables.\n");
    for (relation, condition) in DUMPED {
        script.push_str(&format!(
            "SELECT pg_catalog.pg_extension_config_dump('@extschema@.{relation}', '{condition}');\n"
        ));
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_before_has_an_update_and_the_last_step_installs_everything() {
        let files = files();
        let version = name_of(version_number());
        let control = &files.iter().find(|(name, _)| name.ends_with(".control")).unwrap().1;
        assert!(control.contains(&format!("default_version = '{version}'\n")), "{control}");
        for first in UNRELEASED {
            let mut at = first.to_owned();
            while at != version {
                let begin = format!("{NAME}--{at}--");
                let (name, script) = files.iter().find(|(name, _)| name.starts_with(&begin)).unwrap();
                at = name.strip_prefix(&begin).unwrap().strip_suffix(".sql").unwrap().to_owned();
                assert_eq!(script.contains(".retry_at(run_at timestamptz"), at == version, "{name}");
                assert!(
                    script.starts_with("\\echo Use \"ALTER EXTENSION \\\"pgpm-database-jobs\\\" UPDATE\""),
                    "{name}"
                );
            }
        }
    }
}
