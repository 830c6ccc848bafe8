//! The stack's containers: started, measured, stopped.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use job_testkit::wait::try_poll;
use serde_json::Value;

use super::engine::{Engine, docker, inspect};

/// Every container with a name of its own.
pub(super) const CONTAINERS: [&str; 5] =
    ["postgres", "minio", "constructive-admin-server", "send-verification-link", "knative-job-service"];

/// Those of docker-compose.jobs.yml.
pub(super) const SERVICES: [&str; 3] = ["constructive-admin-server", "send-verification-link", "knative-job-service"];

/// Longer than anything takes that works.
pub(super) const LIMIT: Duration = Duration::from_secs(120);

/// Starts what a file describes, and waits until these containers are healthy.
pub(super) async fn up(engine: &Engine, file: &str, containers: &[&str]) -> Result<()> {
    let start = Instant::now();
    engine.compose(file, &["up", "-d"]).await?;
    let returned = start.elapsed();
    for container in containers {
        healthy(container).await?;
    }
    println!(
        "    from up to healthy: {:.1} s ({:.1} s of it until compose returned)",
        start.elapsed().as_secs_f64(),
        returned.as_secs_f64()
    );
    Ok(())
}

/// Waits until a container's own health check says so.
pub(super) async fn healthy(container: &str) -> Result<()> {
    let state = "{{.State.Status}} {{.State.Health.Status}}";
    let decided = async || match docker(&["inspect", "--format", state, container]).await.ok()?.trim() {
        "running healthy" => Some(true),
        ended if ended.starts_with("exited") => Some(false),
        _ => None,
    };
    if !try_poll(LIMIT, decided).await.unwrap_or(false) {
        let state = inspect(container).await?;
        bail!("{container} is not healthy: {}", state.pointer("/State").unwrap_or(&Value::Null));
    }
    Ok(())
}

/// What each image weighs. None of ours may have 40 MB.
pub(super) async fn sizes() -> Result<()> {
    for image in ["job-service", "job-worker", "send-verification-link", "admin-server", "postgres"] {
        let size = docker(&["image", "inspect", "--format", "{{.Size}}", &format!("jobs/{image}")]).await?;
        let megabytes = size.trim().parse::<f64>()? / 1e6;
        println!("    jobs/{image}: {megabytes:.1} MB");
        if image != "postgres" && megabytes >= 40.0 {
            bail!("jobs/{image} is larger than 40 MB");
        }
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
pub(super) async fn stop() -> Result<()> {
    for container in SERVICES.iter().rev() {
        let start = Instant::now();
        docker(&["stop", container]).await?;
        let state = inspect(container).await?;
        let code = state.pointer("/State/ExitCode").and_then(Value::as_i64);
        println!("    {container}: exit code {} after {:.1} s", code.unwrap_or(-1), start.elapsed().as_secs_f64());
        if code != Some(0) {
            bail!("{container} did not stop in order: {}", state.pointer("/State").unwrap_or(&Value::Null));
        }
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
}
