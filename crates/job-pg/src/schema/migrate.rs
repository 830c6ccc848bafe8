//! Migrate: bring a database's jobs schema up to date with refinery.

mod carry_over;
mod error;
mod session;

use std::time::Duration;

use refinery_core::traits::r#async::{AsyncMigrate, AsyncQuery, AsyncTransaction};
use refinery_core::{Migration, Runner};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Transaction};
use tracing::Dispatch;
use tracing::instrument::WithSubscriber;

pub(crate) use self::carry_over::{ALIVE, INTERNAL_SINCE};
use self::carry_over::{begin_carry_over, end_carry_over, refuse_beside_old_programs};
pub use self::error::MigrateError;
use self::error::{because_of_rights, is_in_the_way};
pub(crate) use self::session::settings;
use crate::config::SchemaName;
use crate::connection::Db;
use crate::schema::extension;
use crate::schema::ready::wrong_encoding;
use job_utils::error::chain;

/// The migrations in order: name (as refinery reads it) and SQL with `@extschema@`. Tables, columns, indexes and
/// policies. Append only after the first release.
pub const MIGRATIONS: &[(&str, &str)] = &[
    ("V1__tables", include_str!("../../migrations/V1__tables.sql")),
    ("V2__organizations", include_str!("../../migrations/V2__organizations.sql")),
    ("V3__gates", include_str!("../../migrations/V3__gates.sql")),
];

/// Every function and trigger as it is now, a room a file. Installed after the migrations whenever their text has
/// changed.
pub const FUNCTIONS: &[(&str, &str)] = &[
    ("enqueue", include_str!("../../migrations/functions/enqueue.sql")),
    ("enqueue_many", include_str!("../../migrations/functions/enqueue_many.sql")),
    ("enqueue_modes", include_str!("../../migrations/functions/enqueue_modes.sql")),
    ("notify", include_str!("../../migrations/functions/notify.sql")),
    ("claim", include_str!("../../migrations/functions/claim.sql")),
    ("next_look", include_str!("../../migrations/functions/next_look.sql")),
    ("refused", include_str!("../../migrations/functions/refused.sql")),
    ("open_ruled_gates", include_str!("../../migrations/functions/open_ruled_gates.sql")),
    ("open_queues", include_str!("../../migrations/functions/open_queues.sql")),
    ("get_job", include_str!("../../migrations/functions/get_job.sql")),
    ("open_gates", include_str!("../../migrations/functions/open_gates.sql")),
    ("gates", include_str!("../../migrations/functions/gates.sql")),
    ("fairness", include_str!("../../migrations/functions/fairness.sql")),
    ("gate_settings", include_str!("../../migrations/functions/gate_settings.sql")),
    ("hosts", include_str!("../../migrations/functions/hosts.sql")),
    ("settle", include_str!("../../migrations/functions/settle.sql")),
    ("succession", include_str!("../../migrations/functions/succession.sql")),
    ("release", include_str!("../../migrations/functions/release.sql")),
    ("workers", include_str!("../../migrations/functions/workers.sql")),
    ("schedules", include_str!("../../migrations/functions/schedules.sql")),
    ("scheduler", include_str!("../../migrations/functions/scheduler.sql")),
    ("fires", include_str!("../../migrations/functions/fires.sql")),
    ("forms", include_str!("../../migrations/functions/forms.sql")),
    ("tenants", include_str!("../../migrations/functions/tenants.sql")),
    ("cancel", include_str!("../../migrations/functions/cancel.sql")),
    ("administration", include_str!("../../migrations/functions/administration.sql")),
    ("row_jobs", include_str!("../../migrations/functions/row_jobs.sql")),
    ("triggers", include_str!("../../migrations/functions/triggers.sql")),
];

/// Texts that several of the functions share and that a function could not hold at the same cost, or not for everybody
/// who calls them. `@name(argument)@` in a function, or in a fragment that comes before it here, stands for the one of
/// that name.
pub const FRAGMENTS: &[(&str, &str)] = &[
    ("claim_setting", include_str!("../../migrations/fragments/claim_setting.sql")),
    ("first_jobs", include_str!("../../migrations/fragments/first_jobs.sql")),
    ("next_jobs", include_str!("../../migrations/fragments/next_jobs.sql")),
    ("runs", include_str!("../../migrations/fragments/runs.sql")),
    ("not_refused", include_str!("../../migrations/fragments/not_refused.sql")),
    ("waits", include_str!("../../migrations/fragments/waits.sql")),
    ("limits_lock", include_str!("../../migrations/fragments/limits_lock.sql")),
    ("gate_over", include_str!("../../migrations/fragments/gate_over.sql")),
    ("gate_says", include_str!("../../migrations/fragments/gate_says.sql")),
    ("gate_holds", include_str!("../../migrations/fragments/gate_holds.sql")),
    ("gate_stops", include_str!("../../migrations/fragments/gate_stops.sql")),
    ("passes", include_str!("../../migrations/fragments/passes.sql")),
    ("gate_lock", include_str!("../../migrations/fragments/gate_lock.sql")),
    ("misplaced", include_str!("../../migrations/fragments/misplaced.sql")),
    ("key_of", include_str!("../../migrations/fragments/key_of.sql")),
    ("snapshot_is_old", include_str!("../../migrations/fragments/snapshot_is_old.sql")),
    ("cancellable", include_str!("../../migrations/fragments/cancellable.sql")),
    ("has_task_gate", include_str!("../../migrations/fragments/has_task_gate.sql")),
    ("has_tenant_gate", include_str!("../../migrations/fragments/has_tenant_gate.sql")),
    ("gate_asks", include_str!("../../migrations/fragments/gate_asks.sql")),
    ("usage_log", include_str!("../../migrations/fragments/usage_log.sql")),
    ("mean_time", include_str!("../../migrations/fragments/mean_time.sql")),
    ("fair", include_str!("../../migrations/fragments/fair.sql")),
    ("milliseconds", include_str!("../../migrations/fragments/milliseconds.sql")),
    ("run_time", include_str!("../../migrations/fragments/run_time.sql")),
    ("each_idle_batch", include_str!("../../migrations/fragments/each_idle_batch.sql")),
    ("element_per_job", include_str!("../../migrations/fragments/element_per_job.sql")),
    ("idle", include_str!("../../migrations/fragments/idle.sql")),
    ("new_job", include_str!("../../migrations/fragments/new_job.sql")),
    ("only_on", include_str!("../../migrations/fragments/only_on.sql")),
    ("or_replace", include_str!("../../migrations/fragments/or_replace.sql")),
    ("own_uuid", include_str!("../../migrations/fragments/own_uuid.sql")),
    ("takes", include_str!("../../migrations/fragments/takes.sql")),
    ("unlocked", include_str!("../../migrations/fragments/unlocked.sql")),
    ("within_tasks", include_str!("../../migrations/fragments/within_tasks.sql")),
];

/// Refuses schemas in which others could have code of theirs run. Run before anything else.
pub(crate) const BEFORE_MIGRATIONS: &str = include_str!("../../migrations/before_migrations.sql");

/// Run around [`FUNCTIONS`], in their transaction.
const BEFORE_FUNCTIONS: &str = include_str!("../../migrations/before_functions.sql");
const AFTER_FUNCTIONS: &str = include_str!("../../migrations/after_functions.sql");

/// The triggers, which call the functions. They are made anew only when this text has changed: that locks the tables.
const TRIGGERS: &str = include_str!("../../migrations/triggers.sql");

/// A number that goes up with every change of the SQL that makes a schema, and the digest that it had then.
pub const VERSION: &str = include_str!("../../migrations/version.txt");

/// Run after the functions, every time.
pub const GRANTS: &str = include_str!("../../migrations/grants.sql");

/// refinery's table, in the jobs schema so that one database can hold several.
const HISTORY: &str = "schema_history";

/// Migrations of all processes and schemas of a database take turns.
const LOCK: &str = "SELECT pg_advisory_lock(hashtextextended('pgpm-database-jobs.migrate', 0))";

const READ_STATE: &str = "SELECT \
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
            FROM pg_namespace n JOIN pg_class c ON c.oid = to_regclass(format('%I.jobs', $1::text)) \
           CROSS JOIN LATERAL aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS a \
           WHERE (n.oid = c.relnamespace OR n.oid = to_regnamespace($4::text)) AND a.privilege_type = 'CREATE' AND a.grantee <> c.relowner \
             AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = a.grantee AND r.rolsuper) \
           ORDER BY 1)";

/// From which texts functions and triggers were installed.
const INSTALLED: &str = "SELECT part, version, digest FROM @extschema@.schema_state";

/// Whether functions are missing that were installed, and whether triggers have gone with them: DROP … CASCADE takes
/// both.
const MISSING: &str = "SELECT count(*) > 0, count(*) FILTER (WHERE f.signature ~ '[.]tg_') > 0 \
    FROM @extschema@.schema_functions f LEFT JOIN pg_proc p ON p.oid = to_regprocedure(f.signature) AND p.prokind = 'f' \
    WHERE p.oid IS NULL";

/// How often a migration is tried that others stand in the way of, and how long those who wait behind it have in
/// between.
const TRIES: usize = 6;
const PAUSE: Duration = Duration::from_secs(1);

/// Of what is there already (IF NOT EXISTS), PostgreSQL would send a notice at every start.
const WITHOUT_NOTICES: &str = "SET LOCAL client_min_messages = warning";

/// What a migration did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Migrated {
    /// Applied these migrations; none when the schema was up to date.
    Applied {
        /// Names of the migrations; behind them `functions` and `triggers`, when those were installed anew.
        migrations: Vec<String>,
        /// Which of the roles administrator, jobs_runtime and jobs_producer are missing, so that they have no grants.
        missing_roles: Vec<String>,
        /// Which other roles see the rows of all tenants, as far as they have rights to the tables.
        unrestricted_roles: Vec<String>,
        /// Which roles, other than the owner of the tables and superusers, may create objects in the schema: a function
        /// of theirs may be called in place of one of the schema's, with its owner's rights.
        creating_roles: Vec<String>,
    },
    /// Nothing: the extension owns the schema, ALTER EXTENSION … UPDATE is the way.
    OwnedByExtension,
}

/// Brings the schema up to date. Safe to run twice and by several processes at once. It logs what it has applied, and
/// nothing when there was nothing to do.
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
    client.batch_execute(&settings(false)).await?;
    client.batch_execute("SET lock_timeout = '60s'").await?;
    client.execute(LOCK, &[]).await.map_err(|error| match error.code() {
        Some(&SqlState::LOCK_NOT_AVAILABLE) => MigrateError::Locked { place: db.place().to_owned() },
        _ => error.into(),
    })?;
    client.batch_execute("SET lock_timeout = 0").await?;
    for _ in 1..TRIES {
        match run(&mut client, db.schema()).await {
            Err(error) if is_in_the_way(&error) => {
                tracing::info!("the migration waits for a transaction that uses the tables: {}", chain(&error));
                tokio::time::sleep(PAUSE).await;
            }
            ended => return ended.map_err(|error| because_of_rights(error, db)),
        }
    }
    run(&mut client, db.schema()).await.map_err(|error| because_of_rights(error, db))
}

async fn run(client: &mut Client, schema: &SchemaName) -> Result<Migrated, MigrateError> {
    let state =
        client.query_one(READ_STATE, &[&schema.as_str(), &HISTORY, &extension::NAME, &schema.internal()]).await?;
    let (schema_exists, jobs_exist, history_exists, by_extension): (bool, bool, bool, bool) =
        (state.get(0), state.get(1), state.get(2), state.get(3));
    if by_extension {
        // Only the extension's owner may repeat the grants; the extension made them itself.
        let grants = [BEFORE_MIGRATIONS, GRANTS].map(|sql| schema.apply(sql)).join("\n");
        if let Err(error) = client.batch_execute(&grants).await {
            tracing::debug!("grants are left as they are: {}", chain(&error));
        }
        return Ok(Migrated::OwnedByExtension);
    }
    if jobs_exist && !history_exists {
        return Err(MigrateError::Foreign(schema.to_string()));
    }
    let transaction = client.transaction().await?;
    transaction.batch_execute(WITHOUT_NOTICES).await?;
    transaction.batch_execute(&schema.apply(BEFORE_MIGRATIONS)).await?;
    // Asked first: CREATE SCHEMA IF NOT EXISTS needs the right to create even when there is nothing to do.
    if !schema_exists {
        transaction.batch_execute(&format!("CREATE SCHEMA {schema}")).await?;
    }
    let carried_over = history_exists && begin_carry_over(&transaction, schema).await?;
    let mut runner = Runner::new(&unapplied(schema)?).set_grouped(true);
    runner.set_migration_table_name(format!("{schema}.{HISTORY}"));
    // refinery logs each time that it reads the history. What there is to log, we log below.
    let report = runner.run_async(&mut InTransaction(&transaction)).with_subscriber(Dispatch::none()).await?;
    let mut applied: Vec<String> = report.applied_migrations().iter().map(ToString::to_string).collect();
    if carried_over {
        end_carry_over(&transaction, schema).await?;
    }
    let newer = install(&transaction, schema, &mut applied).await?;
    transaction.commit().await?;
    // Of a newer version's functions these grants know nothing.
    if !newer {
        client.batch_execute(&schema.apply(GRANTS)).await.map_err(MigrateError::Grants)?;
    }
    let state =
        client.query_one(READ_STATE, &[&schema.as_str(), &HISTORY, &extension::NAME, &schema.internal()]).await?;
    if !applied.is_empty() {
        tracing::info!("schema {schema} is up to date: applied {}", applied.join(", "));
    }
    Ok(Migrated::Applied {
        migrations: applied,
        missing_roles: state.get(4),
        unrestricted_roles: state.get(5),
        creating_roles: state.get(6),
    })
}

fn unapplied(schema: &SchemaName) -> Result<Vec<Migration>, refinery_core::Error> {
    MIGRATIONS.iter().map(|(name, sql)| Migration::unapplied(name, &schema.apply(sql))).collect()
}

/// Installs functions and triggers where their text is another than that of those in the schema, and tells in
/// `applied`. Whether those in the schema are of a newer version, and were left alone.
async fn install(
    transaction: &Transaction<'_>,
    schema: &SchemaName,
    applied: &mut Vec<String>,
) -> Result<bool, MigrateError> {
    let rows = transaction.query(&schema.apply(INSTALLED), &[]).await?;
    let installed: Vec<(String, i32, String)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    if installed.iter().any(|(_, version, _)| *version > version_number()) {
        tracing::info!("schema {schema} has functions of a newer version, which are left as they are");
        return Ok(true);
    }
    if installed.iter().any(|(_, version, _)| *version < INTERNAL_SINCE) {
        refuse_beside_old_programs(transaction, schema).await?;
    }
    let is_current = |part: &str, digest: &str| installed.iter().any(|(p, _, d)| p == part && d == digest);
    let missing = transaction.query_one(&schema.apply(MISSING), &[]).await?;
    let functions = missing.get::<_, bool>(0) || !is_current("functions", &functions_digest());
    let triggers = missing.get::<_, bool>(1) || !is_current("triggers", &digest([TRIGGERS]));
    // A migration leaves the role's own settings where it has set something.
    transaction.batch_execute(&settings(true)).await?;
    for part in install_scripts(functions, triggers) {
        transaction.batch_execute(&schema.apply(&part)).await?;
    }
    applied.extend(functions.then(|| "functions".to_owned()));
    applied.extend(triggers.then(|| "triggers".to_owned()));
    Ok(false)
}

/// What installs functions and triggers, in order, with `@extschema@` and `@internal@`. The triggers come before the
/// functions are dropped that they no longer call.
pub(crate) fn install_scripts(functions: bool, triggers: bool) -> Vec<String> {
    let mut scripts = Vec::new();
    if functions {
        let texts: String = FUNCTIONS.iter().map(|(_, sql)| with_fragments(sql) + "\n").collect();
        scripts.push(format!("{BEFORE_FUNCTIONS}\n{texts}"));
    }
    if triggers {
        scripts.push(filled(TRIGGERS, &digest([TRIGGERS])));
    }
    if functions {
        scripts.push(filled(AFTER_FUNCTIONS, &functions_digest()));
    }
    scripts
}

/// A text with every `@name(argument)@` replaced by the fragment of that name, in which `$1` is the argument.
fn with_fragments(text: &str) -> String {
    FRAGMENTS.iter().fold(text.to_owned(), |text, (name, fragment)| {
        let lines: Vec<&str> = fragment.lines().skip_while(|line| line.starts_with("--")).collect();
        let fragment = lines.join("\n");
        let begins = format!("@{name}(");
        let mut parts = text.split(begins.as_str());
        let mut with = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (argument, rest) = part.split_once(")@").unwrap_or((part, ""));
            with.extend([fragment.replace("$1", argument).as_str(), rest]);
        }
        with
    })
}

fn filled(text: &str, digest: &str) -> String {
    text.replace("@version@", &version_number().to_string()).replace("@digest@", digest)
}

/// The number in [`VERSION`], which is the extension's version as well.
pub(crate) fn version_number() -> i32 {
    VERSION.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

fn functions_digest() -> String {
    let texts = FUNCTIONS.iter().chain(FRAGMENTS).map(|(_, sql)| *sql);
    digest([BEFORE_FUNCTIONS, AFTER_FUNCTIONS].into_iter().chain(texts))
}

/// The digest that [`VERSION`] has to have: of all that the extension is made of.
pub fn current_digest() -> String {
    let migrations = digest(MIGRATIONS.iter().map(|(_, sql)| *sql));
    let around = digest([extension::opening().as_str(), extension::closing().as_str()]);
    digest([functions_digest().as_str(), &digest([TRIGGERS]), &migrations, &around])
}

/// SHA-256 of the texts, in hex.
fn digest<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut digest = Sha256::new();
    for text in texts {
        digest.update(text);
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs refinery within a transaction that goes on after it.
struct InTransaction<'a>(&'a Transaction<'a>);

impl AsyncTransaction for InTransaction<'_> {
    type Error = tokio_postgres::Error;

    async fn execute<'a, T: Iterator<Item = &'a str> + Send + 'a>(
        &'a mut self,
        queries: T,
    ) -> Result<usize, Self::Error> {
        let mut executed = 0;
        for query in queries {
            self.0.batch_execute(query).await?;
            executed += 1;
        }
        Ok(executed)
    }
}

impl AsyncQuery<Vec<Migration>> for InTransaction<'_> {
    /// Rows of version, name, applied_on (RFC 3339) and checksum.
    async fn query<'a>(&'a mut self, query: &'a str) -> Result<Vec<Migration>, Self::Error> {
        let rows = self.0.query(query, &[]).await?;
        let applied = rows.iter().map(|row| {
            let (applied_on, checksum): (String, String) = (row.get(2), row.get(3));
            // What cannot be read is what no migration has: refinery tells of a divergence.
            let applied_on = OffsetDateTime::parse(&applied_on, &Rfc3339).unwrap_or(OffsetDateTime::UNIX_EPOCH);
            Migration::applied(row.get(0), row.get(1), applied_on, checksum.parse().unwrap_or(0))
        });
        Ok(applied.collect())
    }
}

impl AsyncMigrate for InTransaction<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of the SQL files in a directory, sorted, without their ending.
    fn files(directory: &str) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(format!("{}/migrations/{directory}", env!("CARGO_MANIFEST_DIR")))
                .unwrap()
                .filter_map(|entry| {
                    entry.unwrap().file_name().to_str().unwrap().strip_suffix(".sql").map(str::to_owned)
                })
                .collect();
        names.sort();
        names
    }

    fn listed(list: &[(&str, &str)]) -> Vec<String> {
        let mut names: Vec<String> = list.iter().map(|(name, _)| (*name).to_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn fragments_are_filled_in_with_their_arguments() {
        let text = with_fragments("a := @own_uuid('b')@, c := @own_uuid('d')@;");
        assert!(text.starts_with("a := (CASE WHEN current_setting('b', true) ~*"), "{text}");
        assert!(text.contains("THEN current_setting('d', true)::uuid END);"), "{text}");
        for script in install_scripts(true, true) {
            assert!(!script.contains(")@"), "every fragment that is named is there: {script}");
        }
    }

    #[test]
    fn the_lists_are_the_directories() {
        let migrations: Vec<String> = files("").into_iter().filter(|name| name.starts_with('V')).collect();
        assert_eq!(migrations, listed(MIGRATIONS));
        assert_eq!(files("functions"), listed(FUNCTIONS));
        assert_eq!(files("fragments"), listed(FRAGMENTS));
        for (i, (name, _)) in MIGRATIONS.iter().enumerate() {
            assert!(name.starts_with(&format!("V{}__", i + 1)), "{name} is not number {}", i + 1);
        }
    }
}
