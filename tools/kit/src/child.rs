//! A child process that ends, with every process that it has started, when this one is told to end.

use std::process::ExitStatus;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::reaper::Reaper;

/// Resolves when a SIGINT or a SIGTERM comes.
///
/// # Errors
/// The system takes no handler.
pub async fn interrupted() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    tokio::select! {
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

/// Runs a command to its end. At a SIGINT or a SIGTERM its whole group gets a SIGTERM, and it is waited for.
///
/// # Errors
/// It cannot be started, or the run was interrupted.
pub async fn status(mut command: Command) -> Result<ExitStatus> {
    // A group of its own: of a Ctrl-C at the terminal it gets to know once, from here.
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let mut child = command.process_group(0).spawn().with_context(|| format!("cannot run {program}"))?;
    let mut group = Group::of(child.id())?;
    let result = tokio::select! {
        status = child.wait() => status.map(Some),
        interrupted = interrupted() => {
            interrupted?;
            group.terminate();
            child.wait().await.map(|_| None)
        }
    };
    group.leader = None;
    if let Some(reaper) = group.reaper.take() {
        reaper.end().await;
    }
    match result? {
        Some(status) => Ok(status),
        None => bail!("interrupted"),
    }
}

/// The processes of a child. Dropping it tells them to end.
struct Group {
    leader: Option<Pid>,
    reaper: Option<Reaper>,
}

impl Group {
    fn of(leader: Option<u32>) -> Result<Self> {
        let leader = leader.context("the process has no id")?;
        Ok(Self { leader: Pid::from_raw(leader.cast_signed()), reaper: Some(Reaper::group(leader)?) })
    }

    fn terminate(&self) {
        if let Some(leader) = self.leader {
            let _ = kill_process_group(leader, Signal::TERM);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.terminate();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use rustix::process::{getpid, kill_process, test_kill_process};

    use super::*;

    /// A signal to this process ends the children of all tests: one at a time.
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    /// A shell that waits for a process of its own, whose id it writes down.
    fn shell(file: &Path) -> Command {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "sleep 600 & echo $! > \"$0.new\"; mv \"$0.new\" \"$0\"; wait"]).arg(file);
        shell
    }

    async fn within_a_minute<T>(mut look: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(seen) = look() {
                return seen;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "not within a minute");
            tokio::task::yield_now().await;
        }
    }

    fn written(file: &Path) -> Option<Pid> {
        Pid::from_raw(std::fs::read_to_string(file).ok()?.trim().parse().ok()?)
    }

    fn is_gone(process: Pid) -> Option<()> {
        // Without a parent that waits for it, it may stay as a zombie.
        let state = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_pid())).unwrap_or_default();
        (test_kill_process(process).is_err() || state.contains(") Z ")).then_some(())
    }

    #[tokio::test]
    async fn a_signal_ends_a_child_with_the_processes_that_it_has_started() {
        let _alone = ALONE.lock().await;
        let file = tempfile::tempdir().unwrap();
        let file = file.path().join("pid");
        let run = tokio::spawn(status(shell(&file)));
        let process = within_a_minute(|| written(&file)).await;
        kill_process(getpid(), Signal::TERM).unwrap();
        assert_eq!(run.await.unwrap().unwrap_err().to_string(), "interrupted");
        within_a_minute(|| is_gone(process)).await;
    }

    #[tokio::test]
    async fn so_does_the_end_of_whoever_waits_for_it() {
        let _alone = ALONE.lock().await;
        let file = tempfile::tempdir().unwrap();
        let file = file.path().join("pid");
        let run = tokio::spawn(status(shell(&file)));
        let process = within_a_minute(|| written(&file)).await;
        run.abort();
        within_a_minute(|| is_gone(process)).await;
    }
}
