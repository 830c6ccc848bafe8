//! The functions that the README shows in Python and docs/functions.md in JavaScript: installed as the page says,
//! started, and sent jobs.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use job_testkit::cluster::free_port;
use job_testkit::process::{Process, Program};
use job_testkit::wait::try_poll;
use job_testkit::{TestDb, env};
use tokio::net::TcpStream;
use tokio::process::Command;

use toolkit::steps::Steps;

/// How long a start or a job may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A language that a page writes a function in.
struct Language {
    /// The page, and the heading that the function stands under.
    page: &'static str,
    section: &'static str,
    /// The language of the block of code.
    block: &'static str,
    /// The file that the page calls it by.
    file: &'static str,
    /// How the page begins the command that installs what it needs.
    install: &'static str,
}

const PYTHON: Language = Language {
    page: "README.md",
    section: "\n## From enqueue to done\n",
    block: "python",
    file: "greet.py",
    install: "pip install ",
};
const NODE: Language = Language {
    page: "docs/functions.md",
    section: "\n## Write one\n",
    block: "js",
    file: "greet.mjs",
    install: "npm install ",
};

/// `cargo xtask readme-functions`.
pub(crate) async fn run() -> Result<()> {
    let mut steps = Steps::new("cargo xtask readme-functions");
    check(&mut steps).await?;
    steps.finish();
    Ok(())
}

/// A step for each; a language that this machine does not have is left out, visibly.
pub(crate) async fn check(steps: &mut Steps) -> Result<()> {
    for (what, function) in [("the function in Python", python().await), ("the function in JavaScript", node().await)] {
        match function {
            Ok(function) => steps.step(what, function.works()).await?,
            Err(missing) => steps.skip(what, &format!("{missing:#}")),
        }
    }
    Ok(())
}

/// A function that can be started.
struct Function {
    directory: PathBuf,
    program: PathBuf,
    /// With the port as the last, where it is an argument.
    arguments: Vec<&'static str>,
}

/// FastAPI's. An error says what is missing on this machine.
async fn python() -> Result<Function> {
    let (directory, packages) = unpack(&PYTHON)?;
    let bin = directory.join("venv/bin");
    if !is_installed(&directory, &packages) || install(&directory, &bin.join("python"), &["--version"]).await.is_err() {
        install(&directory, Path::new("python3"), &["-m", "venv", "--clear", "venv"]).await?;
        let pip = ["-m", "pip", "--disable-pip-version-check", "--retries", "1", "install", "--quiet"];
        let arguments: Vec<&str> = pip.into_iter().chain(packages.split(' ')).collect();
        install(&directory, &bin.join("python"), &arguments).await?;
        installed(&directory, &packages)?;
    }
    Ok(Function { directory, program: bin.join("uvicorn"), arguments: vec!["greet:app", "--port"] })
}

/// That of express. An error says what is missing on this machine.
async fn node() -> Result<Function> {
    let (directory, packages) = unpack(&NODE)?;
    install(&directory, Path::new("node"), &["--version"]).await?;
    if !is_installed(&directory, &packages) {
        let npm = ["install", "--silent", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts", "--prefix", "."];
        let arguments: Vec<&str> = npm.into_iter().chain(packages.split(' ')).collect();
        install(&directory, Path::new("npm"), &arguments).await?;
        installed(&directory, &packages)?;
    }
    Ok(Function { directory, program: PathBuf::from("node"), arguments: vec![NODE.file] })
}

impl Function {
    /// A job that it does, and one that it refuses with a reason, through a service.
    async fn works(&self) -> Result<()> {
        let [port, callback_port] = [free_port()?, free_port()?];
        let text = port.to_string();
        // The page's commands, with another port.
        let mut program = Program::at("/bin/sh").arg("-c").arg("cd \"$0\" && exec \"$@\"").arg(&self.directory);
        program = program.arg(&self.program).env("PORT", &text);
        for argument in &self.arguments {
            program = program.arg(argument);
        }
        if self.arguments.last() == Some(&"--port") {
            program = program.arg(&text);
        }
        let mut function = program.try_spawn()?;
        listening(&mut function, port).await?;

        let database = TestDb::empty().await;
        let program = env::target_dir().join("debug/job-service");
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let mut migrate = Program::at(&program).arg("migrate").env("DATABASE_URL", database.url()).try_spawn()?;
        ensure!(migrate.exit_code(PATIENCE).await == 0, "{}", migrate.output());
        let service = Program::at(&program).env("DATABASE_URL", database.url()).env("HOSTNAME", "readme-functions");
        let service = service.env("INTERNAL_JOBS_CALLBACK_PORT", callback_port.to_string());
        let service = service.env("INTERNAL_JOBS_CALLBACK_URL", url(callback_port));
        let mut service = service.env("KNATIVE_SERVICE_URL", url(port)).try_spawn()?;
        let client = database.connect().await;
        let add = "SELECT (app_jobs.add_job('greet', '{\"name\": \"Ada\"}')).id, (app_jobs.add_job('greet', '{}')).id";
        let row = client.query_one(add, &[]).await?;
        let (done, refused): (i64, i64) = (row.get(0), row.get(1));
        function.wait_for_line("hello Ada", PATIENCE).await;
        let left = "SELECT id, last_error FROM app_jobs.jobs";
        let jobs = try_poll(PATIENCE, async || {
            let rows = client.query(left, &[]).await.ok()?;
            let jobs: Vec<(i64, Option<String>)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
            (!jobs.iter().any(|(id, error)| *id == done || error.is_none())).then_some(jobs)
        });
        let jobs = jobs.await.map_err(|_| anyhow::anyhow!("the jobs have not ended:\n{}", service.output()))?;
        ensure!(jobs == [(refused, Some("Missing required field 'name'".to_owned()))], "{jobs:?}");
        service.stop(PATIENCE).await;
        function.stop(PATIENCE).await;
        Ok(())
    }
}

/// Puts what the page shows into a directory of its own; returns that, and the packages that it says to install.
fn unpack(language: &Language) -> Result<(PathBuf, String)> {
    let Language { page, section, .. } = language;
    let text = std::fs::read_to_string(env::workspace_dir().join(page))?;
    let section = text.split_once(section).with_context(|| format!("{page} has no section {section:?}"))?.1;
    let section = section.split("\n## ").next().unwrap_or_default();
    let opening = format!("```{}\n", language.block);
    let code = section.split_once(&opening).and_then(|(_, rest)| rest.split_once("```"));
    let code = code.with_context(|| format!("{page} shows no function in {}", language.block))?.0;
    let packages = section.split('`').find_map(|text| text.strip_prefix(language.install));
    let packages = packages.with_context(|| format!("{page} does not say `{}…`", language.install))?;
    let directory = env::target_dir().join("readme").join(language.block);
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    std::fs::write(directory.join(language.file), code)?;
    Ok((directory, packages.to_owned()))
}

/// Whether the packages are there. An environment does not work in another place than the one that it was made for.
fn is_installed(directory: &Path, packages: &str) -> bool {
    let there = std::fs::read_to_string(directory.join("installed"));
    there.is_ok_and(|there| there == format!("{}\n{packages}", directory.display()))
}

/// Written last: an installation that was cut off is not one.
fn installed(directory: &Path, packages: &str) -> Result<()> {
    Ok(std::fs::write(directory.join("installed"), format!("{}\n{packages}", directory.display()))?)
}

async fn install(directory: &Path, program: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("{} {} failed: {}", program.display(), arguments.join(" "), String::from_utf8_lossy(&said).trim());
    }
    Ok(())
}

async fn listening(function: &mut Process, port: u16) -> Result<()> {
    let connected = try_poll(PATIENCE, async || {
        if !function.is_running() {
            return Some(false);
        }
        TcpStream::connect(("127.0.0.1", port)).await.is_ok().then_some(true)
    });
    let listens = connected.await.unwrap_or(false);
    ensure!(listens, "{} does not listen:\n{}", function.name(), function.output());
    Ok(())
}
