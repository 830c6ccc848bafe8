//! A hot standby of a server, and its promotion.

use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::{Cluster, account, temporary_directory};

impl Cluster {
    /// Starts a hot standby of this server in a new directory that is removed with its handle. It replicates
    /// asynchronously, unless this server's `synchronous_standby_names` says otherwise: set that after this, for a copy
    /// of it would have the promoted server wait for standbys of its own.
    pub async fn replica(&self) -> Result<Self> {
        let (bin, account, options, primary) = (self.bin.clone(), self.account, self.options, self.port);
        tokio::task::spawn_blocking(move || {
            let temporary = temporary_directory(account)?;
            let directory = account::prepare_directory(&temporary.path().join("pg"), account)?;
            let mut replica =
                Self { directory, bin, account, options, port: 0, temporary: Some(temporary), detached: false };
            let mut copy = account::command(&replica.bin.join("pg_basebackup"), account);
            copy.arg("-D").arg(replica.data()).args(["-h", "127.0.0.1", "-p", &primary.to_string(), "-U", "postgres"]);
            copy.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--no-password"]);
            let output = copy.stdin(Stdio::null()).output().with_context(|| format!("cannot run {copy:?}"))?;
            if !output.status.success() {
                bail!("pg_basebackup failed: {}", String::from_utf8_lossy(&output.stderr).trim());
            }
            replica.launch_on_free_port()?;
            Ok(replica)
        })
        .await?
    }

    /// Makes a primary of a hot standby.
    pub async fn promote(&mut self) -> Result<()> {
        self.blocking(|cluster| cluster.pg_ctl(&["promote", "-w", "-t", "60"])).await
    }
}
