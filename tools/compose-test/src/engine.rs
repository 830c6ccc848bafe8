//! Docker and compose as commands.

use std::process::Stdio;

use anyhow::{Context, Result, bail};
use job_testkit::env;
use serde_json::Value;
use tokio::process::Command;

use deploy_check::compose;

/// A project of its own: a developer's volumes are not this test's.
pub(super) const PROJECT: &str = "jobs-compose-test";

/// The Docker engine and compose.
pub(super) struct Engine {
    compose: Vec<String>,
}

impl Engine {
    /// Finds them, or says what is missing.
    pub(super) async fn find() -> Result<Self> {
        let version = docker(&["version", "--format", "{{.Server.Version}}"]).await;
        let version =
            version.context("no Docker engine answers: start one (`dockerd`, as root), and run this again")?;
        let Some(compose) = compose::program().await else {
            bail!("neither docker-compose nor docker compose is there: apt-get install docker-compose");
        };
        let client = docker(&["version", "--format", "{{.Client.Version}}"]).await?;
        println!("    engine {}, client {}, {}", version.trim(), client.trim(), compose.join(" "));
        Ok(Self { compose })
    }

    /// Runs compose on one of its files; its output is ours.
    pub(super) async fn compose(&self, file: &str, arguments: &[&str]) -> Result<()> {
        let mut command = self.command(file, arguments);
        let status = command.stdin(Stdio::null()).status().await.context("cannot run compose")?;
        if !status.success() {
            bail!("`{} -f {file} {}` failed ({status})", self.compose.join(" "), arguments.join(" "));
        }
        Ok(())
    }

    /// What compose makes of a file.
    pub(super) async fn config(&self, file: &str) -> Result<Value> {
        let output = self.command(file, &["--profile", "workers", "config"]).stderr(Stdio::inherit()).output().await?;
        let text = String::from_utf8(output.stdout)?;
        serde_saphyr::from_str(&text).map_err(|error| anyhow::anyhow!("{file}: {error}"))
    }

    fn command(&self, file: &str, arguments: &[&str]) -> Command {
        let mut command = compose::command(&self.compose);
        command.args(["-p", PROJECT, "-f", file]).args(arguments).current_dir(env::workspace_dir());
        command
    }

    /// A command of the specification that begins with `docker-compose`, for a shell: the same with what is there.
    pub(super) fn as_here(&self, command: &str) -> String {
        command.replacen("docker-compose", &self.compose.join(" "), 1)
    }
}

/// What a docker command prints to standard output.
pub(super) async fn docker(arguments: &[&str]) -> Result<String> {
    let output = Command::new("docker").args(arguments).stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.context("docker is not there")?;
    if !output.status.success() {
        bail!("`docker {}` failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The containers of a service of the stack, those that have ended included.
pub(super) async fn containers(service: &str) -> Result<Vec<String>> {
    let (project, service) =
        (format!("label=com.docker.compose.project={PROJECT}"), format!("label=com.docker.compose.service={service}"));
    let names = docker(&["ps", "--all", "--filter", &project, "--filter", &service, "--format", "{{.Names}}"]).await?;
    Ok(names.lines().map(str::to_owned).collect())
}

/// Everything a container has written.
pub(super) async fn logs(container: &str) -> Result<String> {
    let output =
        Command::new("docker").args(["logs", container]).stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.context("docker is not there")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(text(&output.stdout) + &text(&output.stderr))
}

/// A container or image, as `docker inspect` shows it.
pub(super) async fn inspect(name: &str) -> Result<Value> {
    let text = docker(&["inspect", name]).await?;
    let mut all: Vec<Value> = serde_json::from_str(&text)?;
    all.pop().with_context(|| format!("docker inspect {name} shows nothing"))
}

/// A value of psql in the container, without decoration.
pub(super) async fn psql(sql: &str) -> Result<String> {
    let query =
        ["exec", "-i", "postgres", "psql", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "constructive", "-Atqc"];
    docker(&[&query[..], &[sql]].concat()).await
}
