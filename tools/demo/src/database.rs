//! The demo's database: the one that PG* variables lead to, else `constructive` on a private cluster.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use job_pg::Db;
use job_pg::config::{PostgresConfig, postgres};
use job_testkit::{Cluster, ClusterOptions, env};
use job_utils::config::Reader;

/// The database's name on the private cluster, as the documentation's commands have it.
const NAME: &str = "constructive";

/// A database and how to reach it.
pub(super) struct Database {
    cluster: Option<Cluster>,
    variables: HashMap<String, String>,
    bin: PathBuf,
}

impl Database {
    pub(super) async fn prepare(bin: PathBuf) -> Result<Self> {
        let given: HashMap<String, String> = postgres::VARS
            .iter()
            .filter(|var| var.name.starts_with("PG"))
            .filter_map(|var| Some((var.name.to_owned(), env::var(var.name)?)))
            .collect();
        if !given.is_empty() {
            // psql has other defaults than our programs: with all four spelled out they mean one database.
            let mut variables = given;
            for var in [postgres::PGHOST, postgres::PGPORT, postgres::PGUSER, postgres::PGDATABASE] {
                variables.entry(var.name.to_owned()).or_insert_with(|| var.default.to_owned());
            }
            return Ok(Self { cluster: None, variables, bin });
        }
        let cluster =
            Cluster::start(&super::directory(), ClusterOptions { durable: true, max_connections: 100 }).await?;
        let variables: HashMap<String, String> = cluster.env(NAME).into_iter().collect();
        let database = Self { variables, bin, cluster: Some(cluster) };
        let mut server = database.variables.clone();
        server.insert("PGDATABASE".to_owned(), "postgres".to_owned());
        let client = connect(&server)?.connection().await.context("cannot connect to the private cluster")?;
        // A demo begins with nothing.
        client.batch_execute(&format!("DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")).await?;
        client.batch_execute(&format!("CREATE DATABASE {NAME}")).await?;
        Ok(database)
    }

    /// The PG* variables for child processes.
    pub(super) fn variables(&self) -> &HashMap<String, String> {
        &self.variables
    }

    /// A pool of our own.
    pub(super) fn connect(&self) -> Result<Db> {
        connect(&self.variables)
    }

    pub(super) fn bin(&self) -> &Path {
        &self.bin
    }

    /// The private cluster, if there is one.
    pub(super) fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// What to type to look into it.
    pub(super) fn psql_line(&self) -> String {
        let value = |name: &str| self.variables.get(name).map_or("", String::as_str);
        let (host, port) = (value("PGHOST"), value("PGPORT"));
        format!("psql -h {host} -p {port} -U {} -d {}", value("PGUSER"), value("PGDATABASE"))
    }

    /// Stops the private cluster.
    pub(super) async fn stop(self) -> Result<()> {
        match self.cluster {
            Some(mut cluster) => cluster.stop().await,
            None => Ok(()),
        }
    }
}

fn connect(variables: &HashMap<String, String>) -> Result<Db> {
    let mut reader = Reader::new(variables);
    let config = PostgresConfig::read(&mut reader);
    Ok(Db::new(&reader.finish(config)?)?)
}
