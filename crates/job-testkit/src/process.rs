//! Real binaries of this workspace as child processes.

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Child;
use tokio::task::JoinHandle;

use crate::{env, wait};

/// How many lines of a program a failing test shows.
const LAST_LINES: usize = 30;

/// A signal for a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Signal {
    /// What a supervisor sends: stop, please.
    Term,
    /// What Ctrl-C sends.
    Int,
    /// Ends the process at once.
    Kill,
    /// Halts it, as a machine that hangs would.
    Stop,
    /// Lets a halted process go on.
    Continue,
}

/// A program to run: its environment is empty but for PATH and what is added here.
#[derive(Debug)]
pub struct Program {
    command: tokio::process::Command,
    name: String,
}

impl Program {
    /// The binary `name` of the crate of the same name. It is taken from the target directory and built there when it
    /// is missing (not when it is older than its sources: `cargo build` does that, and `cargo xtask test` calls it).
    pub fn named(name: &str) -> Self {
        Self::at(binary(name))
    }

    /// A binary by its path, as in `Program::at(env!("CARGO_BIN_EXE_job-worker"))`.
    pub fn at(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let mut command = tokio::process::Command::new(path);
        command.env_clear().env("PATH", env::var("PATH").unwrap_or_default());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: Ctrl-C at a terminal reaches the parent only, and the parent decides.
        command.kill_on_drop(true).process_group(0);
        Self { command, name: path.file_name().unwrap_or_default().to_string_lossy().into_owned() }
    }

    /// A binary that may have no more than so many descriptors.
    pub fn with_descriptors(path: impl AsRef<Path>, descriptors: u32) -> Self {
        let path = path.as_ref();
        let mut program = Self::at("/bin/sh");
        program.command.arg("-c").arg(format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"")).arg(path);
        program.name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        program
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets variables, such as [`crate::TestDb::env`].
    pub fn envs<K: AsRef<OsStr>, V: AsRef<OsStr>>(mut self, pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        self.command.envs(pairs);
        self
    }

    /// Starts it.
    pub fn spawn(self) -> Process {
        let name = self.name.clone();
        self.try_spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"))
    }

    /// Starts it, or says why not.
    pub fn try_spawn(mut self) -> std::io::Result<Process> {
        let mut child = self.command.spawn()?;
        let lines = Lines::default();
        let mut readers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            readers.push(tokio::spawn(read(stdout, lines.clone())));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.push(tokio::spawn(read(stderr, lines.clone())));
        }
        Ok(Process { pid: child.id(), child, name: self.name, lines, readers })
    }
}

/// A running (or ended) child process with everything it wrote. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: Option<u32>,
    name: String,
    lines: Lines,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts the binary `name` with these variables and nothing else.
    pub fn spawn<K: AsRef<OsStr>, V: AsRef<OsStr>>(name: &str, pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        Program::named(name).envs(pairs).spawn()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid.unwrap_or_default()
    }

    /// Every line written so far, to standard output or standard error.
    pub fn lines(&self) -> Vec<String> {
        self.lines.get().clone()
    }

    /// Everything written so far.
    pub fn output(&self) -> String {
        self.lines().join("\n")
    }

    /// Waits for a line that contains `text`, also one written before, and returns it.
    pub async fn wait_for_line(&mut self, text: &str, limit: Duration) -> String {
        let mut ended = false;
        let found = wait::try_poll(limit, async || {
            // Looked at in this order, so that the last words of a process that ended are seen.
            let over = ended;
            ended = matches!(self.child.try_wait(), Ok(Some(_)));
            let line = self.lines.get().iter().find(|line| line.contains(text)).cloned();
            line.map(Ok).or_else(|| over.then_some(Err(())))
        });
        match found.await {
            Ok(Ok(line)) => line,
            Ok(Err(())) => panic!("{} ended without a line with {text:?}; it wrote:\n{}", self.name, self.output()),
            Err(_) => panic!("{} wrote no line with {text:?} within {limit:?}, but:\n{}", self.name, self.output()),
        }
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) {
        let signal = match signal {
            Signal::Term => rustix::process::Signal::TERM,
            Signal::Int => rustix::process::Signal::INT,
            Signal::Kill => rustix::process::Signal::KILL,
            Signal::Stop => rustix::process::Signal::STOP,
            Signal::Continue => rustix::process::Signal::CONT,
        };
        // `Child::id` is None once the process was waited for: its number may be another's by then.
        let pid = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
        let pid = pid.unwrap_or_else(|| panic!("{} has ended already; it wrote:\n{}", self.name, self.output()));
        rustix::process::kill_process(pid, signal)
            .unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }

    /// Leaves the process room for so many descriptors beyond those it has open, for good.
    #[cfg(target_os = "linux")]
    pub fn limit_descriptors(&self, more: u64) {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).map(Iterator::count);
        let open = open.unwrap_or_else(|error| panic!("cannot count the descriptors of {}: {error}", self.name));
        let limit = Some(u64::try_from(open).unwrap_or(u64::MAX) + more);
        let pid = rustix::process::Pid::from_raw(self.pid().cast_signed());
        let limit = rustix::process::Rlimit { current: limit, maximum: limit };
        rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit)
            .unwrap_or_else(|error| panic!("cannot limit the descriptors of {}: {error}", self.name));
    }

    /// Waits for the end, and for the output to be complete. None when the process goes on after `limit`.
    pub async fn try_exit(&mut self, limit: Duration) -> Option<ExitStatus> {
        let status = match tokio::time::timeout(limit, self.child.wait()).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => panic!("cannot wait for {}: {error}", self.name),
            Err(_) => return None,
        };
        for reader in self.readers.drain(..) {
            // A grandchild that holds the pipe must not hold us.
            let _ = tokio::time::timeout(limit, reader).await;
        }
        Some(status)
    }

    /// Waits for the end, and for the output to be complete; panics when the process goes on after `limit`.
    pub async fn exit(&mut self, limit: Duration) -> ExitStatus {
        let ended = self.try_exit(limit).await;
        ended.unwrap_or_else(|| panic!("{} did not end within {limit:?}; it wrote:\n{}", self.name, self.output()))
    }

    /// Waits for the end and returns the exit code; panics when a signal ended the process.
    pub async fn exit_code(&mut self, limit: Duration) -> i32 {
        let status = self.exit(limit).await;
        status.code().unwrap_or_else(|| {
            panic!("{} was ended by signal {:?}; it wrote:\n{}", self.name, status.signal(), self.output())
        })
    }

    /// Tells it to stop (SIGTERM), and kills it when it has not within `limit`.
    pub async fn stop(&mut self, limit: Duration) {
        if self.is_running() {
            self.signal(Signal::Term);
            if tokio::time::timeout(limit, self.child.wait()).await.is_err() {
                let _ = self.child.kill().await;
            }
        }
    }

    /// The program's file name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The most memory that it has had in use at any time so far, in bytes (Linux).
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        kib.map(|kib: u64| kib << 10).unwrap_or_else(|| panic!("the system does not tell the memory of {}", self.name))
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    /// Where the test fails, what the program wrote last often says why.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = self.lines.get();
            let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
            eprintln!("{}, process {}, wrote last:\n{}", self.name, self.pid(), last.join("\n"));
        }
    }
}

/// Lines shared by the readers and the test.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn get(&self) -> MutexGuard<'_, Vec<String>> {
        // A list of lines is whole at any time, also after a panic elsewhere.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

async fn read(pipe: impl AsyncRead + Unpin, lines: Lines) {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line).await, Ok(length) if length > 0) {
        lines.get().push(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned());
        line.clear();
    }
}

/// The path of the binary `name`, built first when it is missing.
pub fn binary(name: &str) -> PathBuf {
    static BUILDING: Mutex<()> = Mutex::new(());
    let directory = binaries();
    let path = directory.join(name);
    let _one_at_a_time = BUILDING.lock();
    if !path.is_file() {
        let cargo = env::var("CARGO").unwrap_or_else(|| "cargo".to_owned());
        let mut build = std::process::Command::new(cargo);
        build.args(["build", "-p", name, "--bin", name]).current_dir(env::workspace_dir());
        build.arg("--target-dir").arg(env::target_dir());
        if directory.file_name().is_some_and(|profile| profile == "release") {
            build.arg("--release");
        }
        match build.status() {
            Ok(status) if status.success() => {}
            other => panic!("{} is missing and could not be built: {other:?}", path.display()),
        }
    }
    path
}

/// `target/<profile>`, where cargo puts binaries: two levels above a test (`deps/it-…`), else the one of debug builds.
fn binaries() -> PathBuf {
    let target = env::target_dir();
    std::env::current_exe()
        .ok()
        .and_then(|program| program.ancestors().find(|place| place.parent() == Some(&*target)).map(PathBuf::from))
        .unwrap_or_else(|| target.join("debug"))
}
