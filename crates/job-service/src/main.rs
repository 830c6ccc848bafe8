//! The service as a program: worker, callback server and scheduler in one process; and the migration.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use job_service::ServiceConfig;
use job_utils::config::{ConfigError, Env, PostgresConfig, Reader};
use job_utils::db::Db;
use job_utils::db::migrate::{Migrated, migrate};
use job_utils::service::{self, ExitError};
use job_utils::shutdown::Shutdown;

/// Worker, callback server and scheduler in one process. Settings come from the environment (see the README).
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Make the jobs schema, or bring it up to date. Safe to run at every start.
    Migrate,
}

fn main() -> ExitCode {
    let Arguments { command } = service::arguments();
    match command {
        Some(Command::Migrate) => service::configured(postgres, run_migrate),
        None => service::configured(ServiceConfig::from_env, run),
    }
}

async fn run(config: ServiceConfig, shutdown: Shutdown) -> Result<(), ExitError> {
    job_service::run(config, shutdown).await.map_err(ExitError::from_error)?;
    Ok(())
}

/// What a migration needs to know.
fn postgres(env: &dyn Env) -> Result<PostgresConfig, ConfigError> {
    let mut reader = Reader::new(env);
    let postgres = PostgresConfig::read_for_migration(&mut reader);
    reader.finish(postgres)
}

async fn run_migrate(postgres: PostgresConfig, shutdown: Shutdown) -> Result<(), ExitError> {
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
        Migrated::Applied { migrations, missing_roles, unrestricted_roles } => {
            match migrations.as_slice() {
                [] => tracing::info!("schema {schema} is up to date"),
                applied => tracing::info!("schema {schema} is up to date: applied {}", applied.join(", ")),
            }
            if !unrestricted_roles.is_empty() {
                tracing::info!(
                    "besides administrator and jobs_runtime these roles see the jobs of all tenants, as far as they have \
                     rights to the tables: {} (docs/roles.md says how to change that)",
                    unrestricted_roles.join(", ")
                );
            }
            for role in missing_roles {
                tracing::warn!(
                    "the role {role} does not exist and this user may not create it: it got no grants. \
                     Create it (CREATE ROLE {role} NOLOGIN) and run migrate again"
                );
            }
        }
    }
    Ok(())
}
