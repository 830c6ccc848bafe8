//! The programs that are compared: found or installed under target/, and asked.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use job_testkit::env;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use super::generate::ZONES;
use toolkit::npm::Packages;

const ARBITER: &str = include_str!("arbiter.py");
const QUIRKS: &str = include_str!("quirks.py");
const CRONITER: &str = include_str!("with_croniter.py");
const CRON_PARSER: &str = include_str!("with_cron_parser.js");
const REQUIREMENTS: &str = include_str!("requirements.txt");
const PACKAGES: Packages = Packages { manifest: include_str!("package.json"), lock: include_str!("package-lock.json") };

/// How much of what a program says is shown when it fails.
const LAST_LINES: usize = 20;

/// Where the programs are.
pub(crate) struct Programs {
    directory: PathBuf,
    /// Held: another run would install anew what this one uses.
    _lock: File,
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    /// `job-scheduler next --batch`.
    Ours,
    /// The documented rules, taken literally.
    Arbiter,
    /// The same with quirks.
    Quirks,
    /// From PyPI.
    Croniter,
    /// From npm.
    CronParser,
}

impl Programs {
    /// Installs what is not there yet. An error says what is missing.
    pub(crate) async fn prepare() -> Result<Self> {
        let directory = env::target_dir().join("rules");
        std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let lock = File::create(directory.join("lock")).context("cannot make a lock")?;
        lock.try_lock().ok().context("another `cargo xtask rules` is running")?;
        let programs = Self { directory, _lock: lock };
        for (name, text) in [
            ("arbiter.py", ARBITER),
            ("quirks.py", QUIRKS),
            ("with_croniter.py", CRONITER),
            ("with_cron_parser.js", CRON_PARSER),
            ("requirements.txt", REQUIREMENTS),
        ] {
            std::fs::write(programs.directory.join(name), text).with_context(|| format!("cannot write {name}"))?;
        }
        programs.install_python().await?;
        PACKAGES.install(&programs.directory).await?;
        Ok(programs)
    }

    async fn install_python(&self) -> Result<()> {
        let venv = self.directory.join("venv");
        let installed = venv.join("installed.txt");
        let is_there = std::fs::read_to_string(&installed).is_ok_and(|installed| installed == REQUIREMENTS);
        // It goes with the Python that it was made of.
        if is_there && self.run(&self.python(), &["--version"]).await.is_ok() {
            return Ok(());
        }
        let python = Path::new("python3");
        let recent = ["-c", "import sys; sys.exit(sys.version_info < (3, 11) and 'it is older')"];
        self.run(python, &recent).await.context("Python 3.11 or newer is missing")?;
        self.run(python, &["-m", "venv", "--clear", "venv"]).await.context("Python's venv is missing")?;
        let pip = ["-m", "pip", "--disable-pip-version-check", "--retries", "1", "install", "--quiet", "--no-deps"];
        let install = [&pip[..], &["-r", "requirements.txt"]].concat();
        self.run(&self.python(), &install).await.context("Python's packages cannot be had")?;
        std::fs::write(&installed, REQUIREMENTS).with_context(|| format!("cannot write {}", installed.display()))
    }

    fn python(&self) -> PathBuf {
        self.directory.join("venv").join("bin").join("python")
    }

    /// Runs a command of the installation.
    async fn run(&self, program: &Path, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.directory).stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.with_context(|| format!("cannot run {}", program.display()))?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
            bail!("{} {} failed: {last}", program.display(), arguments.join(" "));
        }
        Ok(())
    }

    /// When clocks change, as Python has it: for each zone the offset at the beginning and after each change.
    pub(super) async fn zones(&self, first: i64, last: i64) -> Result<Value> {
        let mut command = self.command(Program::Arbiter);
        command.arg("--zones").args([first, last].map(|second| second.to_string())).args(ZONES);
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.context("cannot run Python")?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("no zones: {}", String::from_utf8_lossy(&output.stderr)))
    }

    fn command(&self, program: Program) -> Command {
        let script = |interpreter: PathBuf, name: &str| {
            let mut command = Command::new(interpreter);
            command.arg(self.directory.join(name));
            command
        };
        let mut command = match program {
            Program::Ours => {
                let mut command = Command::new(env::target_dir().join("debug").join("job-scheduler"));
                command.args(["next", "--batch"]);
                command
            }
            Program::Arbiter => script(self.python(), "arbiter.py"),
            Program::Quirks => script(self.python(), "quirks.py"),
            Program::Croniter => script(self.python(), "with_croniter.py"),
            Program::CronParser => script("node".into(), "with_cron_parser.js"),
        };
        // Zones from the package rather than from the host.
        command.env("PYTHONTZPATH", "").env("PYTHONUTF8", "1").env_remove("TZ").current_dir(&self.directory);
        command
    }

    /// Asks a program all questions, a line each, and returns its answers, a line each.
    pub(super) async fn ask(&self, program: Program, questions: &[Value]) -> Result<Vec<Value>> {
        let mut child = self
            .command(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {program:?}"))?;
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            bail!("{program:?} has no streams");
        };
        let text: String = questions.iter().map(|question| format!("{question}\n")).collect();
        let write = async move {
            // Who does not read to the end says why.
            let _ = stdin.write_all(text.as_bytes()).await;
        };
        let read = async {
            let mut lines = BufReader::new(stdout).lines();
            let mut answers = Vec::with_capacity(questions.len());
            while let Some(line) = lines.next_line().await? {
                answers.push(serde_json::from_str(&line).with_context(|| format!("{program:?} answers {line}"))?);
            }
            anyhow::Ok(answers)
        };
        let complain = async {
            let mut lines = BufReader::new(stderr).lines();
            let mut said = Vec::new();
            while let Some(line) = lines.next_line().await? {
                said.push(line);
            }
            anyhow::Ok(said)
        };
        let ((), answers, said) = tokio::join!(write, read, complain);
        let (answers, said, status) = (answers?, said?, child.wait().await?);
        if !status.success() {
            bail!("{program:?} failed ({status}):\n{}", said[said.len().saturating_sub(LAST_LINES)..].join("\n"));
        }
        Ok(answers)
    }
}
