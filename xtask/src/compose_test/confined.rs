//! Nobody is root, no root file system can be written, and no secret is anywhere but where compose puts it.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use serde_json::Value;

use super::engine::{Engine, docker, inspect};
use super::stack::SERVICES;
use crate::deploy_check::compose::FILES;

/// What a secret looks like: the values that the compose files pass, and the names of what holds one.
const SECRETS: &[&str] = &["PASSWORD=", "=password", "SECRET=", "API_KEY=", "TOKEN="];

pub(super) async fn check(engine: &Engine) -> Result<()> {
    let [first, jobs] = FILES;
    for (file, containers) in [(first, &["postgres"][..]), (jobs, &SERVICES[..])] {
        let config = engine.config(file).await?;
        for container in containers {
            let shown = inspect(container).await?;
            let users = docker(&["top", container, "-eo", "pid,uid"]).await?;
            let users: BTreeSet<&str> =
                users.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
            if users.is_empty() || users.contains("0") {
                bail!("{container} runs as root: {users:?}");
            }
            if shown.pointer("/HostConfig/ReadonlyRootfs") != Some(&Value::Bool(true)) {
                bail!("{container} can write its root file system");
            }
            let image = inspect(shown.pointer("/Image").and_then(Value::as_str).unwrap_or_default()).await?;
            let passed = variables(&shown);
            let own = variables(&image);
            let by_compose = config.pointer(&format!("/services/{container}/environment")).and_then(Value::as_object);
            for name in passed.iter().filter(|name| !own.contains(*name)) {
                if by_compose.is_none_or(|passed| !passed.contains_key(*name)) {
                    bail!("{container} has the variable {name}, which {file} does not pass");
                }
            }
            println!("    {container}: user {users:?}, read-only, variables only of the image and of {file}");
        }
    }
    for image in ["job-service", "job-worker", "send-verification-link", "admin-server"] {
        let image = format!("jobs/{image}");
        let history = docker(&["history", "--no-trunc", "--format", "{{.CreatedBy}}", &image]).await?;
        let config = inspect(&image).await?.pointer("/Config").map(ToString::to_string).unwrap_or_default();
        if let Some(found) = SECRETS.iter().find(|secret| history.contains(**secret) || config.contains(**secret)) {
            bail!("{image} shows {found:?} in its history or settings");
        }
        let files = files(&image).await?;
        println!("    {image}: no secret in history and settings; its files: {}", files.join(" "));
    }
    Ok(())
}

/// The names of the variables that `docker inspect` shows.
fn variables(shown: &Value) -> Vec<&str> {
    let list = shown.pointer("/Config/Env").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    list.iter().filter_map(|pair| pair.as_str()?.split_once('=')).map(|(name, _)| name).collect()
}

/// Every file of an image from scratch, which has no shell to list them with. A container that was never started has them all.
async fn files(image: &str) -> Result<Vec<String>> {
    let container = docker(&["create", image]).await?;
    let container = container.trim();
    let list = format!("docker export {container} | tar --list");
    let mut command = tokio::process::Command::new("bash");
    command.args(["-c", &list]);
    let listed = crate::steps::output_of(command).await;
    docker(&["rm", container]).await?;
    // What Docker itself adds to every container: mount points.
    let dockers = ["dev/", "proc/", "sys/", ".dockerenv", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"];
    let listed = listed?;
    let of_image =
        listed.lines().filter(|name| !name.ends_with('/') && !dockers.iter().any(|own| name.starts_with(own)));
    Ok(of_image.map(str::to_owned).collect())
}
