//! The server that all test processes share when nobody gave them one, so that `cargo test -p <crate>` works alone.
//!
//! It lives in `target/test-postgres`. Whoever comes first starts it, under a file lock. Each process holds a shared
//! advisory lock while it lives; a janitor (a shell loop around psql) stops the server when it gets that lock
//! exclusively, so that nothing stays behind.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio_postgres::Client;

use super::process_connection;
use crate::cluster::{Cluster, ClusterOptions, account};
use crate::env;
use crate::wait::try_poll;

/// The advisory lock that processes hold together and the janitor alone.
const IN_USE: i32 = 0x6a6f_0001;

/// How long a server that is being stopped may take.
const TIMEOUT: Duration = Duration::from_secs(15);

/// How often the janitor looks, in seconds: longer than cargo takes between two test programs.
const JANITOR_PERIOD: u32 = 30;

/// A connection to the shared server that keeps it alive, and the URL.
pub(super) async fn connect() -> Result<(String, Client)> {
    let mut last = None;
    // The janitor may be stopping the server that we have just seen: then we start it anew.
    let connected = try_poll(TIMEOUT, async || match attempt().await {
        Ok(connected) => Some(connected),
        Err(error) => {
            last = Some(error);
            None
        }
    });
    match connected.await {
        Ok(connected) => Ok(connected),
        Err(_) => Err(last.unwrap_or_else(|| anyhow!("time is up"))).context("the shared test server cannot be used"),
    }
}

async fn attempt() -> Result<(String, Client)> {
    let url = ensure_running()?;
    let client = keep(&url).await.map_err(|error| anyhow!("{}", process_connection::text(&error)))?;
    Ok((url, client))
}

async fn keep(url: &str) -> Result<Client, tokio_postgres::Error> {
    let client = process_connection::connect(url).await?;
    client.batch_execute(&format!("SELECT pg_advisory_lock_shared({IN_USE})")).await?;
    Ok(client)
}

fn ensure_running() -> Result<String> {
    let target = env::target_dir();
    std::fs::create_dir_all(&target).with_context(|| format!("cannot make {}", target.display()))?;
    let lock = target.join("test-postgres.lock");
    let lock = File::create(&lock).with_context(|| format!("cannot open {}", lock.display()))?;
    lock.lock().context("cannot lock the shared test server")?;
    let directory = target.join("test-postgres");
    if let Some(cluster) = Cluster::running(&directory)? {
        return Ok(cluster.url("postgres"));
    }
    let cluster = start(&directory)?.detach();
    start_janitor(&cluster)?;
    Ok(cluster.url("postgres"))
}

fn start(directory: &std::path::Path) -> Result<Cluster> {
    match Cluster::start_blocking(directory, ClusterOptions::default()) {
        Ok(cluster) => Ok(cluster),
        Err(first) => {
            // Without fsync a crash of the machine may leave a broken cluster; a new one costs a second.
            Cluster::erase(directory)?;
            Cluster::start_blocking(directory, ClusterOptions::default())
                .with_context(|| format!("{first:#}; then again"))
        }
    }
}

fn start_janitor(cluster: &Cluster) -> Result<()> {
    let script = format!(
        r#"while sleep {JANITOR_PERIOD}; do
            "$1"/pg_ctl status -D "$2" >/dev/null || exit 0
            printf '%s\n' 'SELECT pg_try_advisory_lock({IN_USE}) AS idle \gset' '\if :idle' \
                '\! "$JANITOR_BIN"/pg_ctl stop -m fast -W -D "$JANITOR_DATA"' '\endif' \
                | JANITOR_BIN="$1" JANITOR_DATA="$2" "$1"/psql -XAtq "$3" >/dev/null 2>&1
        done"#
    );
    let mut janitor = account::command("/bin/sh".as_ref(), cluster.account());
    janitor
        .args(["-c", &script, "test-postgres-janitor"])
        .arg(cluster.bin())
        .arg(cluster.data())
        .arg(cluster.url("postgres"));
    // A group of its own: Ctrl-C at a test run must not end it.
    janitor.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    janitor.spawn().context("cannot start the janitor of the shared test server")?;
    Ok(())
}
