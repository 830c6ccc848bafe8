//! Ready: whether the database answers, has the schema in this version, and shows us all of it.

use crate::connection::Db;
use crate::error::DbError;

/// How to get a jobs schema: in an application, by the program, by SQL.
pub(crate) const HOW_TO_MAKE_IT: &str = "make it, or bring it up to date, with `migrate(&db)` in a Rust application, with the \
                                         program `job-service migrate`, or with CREATE EXTENSION \"pgpm-database-jobs\"";

/// Why a service cannot work yet.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum NotReady {
    /// The database cannot be asked.
    #[error(transparent)]
    Database(#[from] DbError),
    /// The database has no jobs schema, or an older one.
    #[error("{place} has no jobs schema {schema} in this version; {HOW_TO_MAKE_IT}")]
    Schema {
        /// Host, port and database.
        place: String,
        /// The schema's quoted name.
        schema: String,
    },
    /// The database has another encoding than UTF8; says which, and what to do.
    #[error("{0}")]
    Encoding(String),
    /// Postgres does not take outcomes of jobs.
    #[error("{outcomes} outcomes of jobs are not stored; of the last one: {reason}")]
    Unsettled {
        /// How many wait.
        outcomes: usize,
        /// Why the last of them does.
        reason: String,
    },
    /// Row level security shows the user the jobs of one tenant at most, and it would wait for the others for good; or
    /// it may not call the functions of the services.
    #[error(
        "{user} does not see all jobs of schema {schema} (row level security), or may not call its functions: \
         GRANT jobs_runtime TO {user}, or see docs/roles.md"
    )]
    Rights {
        /// The database user's quoted name.
        user: String,
        /// The schema's quoted name.
        schema: String,
    },
}

job_utils::debug_as_chain!(NotReady);

/// Whether the tables are those of the last migration.
pub(crate) const HAS_TABLES: &str = "to_regclass('@extschema@.schema_functions') IS NOT NULL \
                                     AND EXISTS (SELECT FROM pg_attribute a \
                                     WHERE a.attrelid = to_regclass('@extschema@.jobs') \
                                     AND a.attname = 'gate_key' AND NOT a.attisdropped)";

/// Whether the schema is there in this version. What is in the internal schema, a role without rights to it cannot ask.
const READY: &str = "SELECT to_regclass('@extschema@.jobs') IS NOT NULL \
                     AND CASE WHEN has_schema_privilege(to_regnamespace('@internal@'), 'USAGE') THEN to_regprocedure(\
                     '@internal@.claim_instance_jobs(uuid, text, bigint[], text[], int, interval, text[], boolean, int[], timestamptz[], bigint[], text[], text)') IS NOT NULL \
                     AND to_regprocedure('@internal@.heartbeat(text, uuid, interval, boolean, text, interval)') IS NOT NULL \
                     AND to_regprocedure('@internal@.exhausted_jobs(bigint[])') IS NOT NULL \
                     AND to_regprocedure(\
                     '@internal@.fire_schedules(text, uuid, bigint[], bigint[], timestamptz[], boolean[])') IS NOT NULL \
                     AND to_regprocedure(\
                     '@internal@.end_held_jobs(bigint[], text[], bigint[], text[], float8[], boolean[], boolean[])') IS NOT NULL \
                     AND to_regprocedure('@internal@.jobs_held_elsewhere(bigint[], bigint[])') IS NOT NULL \
                     ELSE to_regnamespace('@internal@') IS NOT NULL END \
                     AND to_regclass('@extschema@.settings') IS NOT NULL \
                     AND @has_tables@, \
                     current_setting('server_encoding')";

impl Db {
    /// Whether the database answers, has the jobs schema, in this version, and shows us all of it.
    pub async fn ready(&self) -> Result<(), NotReady> {
        let client = self.operation().await?;
        let (schema, rights) = (self.sql(&READY.replace("@has_tables@", HAS_TABLES)), self.sql(SEES_ALL));
        // One operation: of a second one the connection's fate would be that of the first.
        let looked = async {
            let row = client.query_typed_one(&schema, &[]).await?;
            let rights = if row.get(0) { Some(client.query_typed_one(&rights, &[]).await?) } else { None };
            Ok((row.get::<_, String>(1), rights))
        };
        let (encoding, rights) = client.run("look for the schema", looked).await?;
        if let Some(reason) = wrong_encoding(&encoding, self.place()) {
            return Err(NotReady::Encoding(reason));
        }
        let Some(row) = rights else {
            return Err(NotReady::Schema { place: self.place().to_owned(), schema: self.schema().to_string() });
        };
        if row.get(0) { Ok(()) } else { Err(NotReady::Rights { user: row.get(1), schema: self.schema().to_string() }) }
    }
}

/// A standby, or a server that has been told to take no writes.
const TAKES_NO_WRITES: &str = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean";

impl Db {
    /// Whether the server answers and takes no writes.
    pub(crate) async fn takes_no_writes(&self) -> Result<bool, DbError> {
        let client = self.operation().await?;
        let asked = async { client.query_typed_one(TAKES_NO_WRITES, &[]).await?.try_get(0) };
        client.run("ask whether the server takes writes", asked).await
    }
}

impl Db {
    /// Whether outcomes are stored.
    ///
    /// # Errors
    /// So many wait, since Postgres answers them with errors or since their rows are held, that the slots of the worker
    /// wait, too, or soon will.
    pub fn settles(&self) -> Result<(), NotReady> {
        match self.settlers().stuck() {
            Some((outcomes, reason)) => Err(NotReady::Unsettled { outcomes, reason }),
            None => Ok(()),
        }
    }
}

/// Why a database cannot be used. Texts of functions and of ours hold any character, and programs read every row as
/// UTF-8.
pub(crate) fn wrong_encoding(encoding: &str, place: &str) -> Option<String> {
    (encoding != "UTF8").then(|| {
        format!(
            "the encoding of the database is {encoding}, and only UTF8 can hold every text ({place}): create one with \
             CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and move what is in this one"
        )
    })
}

/// Whether we may use the internal schema, and no row of another tenant is hidden from us; who we are.
const SEES_ALL: &str = "SELECT has_schema_privilege(to_regnamespace('@internal@'), 'USAGE') \
                        AND (NOT row_security_active('@extschema@.jobs') OR EXISTS (\
                        SELECT FROM pg_policy p CROSS JOIN pg_catalog.unnest(p.polroles) AS r (role) \
                        WHERE p.polrelid = '@extschema@.jobs'::regclass AND p.polname = 'all_tenants' \
                        AND CASE r.role WHEN 0::oid THEN true ELSE pg_has_role(r.role, 'USAGE') END)), \
                        quote_ident(current_user::text)";
