//! Ends what this process started when this process is gone without a chance to do so itself (kill -9).

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use tokio::process::{Child, Command};

/// A shell that waits for the end of our side of a pipe. Dropping the reaper ends it first, so that it does nothing.
pub struct Reaper {
    shell: Child,
}

impl Reaper {
    /// Ends processes (SIGTERM) and the server whose file with its process id this is (SIGINT: stop fast).
    ///
    /// # Errors
    /// There is no shell.
    pub fn start(server: Option<&Path>, processes: &[u32]) -> Result<Self> {
        let processes: Vec<String> = processes.iter().map(u32::to_string).collect();
        Self::of(server, &processes)
    }

    /// Ends a group of processes (SIGTERM).
    ///
    /// # Errors
    /// There is no shell.
    pub fn group(leader: u32) -> Result<Self> {
        Self::of(None, &[format!("-{leader}")])
    }

    /// Ends the reaper, and leaves not even a zombie of it.
    pub async fn end(mut self) {
        let _ = self.shell.kill().await;
    }

    fn of(server: Option<&Path>, processes: &[String]) -> Result<Self> {
        let script = "read -r _; \
             server=$1; shift; \
             for pid; do kill -TERM \"$pid\" 2>/dev/null; done; \
             if [ -n \"$server\" ]; then read -r pid < \"$server\" && kill -INT \"$pid\"; fi";
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", script, "reaper"]).arg(server.unwrap_or(Path::new("")));
        shell.args(processes);
        // Its own group: a Ctrl-C at the terminal is ours to handle.
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).kill_on_drop(true);
        Ok(Self { shell: shell.spawn().context("cannot start /bin/sh")? })
    }
}
