//! The service as a program: worker, callback server and scheduler in one process; and the migration.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use job_pg::config::PostgresConfig;
use job_pg::migrate::{Migrated, migrate};
use job_pg::{Db, create_database, extension};
use job_service::ServiceConfig;
use job_utils::config::{ConfigError, Env, Reader};
use job_utils::probe::Target;
use job_utils::service::{self, ExitError};
use job_utils::shutdown::Shutdown;

/// Worker, callback server and scheduler in one process. Settings come from the environment (docs/configuration.md).
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Make the jobs schema, or bring it up to date. Safe to run at every start.
    Migrate {
        /// Create the database first where there is none; its user needs the right to
        #[arg(long)]
        create_database: bool,
    },
    /// Ask the service that runs here whether it works: exit code 0, or 70 and the reason.
    Health,
    /// Write the files of the extension "pgpm-database-jobs" into a directory: `pg_config --sharedir`/extension.
    Extension {
        /// The directory; made where there is none
        directory: PathBuf,
    },
}

fn main() -> ExitCode {
    let Arguments { command } = service::arguments();
    let known = job_service::known();
    match command {
        Some(Command::Migrate { create_database }) => service::configured(&known, postgres, move |config, shutdown| {
            run_migrate(config, create_database, shutdown)
        }),
        Some(Command::Health) => service::health(Target::callback_server),
        Some(Command::Extension { directory }) => service::main(&known, |_| async move { write_extension(&directory) }),
        None => service::configured(&known, ServiceConfig::from_env, run),
    }
}

async fn run(config: ServiceConfig, shutdown: Shutdown) -> Result<(), ExitError> {
    job_service::run(config, shutdown).await.map_err(ExitError::from_error)?;
    Ok(())
}

fn write_extension(directory: &Path) -> Result<(), ExitError> {
    extension::install(directory)
        .map_err(|error| ExitError::Failure(anyhow::Error::new(error).context(directory.display().to_string())))?;
    tracing::info!("extension {} is in {}", extension::NAME, directory.display());
    Ok(())
}

/// What a migration needs to know.
fn postgres(env: &dyn Env) -> Result<PostgresConfig, ConfigError> {
    let mut reader = Reader::new(env);
    let postgres = PostgresConfig::read_for_migration(&mut reader);
    reader.finish(postgres)
}

async fn run_migrate(postgres: PostgresConfig, create: bool, shutdown: Shutdown) -> Result<(), ExitError> {
    if create && create_database(&postgres, &shutdown).await.map_err(ExitError::from_error)? {
        tracing::info!("the database has been created");
    }
    let schema = postgres.schema.clone();
    let db = Db::new(&postgres).map_err(ExitError::from_error)?;
    // A stack that starts all at once migrates before its database is up.
    if !db.wait_until_reachable(&shutdown).await.map_err(ExitError::from_error)? {
        return Err(ExitError::Failure(anyhow::anyhow!(
            "stopped before Postgres could be reached: nothing was migrated"
        )));
    }
    match migrate(&db).await.map_err(ExitError::from_error)? {
        Migrated::OwnedByExtension => tracing::info!(
            "the extension \"pgpm-database-jobs\" owns schema {schema}: nothing to do (ALTER EXTENSION … UPDATE updates it)"
        ),
        Migrated::Applied { migrations, missing_roles, unrestricted_roles, creating_roles, .. } => {
            // What was applied the migration has said.
            if migrations.is_empty() {
                tracing::info!("schema {schema} is up to date");
            }
            if !unrestricted_roles.is_empty() {
                tracing::info!(
                    "besides administrator and jobs_runtime these roles see the jobs of all tenants, as far as they have \
                     rights to the tables: {} (docs/roles.md says how to change that)",
                    unrestricted_roles.join(", ")
                );
            }
            for role in creating_roles {
                tracing::warn!(
                    "{role} may create functions in schema {schema}, which may be called in place of its own, with its owner's \
                     rights: REVOKE CREATE ON SCHEMA {schema} FROM {role}, or make the owner of the tables the schema's owner"
                );
            }
            for role in missing_roles {
                tracing::warn!(
                    "the role {role} does not exist and this user may not create it: it got no grants. \
                     Create it (CREATE ROLE {role} NOLOGIN) and run migrate again"
                );
            }
        }
        other => tracing::info!("schema {schema}: {other:?}"),
    }
    Ok(())
}
