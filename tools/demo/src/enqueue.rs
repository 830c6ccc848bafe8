//! The documentation's own shell blocks, run through the real psql. The files in `blocks/` are those of the seed
//! document but for `docker exec … postgres` in front; host and port come from PG* variables.

use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use super::database::Database;

const IDS: &str = include_str!("blocks/ids.sh");
const JOBS: [&str; 3] = [
    include_str!("blocks/invite_email.sh"),
    include_str!("blocks/forgot_password.sh"),
    include_str!("blocks/email_verification.sh"),
];
const SCHEDULE: &str = include_str!("blocks/schedule.sh");

/// Not every machine has uuidgen.
const UUIDGEN: &str = "command -v uuidgen >/dev/null || uuidgen() { psql -XAtc 'SELECT gen_random_uuid()'; }\n";

/// Runs blocks against one database.
pub(super) struct Psql {
    variables: Vec<(String, String)>,
    /// The user and database that the blocks name are those of the private cluster; elsewhere PG* variables decide.
    is_private: bool,
}

impl Psql {
    /// Looks up the ids that the other blocks use.
    pub(super) async fn new(database: &Database) -> Result<Self> {
        let path = job_testkit::env::var("PATH").unwrap_or_default();
        let mut variables: Vec<(String, String)> =
            database.variables().iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        variables.push(("PATH".to_owned(), format!("{}:{path}", database.bin().display())));
        variables.push(("PSQLRC".to_owned(), "/dev/null".to_owned()));
        let mut psql = Self { variables, is_private: database.cluster().is_some() };
        let ids = psql.run(IDS).await?;
        for (label, name) in [("Database ID: ", "DBID"), ("Sender ID: ", "SENDER_ID")] {
            let id = ids.lines().find_map(|line| line.strip_prefix(label)).filter(|id| !id.is_empty());
            let id = id.with_context(|| format!("no {label}in the seeded tables; psql printed: {ids}"))?;
            psql.variables.push((name.to_owned(), id.to_owned()));
        }
        Ok(psql)
    }

    /// Enqueues the three jobs.
    pub(super) async fn three_jobs(&self) -> Result<()> {
        for block in JOBS {
            self.id_of(block).await?;
        }
        Ok(())
    }

    /// Adds the schedule and returns its id.
    pub(super) async fn schedule(&self) -> Result<i64> {
        self.id_of(SCHEDULE).await
    }

    /// Runs a block whose last statement returns a row, and returns the row's first column: `(17,…` is 17.
    async fn id_of(&self, block: &str) -> Result<i64> {
        let printed = self.run(block).await?;
        let row = printed.lines().find_map(|line| line.trim_start().strip_prefix('(')?.split_once(',')?.0.parse().ok());
        row.with_context(|| format!("psql printed no row: {printed}"))
    }

    async fn run(&self, block: &str) -> Result<String> {
        let block = if self.is_private { block.to_owned() } else { block.replace(" -U postgres -d constructive", "") };
        let mut shell = Command::new("/bin/sh");
        shell.args(["-euc", &format!("{UUIDGEN}{block}")]).env_clear().envs(self.variables.iter().cloned());
        let output = shell.stdin(Stdio::null()).kill_on_drop(true).output().await.context("cannot run /bin/sh")?;
        if !output.status.success() {
            bail!("psql failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
