//! Nobody is root, no root file system can be written, and no variable is anywhere but where compose puts it. MinIO is
//! the exception, and is shown as one: its image runs as root.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::engine::{Engine, containers, docker, inspect};
use super::image::USER;
use super::stack::SERVICES;
use deploy_check::compose::FILES;

/// Whose image runs as root.
const ROOT: &str = "minio";

/// Every container of the stack, those that have ended included.
pub(super) async fn check(engine: &Engine) -> Result<()> {
    let [first, jobs] = FILES;
    let config = engine.config(first).await?;
    for service in ["postgres", ROOT] {
        container(service, service, first, &config).await?;
    }
    let config = engine.config(jobs).await?;
    for service in SERVICES {
        container(service, service, jobs, &config).await?;
    }
    for service in ["migrate-jobs", "migrate-admin"] {
        let name = containers(service).await?.pop().with_context(|| format!("there is no container of {service}"))?;
        container(&name, service, jobs, &config).await?;
    }
    Ok(())
}

/// One container of a service.
pub(super) async fn container(name: &str, service: &str, file: &str, config: &Value) -> Result<()> {
    let shown = inspect(name).await?;
    let users = if shown.pointer("/State/Running") == Some(&Value::Bool(true)) {
        let users = docker(&["top", name, "-eo", "pid,uid"]).await?;
        users.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect()
    } else {
        // Nobody is there any more: who it was made for.
        let user = shown.pointer("/Config/User").and_then(Value::as_str).unwrap_or_default();
        if user != USER {
            bail!("{name} was made for the user {user:?} instead of {USER}");
        }
        BTreeSet::from([user.to_owned()])
    };
    if users.is_empty() || users.contains("0") != (service == ROOT) {
        bail!("{name} runs as {users:?}");
    }
    let host = shown.pointer("/HostConfig").context("docker inspect shows no settings")?;
    if host["ReadonlyRootfs"] != true {
        bail!("{name} can write its root file system");
    }
    if host["CapDrop"] != serde_json::json!(["ALL"]) || host["CapAdd"].as_array().is_some_and(|added| !added.is_empty())
    {
        bail!("{name} has capabilities: drops {}, adds {}", host["CapDrop"], host["CapAdd"]);
    }
    if !host["SecurityOpt"].to_string().contains("no-new-privileges") {
        bail!("{name} may gain privileges: {}", host["SecurityOpt"]);
    }
    let ports = host["PortBindings"].as_object().into_iter().flatten().flat_map(|(_, bound)| bound.as_array());
    if let Some(open) = ports.flatten().find(|port| port["HostIp"] != "127.0.0.1") {
        bail!("{name} is reached from other machines: {open}");
    }
    let image = inspect(shown.pointer("/Image").and_then(Value::as_str).unwrap_or_default()).await?;
    let (passed, own) = (variables(&shown), variables(&image));
    let by_compose = config.pointer(&format!("/services/{service}/environment")).and_then(Value::as_object);
    for variable in passed.iter().filter(|variable| !own.contains(*variable)) {
        if by_compose.is_none_or(|passed| !passed.contains_key(*variable)) {
            bail!("{name} has the variable {variable}, which {file} does not pass");
        }
    }
    let users = Vec::from_iter(users).join(", ");
    let exception = if service == ROOT { " (ROOT, as its image has it)" } else { "" };
    println!(
        "    {name}: user {users}{exception}, read-only, no capabilities, variables only of the image and of {file}"
    );
    Ok(())
}

/// The names of the variables that `docker inspect` shows.
fn variables(shown: &Value) -> Vec<&str> {
    let list = shown.pointer("/Config/Env").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    list.iter().filter_map(|pair| pair.as_str()?.split_once('=')).map(|(name, _)| name).collect()
}
