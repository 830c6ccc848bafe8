//! Rendered manifests: what no schema says of them.

mod containers;
mod network;
mod policies;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Files of one overlay.
pub(super) struct Written {
    /// Of Kubernetes's own kinds.
    pub(super) kubernetes: Vec<PathBuf>,
    /// Of custom kinds, each with its group and kind.
    pub(super) custom: Vec<(String, PathBuf)>,
}

/// The objects of what was rendered.
pub(super) fn read(rendered: &str) -> Result<Vec<Value>> {
    let objects: Vec<Value> =
        serde_saphyr::from_multiple(rendered).map_err(|error| anyhow::anyhow!("not YAML: {error}"))?;
    if objects.is_empty() {
        bail!("nothing was rendered");
    }
    Ok(objects)
}

/// Writes each object to a file of its own: JSON is YAML as well.
pub(super) fn write(objects: &[Value], directory: &Path) -> Result<Written> {
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let mut written = Written { kubernetes: Vec::new(), custom: Vec::new() };
    for object in objects {
        let path = directory.join(format!("{}-{}.json", text(object, "/kind"), text(object, "/metadata/name")));
        let group = text(object, "/apiVersion").split_once('/').map_or("", |(group, _)| group);
        let path = if is_own(group) { path } else { path.with_extension(format!("{group}.json")) };
        std::fs::write(&path, object.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
        if is_own(group) {
            written.kubernetes.push(path);
        } else {
            written.custom.push((format!("{group}-{}", text(object, "/kind")), path));
        }
    }
    Ok(written)
}

/// Whether a group is Kubernetes's own.
fn is_own(group: &str) -> bool {
    !group.contains('.') || group.ends_with(".k8s.io")
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Everything that is wrong. `images` are those that the Dockerfiles make.
pub(super) fn problems(objects: &[Value], images: &[String]) -> Vec<String> {
    let mut problems = Vec::new();
    for object in objects {
        let name = format!("{} {}", text(object, "/kind"), text(object, "/metadata/name"));
        let mut tell = |problem: String| problems.push(format!("{name}: {problem}"));
        if text(object, "/metadata/namespace").is_empty() && text(object, "/kind") != "Namespace" {
            tell("has no namespace".to_owned());
        }
        containers::problems(object, objects, images).into_iter().for_each(&mut tell);
        selector_problems(object, objects).into_iter().for_each(&mut tell);
        network::port_problems(object, objects).into_iter().for_each(&mut tell);
        network::host_problems(object, objects).into_iter().for_each(&mut tell);
        uncounted_tasks(object, objects).into_iter().for_each(&mut tell);
    }
    problems.extend(policies::problems(objects));
    problems
}

/// Images without a registry or a version: a cluster would look for them where somebody else may have put them.
pub(super) fn unnamed_images(objects: &[Value]) -> Vec<String> {
    let containers = objects.iter().flat_map(|object| list(object, "/spec/template/spec/containers"));
    let images = containers.map(|container| text(container, "/image"));
    let is_named = |image: &&str| {
        let (registry, rest) = image.split_once('/').unwrap_or_default();
        registry.contains(['.', ':']) && rest.rsplit_once(':').is_some_and(|(_, tag)| tag != "latest")
    };
    images
        .filter(|image| !is_named(image))
        .map(|image| format!("the image {image} has no registry or no version"))
        .collect()
}

/// Tasks that the workers take and the autoscaler's query does not count.
fn uncounted_tasks(object: &Value, objects: &[Value]) -> Vec<String> {
    if text(object, "/kind") != "ScaledObject" {
        return Vec::new();
    }
    let queries = list(object, "/spec/triggers").iter().map(|trigger| text(trigger, "/metadata/query"));
    let queries = queries.collect::<String>();
    let tasks = objects.iter().map(|other| text(other, "/data/JOBS_SUPPORTED")).flat_map(|tasks| tasks.split(','));
    tasks
        .filter(|task| !task.is_empty() && !queries.contains(&format!("'{task}'")))
        .map(|task| format!("its query does not count {task}"))
        .collect()
}

/// A selector that selects nothing is a Service without a pod, or a lock on no door.
fn selector_problems(object: &Value, objects: &[Value]) -> Vec<String> {
    let pointer = match text(object, "/kind") {
        "Service" if text(object, "/apiVersion") == "v1" => "/spec/selector",
        "PodDisruptionBudget" => "/spec/selector",
        "NetworkPolicy" => "/spec/podSelector",
        "HorizontalPodAutoscaler" | "ScaledObject" => {
            let target = text(object, "/spec/scaleTargetRef/name");
            let is_target =
                |other: &&Value| text(other, "/kind") == "Deployment" && text(other, "/metadata/name") == target;
            return match objects.iter().find(is_target) {
                None => vec![format!("there is no Deployment {target}")],
                // Applied again, it would undo what the autoscaler did.
                Some(deployment) if deployment.pointer("/spec/replicas").is_some() => {
                    vec![format!("the Deployment {target} sets its own number of replicas")]
                }
                Some(_) => Vec::new(),
            };
        }
        _ => return Vec::new(),
    };
    if object.pointer(pointer).is_none() {
        return vec![format!("has no {pointer}")];
    }
    let selected = objects.iter().any(|other| is_selected(object, other));
    if selected { Vec::new() } else { vec![format!("{pointer} selects no pod")] }
}

/// Whether a Service, a budget or a policy is for the pods of another object.
fn is_selected(object: &Value, other: &Value) -> bool {
    let Some(labels) = other.pointer("/spec/template/metadata/labels") else { return false };
    let spec = &object["spec"];
    match text(object, "/kind") {
        "NetworkPolicy" => policies::selects(&spec["podSelector"], labels),
        "Service" => policies::selects(&serde_json::json!({ "matchLabels": spec["selector"] }), labels),
        _ => policies::selects(&spec["selector"], labels),
    }
}
