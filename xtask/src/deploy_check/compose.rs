//! The compose files: compose itself reads them, and what it makes of them is looked at.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::process::Command;

/// The files at the top of the repository.
pub(crate) const FILES: [&str; 2] = ["docker-compose.yml", "docker-compose.jobs.yml"];

/// `docker-compose`, or `docker compose` where that is all there is; None when neither answers.
pub(crate) async fn program() -> Option<Vec<String>> {
    for words in [&["docker-compose"][..], &["docker", "compose"]] {
        let mut command = command(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        let answer = command.arg("version").output().await;
        if answer.is_ok_and(|answer| answer.status.success()) {
            return Some(words.iter().map(|word| (*word).to_owned()).collect());
        }
    }
    None
}

/// Compose as a command, without arguments.
pub(crate) fn command(program: &[String]) -> Command {
    let mut command = Command::new(program.first().map_or("docker-compose", String::as_str));
    command.args(program.get(1..).unwrap_or_default()).kill_on_drop(true);
    command
}

pub(crate) async fn check(program: &[String], root: &Path) -> Result<()> {
    for file in FILES {
        let mut command = command(program);
        command.args(["-f", file, "--profile", "workers", "config"]).current_dir(root);
        let output = command.output().await.with_context(|| format!("cannot run {}", program.join(" ")))?;
        if !output.status.success() {
            bail!("{file}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let text = String::from_utf8(output.stdout)?;
        let config = serde_saphyr::from_str(&text).map_err(|error| anyhow::anyhow!("{file}: {error}"))?;
        let problems = problems(&config);
        if !problems.is_empty() {
            bail!("{file}: {}", problems.join("\n"));
        }
    }
    Ok(())
}

/// Images that are built twice (compose v2 does it at once, and one of the two fails); ports that other machines reach.
fn problems(config: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let mut built = BTreeSet::new();
    for (name, service) in config["services"].as_object().into_iter().flatten() {
        let image = service["image"].as_str().unwrap_or_default();
        if service.get("build").is_some() && !built.insert(image) {
            problems.push(format!("{name} builds {image} once more"));
        }
        for port in service["ports"].as_array().into_iter().flatten() {
            // Of 1.29 a text, of v2 an object.
            let here =
                port.as_str().is_some_and(|text| text.starts_with("127.0.0.1:")) || port["host_ip"] == "127.0.0.1";
            if !here {
                problems.push(format!("{name} publishes {port} on more than 127.0.0.1"));
            }
        }
    }
    if built.is_empty() {
        problems.push("nothing is built: this check sees nothing".to_owned());
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_built_twice_and_a_port_for_all_are_told() {
        let told = |ports: &str, second: &str| {
            let text =
                format!("services: {{one: {{image: a, build: {{}}, ports: [{ports}]}}, two: {{image: a, {second}}}}}");
            problems(&serde_saphyr::from_str(&text).unwrap()).join("\n")
        };
        assert_eq!(told("'127.0.0.1:80:80/tcp', {host_ip: 127.0.0.1, target: 80}", "command: x"), "");
        assert_eq!(told("", "build: {}"), "two builds a once more");
        assert!(told("80:80", "command: x").contains("one publishes \"80:80\""));
        assert!(told("{target: 80}", "command: x").contains("on more than 127.0.0.1"));
        assert!(problems(&Value::Null).concat().contains("sees nothing"));
    }
}
