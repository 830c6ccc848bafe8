//! The stack's containers: started, measured, stopped.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use job_testkit::env;
use job_testkit::wait::try_poll;
use serde_json::Value;
use tokio::process::{Child, Command};

use super::engine::{self, Engine, docker, inspect};

/// Every container with a name of its own.
pub(super) const CONTAINERS: [&str; 5] =
    ["postgres", "minio", "constructive-admin-server", "send-verification-link", "knative-job-service"];

/// Those of docker-compose.jobs.yml.
pub(super) const SERVICES: [&str; 3] = ["constructive-admin-server", "send-verification-link", "knative-job-service"];

/// Longer than anything takes that works.
pub(super) const LIMIT: Duration = Duration::from_secs(120);

/// The same of looking at every layer of every image.
const BUILD_LIMIT: Duration = Duration::from_secs(600);

/// The first of section 4's commands, as written.
const FIRST: &str = "docker-compose up -d";

/// The second. It stays at its terminal, so that it gets one of its own.
const SECOND: &str = "docker-compose -f docker-compose.jobs.yml up --build";

/// `docker-compose up -d`, until Postgres is healthy.
pub(super) async fn up(engine: &Engine) -> Result<()> {
    let start = Instant::now();
    println!("$ {FIRST}");
    let status = shell(&engine.as_here(FIRST)).status().await.context("cannot run a shell")?;
    if !status.success() {
        bail!("`{FIRST}` failed ({status})");
    }
    let returned = start.elapsed();
    healthy("postgres").await?;
    println!(
        "    from up to healthy: {:.1} s ({:.1} s of it until compose returned)",
        start.elapsed().as_secs_f64(),
        returned.as_secs_f64()
    );
    Ok(())
}

/// `docker-compose … up --build` at a terminal, which shows the logs of the jobs stack until that is taken down.
pub(super) struct Attached(Child);

impl Attached {
    /// Starts it, and waits until every service is healthy.
    pub(super) async fn start(engine: &Engine) -> Result<Self> {
        let shown = env::target_dir().join("compose-test/up.log");
        std::fs::create_dir_all(env::target_dir().join("compose-test"))?;
        let start = Instant::now();
        println!("$ {SECOND}");
        // A pseudo-terminal of util-linux, which writes what it shows to a file.
        let mut command = Command::new("script");
        command.args(["--quiet", "--flush", "--return", "--command", &engine.as_here(SECOND)]).arg(&shown);
        let mut attached = Self(in_project(command).stdout(Stdio::null()).spawn().context("script is not there")?);
        let said =
            || std::fs::read(&shown).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        // Compilation is done by now, but every layer is looked at.
        let created = async || match attached.0.try_wait() {
            Ok(None) => engine::containers("migrate-jobs").await.is_ok_and(|found| !found.is_empty()).then_some(true),
            _ => Some(false),
        };
        if !try_poll(BUILD_LIMIT, created).await.unwrap_or(false) {
            bail!("`{SECOND}` made no container: {}", said());
        }
        let built = start.elapsed();
        for container in SERVICES {
            // Compose makes one after the other.
            let there = async || inspect(container).await.ok().map(drop);
            try_poll(LIMIT, there).await.ok().with_context(|| format!("there is no {container}: {}", said()))?;
            healthy(container).await?;
        }
        println!(
            "    from up to healthy: {:.1} s ({:.1} s of it the images, which were built before)",
            start.elapsed().as_secs_f64(),
            built.as_secs_f64()
        );
        if let Some(status) = attached.0.try_wait()? {
            bail!("`{SECOND}` is no longer there ({status}): {}", said());
        }
        Ok(attached)
    }

    /// Ends by itself when its containers are gone.
    pub(super) async fn ended(mut self) -> Result<()> {
        match tokio::time::timeout(LIMIT, self.0.wait()).await {
            Ok(status) => status.map(drop).context("cannot wait for compose"),
            Err(_) => bail!("`{SECOND}` does not end although its containers are gone"),
        }
    }
}

/// A command of the specification: as written, for a project of its own.
fn shell(command: &str) -> Command {
    let mut bash = Command::new("bash");
    bash.args(["-c", command]);
    in_project(bash)
}

fn in_project(mut command: Command) -> Command {
    command.env("COMPOSE_PROJECT_NAME", engine::PROJECT).current_dir(env::workspace_dir());
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Waits until a container's own health check says so.
pub(super) async fn healthy(container: &str) -> Result<()> {
    let state = "{{.State.Status}} {{.State.Health.Status}}";
    let decided = async || match docker(&["inspect", "--format", state, container]).await.ok()?.trim() {
        "running healthy" => Some(true),
        ended if ended.starts_with("exited") || ended.starts_with("restarting") => Some(false),
        _ => None,
    };
    if !try_poll(LIMIT, decided).await.unwrap_or(false) {
        let state = inspect(container).await?;
        bail!("{container} is not healthy: {}", state.pointer("/State").unwrap_or(&Value::Null));
    }
    Ok(())
}

/// Prints what each container holds now, in MiB as `docker stats` counts it.
pub(super) async fn memory(when: &str) -> Result<()> {
    for (container, held) in held().await? {
        println!("    {when}: {container} {held:.1} MiB");
    }
    Ok(())
}

/// What each container holds now, in MiB.
pub(super) async fn held() -> Result<BTreeMap<String, f64>> {
    let arguments = ["stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}"];
    let stats = docker(&[&arguments[..], &CONTAINERS].concat()).await?;
    stats
        .lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next().unwrap_or_default().to_owned();
            let held = words.next().and_then(mebibytes).ok_or_else(|| anyhow!("not understood: {line}"))?;
            Ok((name, held))
        })
        .collect()
}

/// The most that each container has held since it was started, in MiB: the kernel's own record for its cgroup, so no
/// look comes too late. It counts cached files as well, which `docker stats` does not.
pub(super) async fn peaks() -> Result<BTreeMap<String, f64>> {
    let mut peaks = BTreeMap::new();
    for container in CONTAINERS {
        let pid = docker(&["inspect", "--format", "{{.State.Pid}}", container]).await?;
        let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", pid.trim()))?;
        let file = peak_file(&groups).with_context(|| format!("{container} has no cgroup for memory: {groups}"))?;
        let bytes = std::fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
        peaks.insert(container.to_owned(), bytes.trim().parse::<f64>()? / 1024.0 / 1024.0);
    }
    Ok(peaks)
}

/// Where the kernel records the most memory of a process's cgroup, by its /proc/…/cgroup.
fn peak_file(groups: &str) -> Option<String> {
    let of_version_1 = groups.lines().find_map(|line| line.split_once(":memory:")).map(|(_, path)| path);
    let of_version_2 = groups.lines().find_map(|line| line.strip_prefix("0::"));
    match (of_version_1, of_version_2) {
        (Some(path), _) => Some(format!("/sys/fs/cgroup/memory{path}/memory.max_usage_in_bytes")),
        (None, Some(path)) => Some(format!("/sys/fs/cgroup{path}/memory.peak")),
        (None, None) => None,
    }
}

/// `12.5MiB`, `1.2GiB`, `900KiB`, `0B`.
fn mebibytes(text: &str) -> Option<f64> {
    let digits = text.find(|letter: char| letter.is_ascii_alphabetic())?;
    let number: f64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "B" => 1.0 / 1024.0 / 1024.0,
        "KiB" => 1.0 / 1024.0,
        "MiB" => 1.0,
        "GiB" => 1024.0,
        _ => return None,
    };
    Some(number * unit)
}

/// Every program of ours ends by itself, as process 1, with 0, when it is told to.
pub(super) async fn stop_all() -> Result<()> {
    for container in SERVICES.iter().rev() {
        stop(container).await?;
    }
    Ok(())
}

/// One of them.
pub(super) async fn stop(container: &str) -> Result<()> {
    let start = Instant::now();
    docker(&["stop", container]).await?;
    let state = inspect(container).await?;
    let code = state.pointer("/State/ExitCode").and_then(Value::as_i64);
    println!("    {container}: exit code {} after {:.1} s", code.unwrap_or(-1), start.elapsed().as_secs_f64());
    if code != Some(0) {
        bail!("{container} did not stop in order: {}", state.pointer("/State").unwrap_or(&Value::Null));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_is_read_in_every_unit() {
        let read = ["12.5MiB", "1.5GiB", "512KiB", "0B"].map(super::mebibytes);
        assert_eq!(read, [Some(12.5), Some(1536.0), Some(0.5), Some(0.0)]);
        assert_eq!(super::mebibytes("12.5MB"), None);
    }

    #[test]
    fn the_record_of_memory_is_found_in_both_versions() {
        let peak = |groups: &str| super::peak_file(groups).unwrap_or_default();
        assert_eq!(peak("0::/system.slice/docker-1.scope\n"), "/sys/fs/cgroup/system.slice/docker-1.scope/memory.peak");
        assert_eq!(
            peak("5:memory:/docker/1\n4:cpu,cpuacct:/docker/1\n0::/\n"),
            "/sys/fs/cgroup/memory/docker/1/memory.max_usage_in_bytes"
        );
        assert_eq!(super::peak_file("3:cpu:/docker/1\n"), None);
    }
}
