//! What every container has; and of those with images of ours, which variables, ConfigMaps and Secrets they take, and
//! whether they have the time to stop.

use std::collections::HashMap;
use std::time::Duration;

use job_utils::config::Reader;
use job_utils::config::shared::JOBS_SHUTDOWN_GRACE;
use serde_json::Value;

use super::{list, text};

/// Secrets that are made by hand (deploy/kubernetes/README.md), where an overlay makes none.
const SECRETS: &[&str] = &["jobs-database", "jobs-database-owner", "jobs-callback", "jobs-mail", "jobs-graphql"];

/// Variables of Postgres, whose image has programs that are not ours.
const FOREIGN: &[&str] = &["POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB", "PGDATA"];

/// What Kubernetes gives a pod that does not say.
const USUAL_GRACE: u64 = 30;

/// Everything that is wrong with the containers of an object. `images` are those that the Dockerfiles make.
pub(super) fn problems(object: &Value, objects: &[Value], images: &[String]) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(pod) = object.pointer("/spec/template/spec") {
        let job = text(object, "/kind") == "Job";
        for container in list(pod, "/containers") {
            problems.extend(missing(pod, container, job));
            // What a function of somebody else's reads, and who makes its Secrets, is not known here.
            if let Some(path) = path_of_ours(container) {
                if !images.iter().any(|made| path == made || path.ends_with(&format!("/{made}"))) {
                    problems.push(format!("no Dockerfile makes the image {}", text(container, "/image")));
                }
                let named = list(container, "/env").iter().map(|variable| text(variable, "/name"));
                problems.extend(unknown_variables(named));
                problems.extend(reference_problems(container, objects));
                if !job {
                    problems.extend(stop_problem(pod, container, path, objects));
                }
            }
        }
        if gets_token(pod, objects) {
            problems.push("gets a token of the cluster's API".to_owned());
        }
    }
    if text(object, "/kind") == "ConfigMap" && is_taken_by_ours(text(object, "/metadata/name"), objects) {
        let data = object.pointer("/data").and_then(Value::as_object).into_iter().flatten();
        problems.extend(unknown_variables(data.map(|(name, _)| name.as_str())));
    }
    problems
}

/// The image's path without its tag, when the image is ours: `jobs/<program>`, in whatever registry.
fn path_of_ours(container: &Value) -> Option<&str> {
    let image = text(container, "/image");
    let image = image.split('@').next().unwrap_or_default();
    // The tag comes after the last slash; before it, a colon belongs to a port.
    let path = image.rfind(':').filter(|colon| !image[*colon..].contains('/')).map_or(image, |colon| &image[..colon]);
    let (above, _) = path.rsplit_once('/')?;
    (above == "jobs" || above.ends_with("/jobs")).then_some(path)
}

/// What every container has, whoever made its image.
fn missing(pod: &Value, container: &Value, job: bool) -> Vec<String> {
    let mut problems = Vec::new();
    let either = |pointer: &str| container.pointer(pointer).or_else(|| pod.pointer(pointer));
    if either("/securityContext/runAsNonRoot") != Some(&Value::Bool(true)) {
        problems.push("may run as root".to_owned());
    }
    if either("/securityContext/seccompProfile/type").is_none() {
        problems.push("has no seccomp profile".to_owned());
    }
    for (pointer, wanted) in [
        ("/securityContext/readOnlyRootFilesystem", Value::Bool(true)),
        ("/securityContext/allowPrivilegeEscalation", Value::Bool(false)),
        ("/securityContext/capabilities/drop", serde_json::json!(["ALL"])),
    ] {
        if container.pointer(pointer) != Some(&wanted) {
            problems.push(format!("{pointer} is not {wanted}"));
        }
    }
    for pointer in ["/resources/requests/cpu", "/resources/requests/memory", "/resources/limits/memory"] {
        if container.pointer(pointer).is_none() {
            problems.push(format!("has no {pointer}"));
        }
    }
    for probe in ["/readinessProbe", "/livenessProbe"] {
        if !job && container.pointer(probe).is_none() {
            problems.push(format!("has no {probe}"));
        }
    }
    problems
}

/// Unless the pod or its account says no, a token is mounted.
fn gets_token(pod: &Value, objects: &[Value]) -> bool {
    let declined = |value: &Value, pointer: &str| value.pointer(pointer) == Some(&Value::Bool(false));
    let account = text(pod, "/serviceAccountName");
    let by_account = objects.iter().any(|object| {
        text(object, "/kind") == "ServiceAccount"
            && text(object, "/metadata/name") == account
            && declined(object, "/automountServiceAccountToken")
    });
    !by_account && !declined(pod, "/automountServiceAccountToken")
}

/// ConfigMaps that nobody makes; Secrets that neither the overlay makes nor the README asks for.
fn reference_problems(container: &Value, objects: &[Value]) -> Vec<String> {
    let made = |kind: &str, name: &str| {
        objects.iter().any(|object| text(object, "/kind") == kind && text(object, "/metadata/name") == name)
    };
    let mut problems = Vec::new();
    let sources = list(container, "/envFrom").iter();
    let variables = list(container, "/env").iter();
    let names = |pointer: &'static str| move |value| text(value, pointer);
    let secrets = sources.map(names("/secretRef/name"));
    for secret in secrets.chain(variables.map(names("/valueFrom/secretKeyRef/name"))).filter(|name| !name.is_empty()) {
        if !made("Secret", secret) && !SECRETS.contains(&secret) {
            problems.push(format!("nobody makes the Secret {secret}"));
        }
    }
    for map in maps(container) {
        if !made("ConfigMap", map) {
            problems.push(format!("nobody makes the ConfigMap {map}"));
        }
    }
    problems
}

/// The ConfigMaps that a container takes its variables from.
fn maps(container: &Value) -> impl DoubleEndedIterator<Item = &str> {
    let sources = list(container, "/envFrom").iter();
    sources.map(|source| text(source, "/configMapRef/name")).filter(|name| !name.is_empty())
}

fn is_taken_by_ours(map: &str, objects: &[Value]) -> bool {
    let mut containers = objects.iter().flat_map(|object| list(object, "/spec/template/spec/containers"));
    containers.any(|container| path_of_ours(container).is_some() && maps(container).any(|name| name == map))
}

fn unknown_variables<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let known = generated::names();
    let unknown = names.filter(|name| !known.contains(name) && !FOREIGN.contains(name));
    unknown.map(|name| format!("no program reads the variable {name}")).collect()
}

/// A pod that is killed before its program has ended by itself: what is in flight is then not given back.
fn stop_problem(pod: &Value, container: &Value, path: &str, objects: &[Value]) -> Option<String> {
    let program = path.rsplit('/').next().unwrap_or_default();
    if !JOBS_SHUTDOWN_GRACE.used_by.split(", ").any(|reader| program == format!("job-{reader}")) {
        return None;
    }
    let set = setting(container, objects, JOBS_SHUTDOWN_GRACE.name);
    let env: HashMap<String, String> =
        set.map(|value| (JOBS_SHUTDOWN_GRACE.name.to_owned(), value.to_owned())).into_iter().collect();
    let mut reader = Reader::new(&env);
    let grace = reader.duration(&JOBS_SHUTDOWN_GRACE);
    let grace = match reader.finish(grace) {
        Ok(grace) => grace,
        Err(error) => return Some(error.to_string()),
    };
    let seconds = |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_u64);
    // Kubernetes counts from before the hook.
    let before = seconds(container, "/lifecycle/preStop/sleep/seconds").unwrap_or(0);
    let given = seconds(pod, "/terminationGracePeriodSeconds").unwrap_or(USUAL_GRACE);
    (Duration::from_secs(given) < Duration::from_secs(before) + grace).then(|| {
        format!(
            "terminationGracePeriodSeconds of {given} is less than preStop's {before} s and JOBS_SHUTDOWN_GRACE's {} s",
            grace.as_secs_f64()
        )
    })
}

/// A variable of a container: its own, or that of the last ConfigMap that has it.
fn setting<'a>(container: &'a Value, objects: &'a [Value], name: &str) -> Option<&'a str> {
    let own = list(container, "/env").iter().find(|variable| text(variable, "/name") == name);
    if let Some(variable) = own {
        return variable["value"].as_str();
    }
    maps(container).rev().find_map(|map| {
        let is_map = |object: &&Value| text(object, "/kind") == "ConfigMap" && text(object, "/metadata/name") == map;
        objects.iter().find(is_map)?["data"][name].as_str()
    })
}
