//! Ports by their names, and hosts in settings: what they lead to.

use std::collections::BTreeMap;

use job_worker::config::gateway::INTERNAL_GATEWAY_DEVELOPMENT_MAP;
use serde_json::Value;

use super::{is_selected, list, text};

/// Names of ports that no container has.
pub(super) fn port_problems(object: &Value, objects: &[Value]) -> Vec<String> {
    let used: Vec<&str> = match text(object, "/kind") {
        "Service" if text(object, "/apiVersion") == "v1" => {
            list(object, "/spec/ports").iter().map(|port| text(port, "/targetPort")).collect()
        }
        "NetworkPolicy" => {
            let rules = list(object, "/spec/ingress").iter().flat_map(|rule| list(rule, "/ports"));
            rules.map(|port| text(port, "/port")).collect()
        }
        _ => return probe_problems(object),
    };
    let selected = objects.iter().filter(|other| is_selected(object, other));
    let there: Vec<&str> =
        selected.flat_map(|pod| list(pod, "/spec/template/spec/containers")).flat_map(names).collect();
    let missing = used.into_iter().filter(|port| !port.is_empty() && !there.contains(port));
    missing.map(|port| format!("no pod that it selects has the port {port}")).collect()
}

/// Probes of a port that their container does not have.
fn probe_problems(object: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    for container in list(object, "/spec/template/spec/containers") {
        for probe in ["/startupProbe", "/readinessProbe", "/livenessProbe"] {
            for kind in ["httpGet", "tcpSocket"] {
                let port = text(container, &format!("{probe}/{kind}/port"));
                if !port.is_empty() && !names(container).contains(&port) {
                    problems.push(format!("{probe} asks the port {port}, which its container does not have"));
                }
            }
        }
    }
    problems
}

fn names(container: &Value) -> Vec<&str> {
    list(container, "/ports").iter().map(|port| text(port, "/name")).collect()
}

/// Hosts within the cluster, in settings and in an autoscaler's question, that are no Service of this namespace.
pub(super) fn host_problems(object: &Value, objects: &[Value]) -> Vec<String> {
    let namespace = text(object, "/metadata/namespace");
    let mut problems = Vec::new();
    for Host { name: host, port, anywhere } in hosts(object) {
        let mut parts = host.split('.');
        let name = parts.next().unwrap_or_default();
        match (parts.next(), parts.next()) {
            // Short names are of this namespace.
            (None, _) => {}
            (Some(there), Some("svc")) if there == namespace => {}
            (Some(_), Some("svc")) if !anywhere => {
                problems.push(format!("{host} is in another namespace than {namespace}"));
                continue;
            }
            // Not of the cluster, or of another's namespace.
            _ => continue,
        }
        match ports_of(name, objects) {
            None if anywhere => {}
            None => problems.push(format!("there is no Service {name}")),
            Some(ports) => {
                if let Some(port) = port.filter(|port| !ports.is_empty() && !ports.contains(port)) {
                    problems.push(format!("the Service {name} has no port {port}"));
                }
            }
        }
    }
    if map(object).is_some_and(|text| functions(text).is_none()) {
        problems.push(format!("{} is no JSON object of URLs", INTERNAL_GATEWAY_DEVELOPMENT_MAP.name));
    }
    problems
}

/// A host in a setting.
struct Host {
    name: String,
    /// Where it is known.
    port: Option<u64>,
    /// Of a function that is not ours: it may be deployed by itself, in another namespace, too.
    anywhere: bool,
}

/// Every host in an object's settings.
fn hosts(object: &Value) -> Vec<Host> {
    let host = |name: &str| Host { name: name.to_owned(), port: None, anywhere: false };
    match text(object, "/kind") {
        "ScaledObject" => {
            return list(object, "/spec/triggers")
                .iter()
                .map(|trigger| host(text(trigger, "/metadata/host")))
                .collect();
        }
        "ConfigMap" => {}
        _ => return Vec::new(),
    }
    let mut hosts = Vec::new();
    for (name, value) in object.pointer("/data").and_then(Value::as_object).into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        if name == "PGHOST" {
            hosts.push(host(value));
        } else if name == INTERNAL_GATEWAY_DEVELOPMENT_MAP.name {
            for (task, url) in functions(value).into_iter().flatten() {
                let ours = task == send_verification_link::TASK || send_email::TASKS.contains(&task.as_str());
                hosts.extend(host_of(&url, !ours));
            }
        } else {
            hosts.extend(host_of(value, false));
        }
    }
    hosts
}

/// The setting that says where functions are.
fn map(object: &Value) -> Option<&str> {
    object.get("data")?.get(INTERNAL_GATEWAY_DEVELOPMENT_MAP.name)?.as_str()
}

/// Its tasks and their URLs.
fn functions(text: &str) -> Option<BTreeMap<String, String>> {
    serde_json::from_str(text).ok()
}

/// The host of a URL.
fn host_of(url: &str, anywhere: bool) -> Option<Host> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, port.parse().ok()));
    let usual = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    Some(Host { name: host.to_owned(), port: port.or(usual), anywhere })
}

/// The ports of a Service: of one that is rendered, or (not known, none) of one that an operator makes. None when
/// nobody does.
fn ports_of(name: &str, objects: &[Value]) -> Option<Vec<u64>> {
    objects.iter().find_map(|object| {
        let own = text(object, "/metadata/name");
        match (text(object, "/apiVersion"), text(object, "/kind")) {
            ("v1", "Service") if own == name => {
                Some(list(object, "/spec/ports").iter().filter_map(|port| port["port"].as_u64()).collect())
            }
            ("serving.knative.dev/v1", "Service") if own == name => Some(vec![80]),
            ("postgresql.cnpg.io/v1", "Pooler") if own == name => Some(Vec::new()),
            ("postgresql.cnpg.io/v1", "Cluster")
                if ["rw", "ro", "r"].iter().any(|kind| name == format!("{own}-{kind}")) =>
            {
                Some(Vec::new())
            }
            _ => None,
        }
    })
}
