//! Ends what this process started when this process is gone without a chance to do so itself (kill -9).

use std::process::Stdio;

use anyhow::{Context, Result};
use job_testkit::Cluster;
use tokio::process::{Child, Command};

/// A shell that waits for the end of our side of a pipe. Dropping the minder ends it first, so that it does nothing.
pub(crate) struct Minder {
    _shell: Child,
}

impl Minder {
    /// Minds processes (SIGTERM) and the server of a cluster (SIGINT: stop fast).
    pub(crate) fn start(cluster: Option<&Cluster>, processes: &[u32]) -> Result<Self> {
        let script = "read -r _; \
             server=$1; shift; \
             for pid; do kill -TERM \"$pid\" 2>/dev/null; done; \
             if [ -n \"$server\" ]; then read -r pid < \"$server\" && kill -INT \"$pid\"; fi";
        let server = cluster.map(Cluster::pid_file).unwrap_or_default();
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", script, "minder"]).arg(server);
        shell.args(processes.iter().map(u32::to_string));
        // Its own group: a Ctrl-C at the terminal is ours to handle.
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).kill_on_drop(true);
        Ok(Self { _shell: shell.spawn().context("cannot start /bin/sh")? })
    }
}
