//! A private PostgreSQL cluster: made in a directory, on a free port, gone with its handle.
//!
//! The server listens on 127.0.0.1 and on a socket of its own, and lets everybody in as `postgres` without a password.

pub mod account;
pub mod locate;
mod replica;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

use account::Account;

/// How long a killed server may take to be gone, and the next one to take its place.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What kind of server is wanted.
#[derive(Debug, Clone, Copy)]
pub struct ClusterOptions {
    /// Whether commits survive a crash of the machine: off for tests, which are much faster that way.
    pub durable: bool,
    /// How many connections at once.
    pub max_connections: u32,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self { durable: false, max_connections: 300 }
    }
}

/// A running server of our own. Dropping it stops the server.
#[derive(Debug)]
pub struct Cluster {
    directory: PathBuf,
    bin: PathBuf,
    account: Option<Account>,
    options: ClusterOptions,
    port: u16,
    /// Removed with the cluster, for one that is only for a test.
    temporary: Option<tempfile::TempDir>,
    detached: bool,
}

impl Cluster {
    /// Starts a server in `wanted`, making the cluster first when there is none of this PostgreSQL version. A server
    /// left behind there by a killed run is stopped first. Where the server's account cannot reach `wanted`, the
    /// cluster is in /tmp instead: see [`Cluster::directory`].
    pub async fn start(wanted: &Path, options: ClusterOptions) -> Result<Self> {
        let wanted = wanted.to_owned();
        tokio::task::spawn_blocking(move || Self::start_blocking(&wanted, options)).await?
    }

    /// Starts a server in a new directory that is removed with the handle.
    pub async fn temporary() -> Result<Self> {
        tokio::task::spawn_blocking(|| {
            let directory = temporary_directory(Account::for_server()?)?;
            let mut cluster = Self::start_blocking(&directory.path().join("pg"), ClusterOptions::default())?;
            cluster.temporary = Some(directory);
            Ok(cluster)
        })
        .await?
    }

    /// [`Cluster::start`] for code outside a runtime.
    pub fn start_blocking(wanted: &Path, options: ClusterOptions) -> Result<Self> {
        let bin = locate::bin_dir()?;
        let account = Account::for_server()?;
        let directory = account::prepare_directory(wanted, account)?;
        let mut cluster = Self { directory, bin, account, options, port: 0, temporary: None, detached: false };
        cluster.sweep();
        if !cluster.data().join("PG_VERSION").is_file() || !cluster.is_of_this_version() {
            cluster.init()?;
        }
        cluster.launch_on_free_port()?;
        Ok(cluster)
    }

    /// The server already running in the directory of `wanted`, if there is one. The handle does not stop it when
    /// dropped.
    pub(crate) fn running(wanted: &Path) -> Result<Option<Self>> {
        let bin = locate::bin_dir()?;
        let account = Account::for_server()?;
        let directory = account::prepare_directory(wanted, account)?;
        let options = ClusterOptions::default();
        let mut cluster = Self { directory, bin, account, options, port: 0, temporary: None, detached: true };
        let Some(port) = cluster.recorded(3).and_then(|line| line.parse().ok()) else { return Ok(None) };
        cluster.port = port;
        Ok(cluster.pg_ctl(&["status"]).is_ok().then_some(cluster))
    }

    /// Lets the server live on when the handle is dropped.
    pub(crate) fn detach(mut self) -> Self {
        self.detached = true;
        self
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of one of its databases, for the superuser `postgres`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The PG* variables that lead to one of its databases.
    pub fn env(&self, database: &str) -> Vec<(String, String)> {
        [("PGHOST", "127.0.0.1"), ("PGPORT", &self.port.to_string()), ("PGUSER", "postgres"), ("PGDATABASE", database)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
    }

    /// The directory of PostgreSQL's programs: psql, pg_dump, pg_restore are there too.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// Where the cluster's files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The server's log.
    pub fn log_file(&self) -> PathBuf {
        self.directory.join("server.log")
    }

    /// The file whose first line is the server's process id while it runs.
    pub fn pid_file(&self) -> PathBuf {
        self.data().join("postmaster.pid")
    }

    /// Stops the server: connections are cut, what is committed stays.
    pub async fn stop(&mut self) -> Result<()> {
        self.blocking(|cluster| cluster.pg_ctl(&["stop", "-m", "fast", "-w", "-t", "60"])).await
    }

    /// Starts a stopped or killed server again, on the same port.
    pub async fn start_again(&mut self) -> Result<()> {
        let mut last = None;
        // The children of a killed server hold its shared memory until they have noticed.
        let started = crate::wait::try_poll(TIMEOUT, async || {
            self.blocking(Self::launch).await.map_err(|error| last = Some(error)).ok()
        });
        match started.await {
            Ok(()) => Ok(()),
            Err(_) => Err(last.unwrap_or_else(|| anyhow::anyhow!("the server did not start"))),
        }
    }

    /// Stops the server and starts it on the same port.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.start_again().await
    }

    /// Ends the server as kill -9 does. Its children notice and end too.
    pub async fn kill(&mut self) -> Result<()> {
        let pid = self.recorded(0).and_then(|line| line.parse().ok()).and_then(Pid::from_raw);
        let pid = pid.context("the server's process id is not known: it is not running")?;
        rustix::process::kill_process(pid, Signal::KILL).context("cannot kill the server")?;
        let gone = async || tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err().then_some(());
        match crate::wait::try_poll(TIMEOUT, gone).await {
            Ok(()) => Ok(()),
            Err(_) => bail!("the server still answers {TIMEOUT:?} after kill -9"),
        }
    }

    async fn blocking(&self, act: fn(&Self) -> Result<()>) -> Result<()> {
        // Handles are cheap; this one must not stop the server when the thread is done with it.
        let copy =
            Self { directory: self.directory.clone(), bin: self.bin.clone(), temporary: None, detached: true, ..*self };
        tokio::task::spawn_blocking(move || act(&copy)).await?
    }

    /// Removes the files of a cluster that is not running.
    pub(crate) fn erase(wanted: &Path) -> Result<()> {
        let directory = account::prepare_directory(wanted, Account::for_server()?)?;
        std::fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))
    }

    pub(crate) fn account(&self) -> Option<Account> {
        self.account
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn is_of_this_version(&self) -> bool {
        let cluster = std::fs::read_to_string(self.data().join("PG_VERSION")).unwrap_or_default();
        let server = account::command(&self.bin.join("postgres"), self.account).arg("--version").output();
        let server = server.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        server.split_whitespace().any(|word| word.split('.').next() == Some(cluster.trim()))
    }

    /// A line of postmaster.pid: 0 the process, 3 the port.
    fn recorded(&self, line: usize) -> Option<String> {
        let text = std::fs::read_to_string(self.pid_file()).ok()?;
        text.lines().nth(line).map(|line| line.trim().to_owned())
    }

    /// Stops what a killed run left behind. There may be nothing, which is as good.
    fn sweep(&self) {
        if self.recorded(0).is_some() && self.pg_ctl(&["status"]).is_ok() {
            let _ = self.pg_ctl(&["stop", "-m", "immediate", "-w", "-t", "30"]);
        }
    }

    fn init(&self) -> Result<()> {
        let data = self.data();
        if data.exists() {
            std::fs::remove_dir_all(&data).with_context(|| format!("cannot remove {}", data.display()))?;
        }
        let mut initdb = account::command(&self.bin.join("initdb"), self.account);
        initdb.arg("-D").arg(&data).args([
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "--no-instructions",
        ]);
        if !self.options.durable {
            initdb.arg("--no-sync");
        }
        let output = initdb.stdin(Stdio::null()).output().with_context(|| format!("cannot run {initdb:?}"))?;
        if !output.status.success() {
            let _ = std::fs::remove_dir_all(&data);
            bail!("initdb failed in {}: {}", data.display(), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    fn launch_on_free_port(&mut self) -> Result<()> {
        let mut last = None;
        // Between our look and the server's bind another program may take the port.
        for _ in 0..3 {
            self.port = free_port()?;
            match self.launch() {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("the server did not start")))
    }

    fn launch(&self) -> Result<()> {
        let log = self.log_file();
        // A server that starts appends; what an earlier run wrote would hide why this one fails.
        let _ = std::fs::remove_file(&log);
        let options = self.server_options()?;
        self.pg_ctl(&["start", "-w", "-t", "60", "-l", &log.to_string_lossy(), "-o", &options]).map_err(|error| {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            let reasons: Vec<&str> =
                log.lines().filter(|line| line.contains("FATAL") || line.contains("ERROR")).collect();
            error.context(format!("PostgreSQL did not start in {}: {}", self.directory.display(), reasons.join("; ")))
        })
    }

    fn server_options(&self) -> Result<String> {
        let mut options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c max_connections={} -c timezone=UTC",
            self.port, self.options.max_connections
        );
        if !self.options.durable {
            // Commits still reach the kernel, so they survive a kill -9 of the server; only the disk is not waited for.
            options.push_str(" -c fsync=off -c full_page_writes=off");
        }
        // A socket's path must fit about 100 characters; without room for it, 127.0.0.1 is the only way in.
        let sockets = if self.directory.as_os_str().len() < 80 { self.directory.to_string_lossy() } else { "".into() };
        if sockets.contains(['\'', '"', '\\', ' ', '$', '`']) {
            options.push_str(" -c unix_socket_directories=''");
        } else {
            options.push_str(&format!(" -c unix_socket_directories='{sockets}'"));
        }
        Ok(options)
    }

    fn pg_ctl(&self, arguments: &[&str]) -> Result<()> {
        let mut command = account::command(&self.bin.join("pg_ctl"), self.account);
        command.args(arguments).arg("-D").arg(self.data()).stdin(Stdio::null());
        let output = command.output().with_context(|| format!("cannot run {}", self.bin.join("pg_ctl").display()))?;
        if !output.status.success() {
            bail!("pg_ctl {} failed: {}", arguments[0], String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.detached || self.recorded(0).is_none() {
            return;
        }
        if let Err(error) = self.pg_ctl(&["stop", "-m", "fast", "-w", "-t", "20"]) {
            eprintln!("the server in {} was not stopped: {error:#}", self.directory.display());
            let _ = self.pg_ctl(&["stop", "-m", "immediate", "-W"]);
        }
    }
}

/// A directory that is removed with the handle, for a server that runs as the account.
fn temporary_directory(account: Option<Account>) -> Result<tempfile::TempDir> {
    let directory = tempfile::Builder::new().prefix("jobs-pg-").tempdir().context("cannot make a directory")?;
    if let Some(account) = account {
        account.own(directory.path())?;
    }
    Ok(directory)
}

/// A port of 127.0.0.1 that is free now.
pub fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("no free port on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}
