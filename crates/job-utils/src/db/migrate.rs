//! Migrate: bring a database's jobs schema up to date with refinery.

use refinery::{Migration, Runner};
use tokio_postgres::Client;
use tracing::Dispatch;
use tracing::instrument::WithSubscriber;

use crate::config::SchemaName;
use crate::db::error::refused;
use crate::db::extension;
use crate::db::inspect::wrong_encoding;
use crate::db::{Db, DbError};
use crate::error::chain;

/// The migrations in order: name (as refinery reads it) and SQL with `@extschema@`. Append only.
pub const MIGRATIONS: &[(&str, &str)] = &[
    ("V1__tables", include_str!("../../migrations/V1__tables.sql")),
    ("V2__enqueue", include_str!("../../migrations/V2__enqueue.sql")),
    ("V3__claim_and_settle", include_str!("../../migrations/V3__claim_and_settle.sql")),
    ("V4__schedules", include_str!("../../migrations/V4__schedules.sql")),
    ("V5__administration", include_str!("../../migrations/V5__administration.sql")),
    ("V6__claim_continued", include_str!("../../migrations/V6__claim_continued.sql")),
    ("V7__schedules_in_batches", include_str!("../../migrations/V7__schedules_in_batches.sql")),
    ("V8__enqueue_many", include_str!("../../migrations/V8__enqueue_many.sql")),
    ("V9__notify_on_demand", include_str!("../../migrations/V9__notify_on_demand.sql")),
    ("V10__cheaper_statements", include_str!("../../migrations/V10__cheaper_statements.sql")),
    ("V11__epochs_and_deadlines", include_str!("../../migrations/V11__epochs_and_deadlines.sql")),
    ("V12__leases", include_str!("../../migrations/V12__leases.sql")),
    ("V13__roles_and_tenants", include_str!("../../migrations/V13__roles_and_tenants.sql")),
    ("V14__scheduler_leases", include_str!("../../migrations/V14__scheduler_leases.sql")),
    ("V15__fires", include_str!("../../migrations/V15__fires.sql")),
    ("V16__library", include_str!("../../migrations/V16__library.sql")),
    ("V17__random_epochs", include_str!("../../migrations/V17__random_epochs.sql")),
    ("V18__batches_with_modes", include_str!("../../migrations/V18__batches_with_modes.sql")),
    ("V19__rights", include_str!("../../migrations/V19__rights.sql")),
    ("V20__enqueue_bounds", include_str!("../../migrations/V20__enqueue_bounds.sql")),
    ("V21__enqueue_forms", include_str!("../../migrations/V21__enqueue_forms.sql")),
    ("V22__schedule_bounds", include_str!("../../migrations/V22__schedule_bounds.sql")),
    ("V23__administration", include_str!("../../migrations/V23__administration.sql")),
    ("V24__batches_kept_out", include_str!("../../migrations/V24__batches_kept_out.sql")),
    ("V25__neighbours", include_str!("../../migrations/V25__neighbours.sql")),
];

/// Run after the migrations, every time.
pub const GRANTS: &str = include_str!("../../migrations/grants.sql");

/// refinery's table, in the jobs schema so that one database can hold several.
const HISTORY: &str = "schema_history";

/// Migrations of all processes and schemas of a database take turns.
const LOCK: &str = "SELECT pg_advisory_lock(hashtextextended('pgpm-database-jobs.migrate', 0))";

const LOOK: &str = "SELECT \
    EXISTS (SELECT FROM pg_namespace WHERE nspname = $1::text), \
    to_regclass(format('%I.jobs', $1::text)) IS NOT NULL, \
    to_regclass(format('%I.%I', $1::text, $2::text)) IS NOT NULL, \
    EXISTS (SELECT FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace \
             WHERE e.extname = $3::text AND n.nspname = $1::text), \
    ARRAY(SELECT r.name FROM unnest(ARRAY['administrator', 'jobs_runtime', 'jobs_producer']) AS r (name) \
           WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r.name)), \
    ARRAY(SELECT DISTINCT CASE r.role WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(r.role)::text END \
            FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid CROSS JOIN unnest(p.polroles) AS r (role) \
           WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1::text) AND p.polname = 'all_tenants' \
             AND NOT EXISTS (SELECT FROM pg_roles a WHERE a.oid = r.role AND a.rolname IN ('administrator', 'jobs_runtime')) \
           ORDER BY 1), \
    ARRAY(SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee)::text END \
            FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'jobs' \
           CROSS JOIN LATERAL aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS a \
           WHERE n.nspname = $1::text AND a.privilege_type = 'CREATE' AND a.grantee <> c.relowner \
             AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = a.grantee AND r.rolsuper) \
           ORDER BY 1)";

/// What a migration did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Migrated {
    /// Applied these migrations; none when the schema was up to date.
    Applied {
        /// Names of the migrations.
        migrations: Vec<String>,
        /// Which of the roles administrator, jobs_runtime and jobs_producer are missing, so that they have no grants.
        missing_roles: Vec<String>,
        /// Which other roles see the rows of all tenants, as far as they have rights to the tables.
        unrestricted_roles: Vec<String>,
        /// Which roles, other than the owner of the tables and superusers, may create objects in the schema: a function of theirs
        /// may be called in place of one of the schema's, with its owner's rights.
        creating_roles: Vec<String>,
    },
    /// Nothing: the extension owns the schema, ALTER EXTENSION … UPDATE is the way.
    OwnedByExtension,
}

/// A migration that did not happen; the database is unchanged.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// No connection.
    #[error("no connection to Postgres at {place}: {}", refused(error))]
    Connect {
        /// Host, port and database.
        place: String,
        /// Why, which the message says.
        error: tokio_postgres::Error,
    },
    /// A pooler is in between.
    #[error(
        "a pooler is in between at {place}, and a migration needs a session of its own; nothing was changed. Set JOBS_MIGRATE_URL to a connection past the pooler"
    )]
    Pooled {
        /// Host, port and database.
        place: String,
    },
    /// The schema belongs to something else.
    #[error(
        "schema {0} already has a table \"jobs\" that these migrations did not make (the original system's, perhaps); nothing was changed. Set JOBS_SCHEMA to another name, or rename that schema first"
    )]
    Foreign(String),
    /// The database has another encoding than UTF8; says which, and what to do.
    #[error("{0}; nothing was changed")]
    Encoding(String),
    /// A statement failed.
    #[error("the migration failed, nothing was changed")]
    Sql(#[from] tokio_postgres::Error),
    /// refinery refused: a changed or missing migration.
    #[error("the migration failed, nothing was changed")]
    Refinery(#[from] refinery::Error),
    /// The migrations are in, the grants are not.
    #[error(
        "the schema is up to date, but its grants to administrator, jobs_runtime and jobs_producer failed; run migrate as the schema's owner"
    )]
    Grants(#[source] tokio_postgres::Error),
    /// Settings that cannot be used.
    #[error(transparent)]
    Settings(#[from] DbError),
}

crate::debug_as_chain!(MigrateError);

/// Brings the schema up to date. Safe to run twice and by several processes at once. It logs what it has applied, and nothing when
/// there was nothing to do.
pub async fn migrate(db: &Db) -> Result<Migrated, MigrateError> {
    // A connection of its own: the advisory lock belongs to the session and ends with it.
    let (mut client, _messages) =
        db.dedicated().await.map_err(|error| MigrateError::Connect { place: db.place().to_owned(), error })?;
    if db.is_pooled() {
        return Err(MigrateError::Pooled { place: db.place().to_owned() });
    }
    let encoding = client.query_one("SELECT current_setting('server_encoding')", &[]).await?;
    if let Some(reason) = wrong_encoding(encoding.get(0), db.place()) {
        return Err(MigrateError::Encoding(reason));
    }
    // What a migration calls without a schema is PostgreSQL's own. The owner's search_path begins with a schema of its name, and
    // ends with one that others may be able to create in: what they put there would run as the owner.
    client.batch_execute("SET search_path = pg_catalog, pg_temp").await?;
    client.execute(LOCK, &[]).await?;
    run(&mut client, db.schema()).await
}

async fn run(client: &mut Client, schema: &SchemaName) -> Result<Migrated, MigrateError> {
    let look = client.query_one(LOOK, &[&schema.as_str(), &HISTORY, &extension::NAME]).await?;
    let (schema_exists, jobs_exist, history_exists, by_extension): (bool, bool, bool, bool) =
        (look.get(0), look.get(1), look.get(2), look.get(3));
    if by_extension {
        // Only the extension's owner may repeat the grants; the extension made them itself.
        if let Err(error) = client.batch_execute(&schema.apply(GRANTS)).await {
            tracing::debug!("grants are left as they are: {}", chain(&error));
        }
        return Ok(Migrated::OwnedByExtension);
    }
    if jobs_exist && !history_exists {
        return Err(MigrateError::Foreign(schema.to_string()));
    }
    // Asked first: CREATE SCHEMA IF NOT EXISTS needs the right to create even when there is nothing to do.
    if !schema_exists {
        client.batch_execute(&format!("CREATE SCHEMA {schema}")).await?;
    }
    let migrations = MIGRATIONS
        .iter()
        .map(|(name, sql)| Migration::unapplied(name, &schema.apply(sql)))
        .collect::<Result<Vec<_>, _>>()?;
    let mut runner = Runner::new(&migrations).set_grouped(true);
    runner.set_migration_table_name(format!("{schema}.{HISTORY}"));
    // refinery tells of every look at the history: what there is to tell, we tell below.
    let report = match runner.run_async(client).with_subscriber(Dispatch::none()).await {
        Ok(report) => report,
        Err(error) => {
            // refinery's table was made before its transaction; left behind, it would make a foreign schema look like
            // ours. The lock is still held, so nobody else has put anything there.
            if !history_exists {
                client.batch_execute(&format!("DROP TABLE IF EXISTS {schema}.{HISTORY}")).await?;
            }
            if !schema_exists {
                client.batch_execute(&format!("DROP SCHEMA {schema}")).await?;
            }
            return Err(error.into());
        }
    };
    client.batch_execute(&schema.apply(GRANTS)).await.map_err(MigrateError::Grants)?;
    let look = client.query_one(LOOK, &[&schema.as_str(), &HISTORY, &extension::NAME]).await?;
    let migrations: Vec<String> = report.applied_migrations().iter().map(ToString::to_string).collect();
    if !migrations.is_empty() {
        tracing::info!("schema {schema} is up to date: applied {}", migrations.join(", "));
    }
    Ok(Migrated::Applied {
        migrations,
        missing_roles: look.get(4),
        unrestricted_roles: look.get(5),
        creating_roles: look.get(6),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_migrations_is_the_directory() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let mut files: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with('V'))
            .collect();
        files.sort();
        let mut listed: Vec<String> = MIGRATIONS.iter().map(|(name, _)| format!("{name}.sql")).collect();
        listed.sort();
        assert_eq!(files, listed);
        for (i, (name, _)) in MIGRATIONS.iter().enumerate() {
            assert!(name.starts_with(&format!("V{}__", i + 1)), "{name} is not number {}", i + 1);
        }
    }
}
