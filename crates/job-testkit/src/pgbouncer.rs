//! PgBouncer in transaction mode, in front of a server: what a client gets is another session for every transaction.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use crate::cluster::account::{self, Account};
use crate::cluster::free_port;
use crate::{env, wait};

/// How long a start may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The program: JOBS_PGBOUNCER, PATH, and where packages put it.
pub fn program() -> Result<PathBuf> {
    if let Some(chosen) = env::var(env::JOBS_PGBOUNCER) {
        let chosen = PathBuf::from(chosen);
        if !chosen.is_file() {
            bail!("{} is {}, which is not a program", env::JOBS_PGBOUNCER, chosen.display());
        }
        return Ok(chosen);
    }
    let path = env::var("PATH").unwrap_or_default();
    let places = ["/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin", "/opt/homebrew/sbin"];
    let mut candidates = std::env::split_paths(&path).chain(places.map(PathBuf::from));
    match candidates.find_map(|directory| Some(directory.join("pgbouncer")).filter(|file| file.is_file())) {
        Some(found) => Ok(found),
        None => bail!("PgBouncer was not found on this machine"),
    }
}

/// Whether tests may start a PgBouncer. When not, says on standard error what is skipped.
pub fn installed(test: &str) -> bool {
    let found = program();
    if let Err(missing) = &found {
        eprintln!("SKIPPED {test}: {missing:#} (cargo xtask test installs it where it can)");
    }
    found.is_ok()
}

/// A running PgBouncer. Dropping it ends it.
#[derive(Debug)]
pub struct PgBouncer {
    child: Child,
    port: u16,
    account: Option<Account>,
    directory: tempfile::TempDir,
}

impl PgBouncer {
    /// Starts one in front of the server of `url`. Every client is let in without a password, as that URL's user, to
    /// any of the server's databases; `sessions` of the server are shared by all clients of one database, in turns.
    pub async fn start(url: &str, sessions: usize) -> Result<Self> {
        Self::start_with(url, sessions, &[]).await
    }

    /// The same with further settings, as in `pool_mode = session`.
    pub async fn start_with(url: &str, sessions: usize, settings: &[&str]) -> Result<Self> {
        let program = program()?;
        let account = Account::for_server()?;
        let directory =
            tempfile::Builder::new().prefix("jobs-pgbouncer-").tempdir().context("cannot make a directory")?;
        let (port, file) = (free_port()?, directory.path().join("pgbouncer.ini"));
        let mut config = configuration(url, port, sessions, &directory.path().join("pgbouncer.log"))?;
        config.extend(settings.iter().map(|setting| format!("{setting}\n")));
        std::fs::write(&file, config).with_context(|| format!("cannot write {}", file.display()))?;
        if let Some(account) = account {
            account.own(directory.path())?;
            account.own(&file)?;
        }
        let child = launch(&program, account, &file)?;
        let mut bouncer = Self { child, port, account, directory };
        bouncer.ready().await?;
        Ok(bouncer)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The PG* variables that lead through it to a database, for a program that is started.
    pub fn env(&self, database: &str) -> Vec<(String, String)> {
        [("PGHOST", "127.0.0.1"), ("PGPORT", &self.port.to_string()), ("PGUSER", "postgres"), ("PGDATABASE", database)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
    }

    /// The URL that leads through it to a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("pgbouncer.log")).unwrap_or_default()
    }

    /// Ends it as kill -9 does, and starts it again on the same port.
    pub async fn restart(&mut self) -> Result<()> {
        self.end();
        self.child = launch(&program()?, self.account, &self.directory.path().join("pgbouncer.ini"))?;
        self.ready().await
    }

    async fn ready(&mut self) -> Result<()> {
        let port = self.port;
        let answers = wait::try_poll(TIMEOUT, async || {
            let ended = !matches!(self.child.try_wait(), Ok(None));
            (ended || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()).then_some(ended)
        });
        if !matches!(answers.await, Ok(false)) {
            bail!("PgBouncer did not start: {}", self.log());
        }
        Ok(())
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        self.end();
    }
}

fn launch(program: &Path, account: Option<Account>, file: &Path) -> Result<Child> {
    use std::os::unix::process::CommandExt;
    let mut command = account::command(program, account);
    command.arg("-q").arg(file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // A group of its own: Ctrl-C at a terminal reaches the parent only, and the parent decides.
    command.process_group(0).spawn().with_context(|| format!("cannot run {}", program.display()))
}

/// Its settings are those of its package as far as clients can tell, but that sessions are handed out in turns rather
/// than the last one first: then nobody keeps the same one by chance.
fn configuration(url: &str, port: u16, sessions: usize, log: &Path) -> Result<String> {
    let server: Config = url.parse().context("the server's URL cannot be read")?;
    let host = match server.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        Some(Host::Unix(directory)) => directory.display().to_string(),
        None => bail!("the server's URL has no host"),
    };
    let quoted = |value: &str| format!("'{}'", value.replace('\'', "''"));
    let mut target = format!("host={} port={}", quoted(&host), server.get_ports().first().copied().unwrap_or(5432));
    target.push_str(&format!(" user={}", quoted(server.get_user().unwrap_or("postgres"))));
    if let Some(password) = server.get_password() {
        target.push_str(&format!(" password={}", quoted(&String::from_utf8_lossy(password))));
    }
    Ok(format!(
        "[databases]\n* = {target}\n\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
         unix_socket_dir =\nauth_type = any\npool_mode = transaction\nserver_round_robin = 1\n\
         default_pool_size = {sessions}\nmax_client_conn = 500\nserver_idle_timeout = 10\nautodb_idle_timeout = 10\n\
         logfile = {}\n",
        log.display()
    ))
}
