//! The cluster that everybody is measured on: its own, with the same settings for all, a fresh database for each.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use job_testkit::{Cluster, ClusterOptions, env};
use tokio_postgres::{Client, NoTls};

use toolkit::reaper::Reaper;

/// What differs from PostgreSQL's defaults. fsync, synchronous_commit, full_page_writes and autovacuum stay on. No
/// checkpoint falls into a measurement: the time between two is longer than any, and the WAL has room.
const SETTINGS: &[(&str, &str)] =
    &[("shared_buffers", "1GB"), ("max_wal_size", "8GB"), ("checkpoint_timeout", "30min"), ("max_connections", "200")];

/// Defaults that matter here, for the report.
const SHOWN: &[&str] = &["fsync", "synchronous_commit", "full_page_writes", "autovacuum", "jit", "work_mem"];

/// Clock ticks a second in /proc: 100 on every Linux that there is.
const TICKS: f64 = 100.0;

/// A running server.
pub(super) struct Server {
    cluster: Cluster,
    admin: Client,
    databases: AtomicU32,
    /// Version of PostgreSQL.
    pub(super) version: String,
    /// Settings in words.
    pub(super) settings: String,
    _reaper: Reaper,
}

impl Server {
    pub(super) async fn start() -> Result<Self> {
        let directory = env::target_dir().join("bench-postgres");
        let mut cluster = Cluster::start(&directory, ClusterOptions { durable: true, max_connections: 200 }).await?;
        let admin = connect(&cluster, "postgres").await?;
        for (name, value) in SETTINGS {
            admin.batch_execute(&format!("ALTER SYSTEM SET {name} = '{value}'")).await?;
        }
        // What a killed run left behind.
        for row in admin.query("SELECT datname FROM pg_database WHERE datname LIKE 'bench\\_%'", &[]).await? {
            let name: &str = row.get(0);
            admin.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await?;
        }
        drop(admin);
        cluster.restart().await?;
        let admin = connect(&cluster, "postgres").await?;
        let version = show(&admin, "server_version").await?;
        let mut settings = Vec::new();
        for name in SETTINGS.iter().map(|(name, _)| name).chain(SHOWN) {
            settings.push(format!("{name} = {}", show(&admin, name).await?));
        }
        let reaper = Reaper::start(Some(&cluster.pid_file()), &[])?;
        let settings = settings.join(", ");
        Ok(Self { cluster, admin, databases: AtomicU32::new(0), version, settings, _reaper: reaper })
    }

    /// Makes an empty database and returns its name.
    pub(super) async fn create_database(&self) -> Result<String> {
        let name = format!("bench_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.admin.batch_execute(&format!("CREATE DATABASE {name}")).await.context("cannot make a database")?;
        Ok(name)
    }

    pub(super) async fn drop_database(&self, name: &str) -> Result<()> {
        Ok(self.admin.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await?)
    }

    pub(super) async fn connect(&self, database: &str) -> Result<Client> {
        connect(&self.cluster, database).await
    }

    pub(super) fn url(&self, database: &str) -> String {
        self.cluster.url(database)
    }

    /// The PG* variables that lead to a database.
    pub(super) fn env(&self, database: &str) -> Vec<(String, String)> {
        self.cluster.env(database)
    }

    /// From now on each statement of new connections to this database is once in the log, whatever protocol it comes
    /// by.
    pub(super) async fn log_statements(&self, database: &str) -> Result<()> {
        Ok(self.admin.batch_execute(&format!("ALTER DATABASE {database} SET log_statement = 'all'")).await?)
    }

    pub(super) fn log_size(&self) -> Result<u64> {
        Ok(std::fs::metadata(self.cluster.log_file()).context("cannot see the server's log")?.len())
    }

    /// Statements in the log since it was of this size.
    pub(super) fn statements_since(&self, size: u64) -> Result<usize> {
        let mut log = Vec::new();
        let mut file = File::open(self.cluster.log_file()).context("cannot read the server's log")?;
        file.seek(SeekFrom::Start(size))?;
        file.read_to_end(&mut log)?;
        let log = String::from_utf8_lossy(&log);
        let statement = |line: &&str| line.contains("LOG:  execute ") || line.contains("LOG:  statement: ");
        Ok(log.lines().filter(statement).count())
    }

    /// User and system time of all the server's processes so far, in seconds; None where there is no /proc.
    pub(super) fn cpu_seconds(&self) -> Option<f64> {
        let recorded = std::fs::read_to_string(self.cluster.pid_file()).ok()?;
        let postmaster: u32 = recorded.lines().next()?.trim().parse().ok()?;
        loop {
            // A process that ends is in the postmaster's sum of its children; one that ended while we read is in
            // neither place or in both.
            let own = Stat::of(postmaster)?;
            let living = children(postmaster)?;
            if Stat::of(postmaster)?.childrens_ticks == own.childrens_ticks {
                return Some((own.ticks + own.childrens_ticks + living) as f64 / TICKS);
            }
        }
    }

    pub(super) async fn stop(mut self) -> Result<()> {
        self.cluster.stop().await
    }
}

async fn connect(cluster: &Cluster, database: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(&cluster.url(database), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn show(client: &Client, name: &str) -> Result<String> {
    Ok(client.query_one("SELECT current_setting($1)", &[&name]).await?.get(0))
}

/// The ticks of a process's living children.
fn children(parent: u32) -> Option<u64> {
    let mut ticks = 0;
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        ticks += Stat::of(pid).filter(|stat| stat.parent == parent).map_or(0, |stat| stat.ticks);
    }
    Some(ticks)
}

/// A process's line in /proc.
struct Stat {
    parent: u32,
    ticks: u64,
    childrens_ticks: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name between parentheses may hold anything; the parent is the second field after it.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        let parent = u32::try_from(number(1)?).ok()?;
        Some(Self { parent, ticks: number(11)? + number(12)?, childrens_ticks: number(13)? + number(14)? })
    }
}

/// User and system time of a process so far, in seconds, to the nanosecond where the kernel counts so.
pub(super) fn process_cpu_seconds(pid: u32) -> Option<f64> {
    let mut nanoseconds: u64 = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        nanoseconds += text.split_whitespace().next().and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
    }
    if nanoseconds > 0 {
        return Some(nanoseconds as f64 / 1e9);
    }
    Stat::of(pid).map(|stat| stat.ticks as f64 / TICKS)
}

/// Resident memory of a process in kilobytes.
pub(super) fn process_rss_kb(pid: u32) -> Option<f64> {
    status_kb(pid, "VmRSS:")
}

/// The most resident memory that a process has had, in kilobytes.
pub(super) fn process_peak_kb(pid: u32) -> Option<f64> {
    status_kb(pid, "VmHWM:")
}

fn status_kb(pid: u32, name: &str) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
