//! Ports by their names, and hosts in settings: what they lead to.

use serde_json::Value;

use super::{list, text};

/// Names of ports that no container has.
pub(super) fn port_problems(object: &Value, objects: &[Value]) -> Vec<String> {
    let (selector, used): (&str, Vec<&str>) = match text(object, "/kind") {
        "Service" if text(object, "/apiVersion") == "v1" => {
            ("/spec/selector", list(object, "/spec/ports").iter().map(|port| text(port, "/targetPort")).collect())
        }
        "NetworkPolicy" => {
            let rules = list(object, "/spec/ingress").iter().flat_map(|rule| list(rule, "/ports"));
            ("/spec/podSelector/matchLabels", rules.map(|port| text(port, "/port")).collect())
        }
        _ => return probe_problems(object),
    };
    let wanted = object.pointer(selector).and_then(Value::as_object);
    let selected = objects.iter().filter_map(|other| other.pointer("/spec/template")).filter(|pod| {
        let labels = pod.pointer("/metadata/labels");
        wanted.is_some_and(|wanted| {
            wanted.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
        })
    });
    let there: Vec<&str> = selected.flat_map(|pod| list(pod, "/spec/containers")).flat_map(names).collect();
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
    for (host, port) in hosts(object) {
        let mut parts = host.split('.');
        let name = parts.next().unwrap_or_default();
        match (parts.next(), parts.next()) {
            // Short names are of this namespace.
            (None, _) => {}
            (Some(there), Some("svc")) if there == namespace => {}
            (Some(_), Some("svc")) => {
                problems.push(format!("{host} is in another namespace than {namespace}"));
                continue;
            }
            // Not of the cluster.
            _ => continue,
        }
        match ports_of(name, objects) {
            None => problems.push(format!("there is no Service {name}")),
            Some(ports) => {
                if let Some(port) = port.filter(|port| !ports.is_empty() && !ports.contains(port)) {
                    problems.push(format!("the Service {name} has no port {port}"));
                }
            }
        }
    }
    problems
}

/// Every host in an object's settings, with the port where it is known.
fn hosts(object: &Value) -> Vec<(&str, Option<u64>)> {
    let mut hosts = Vec::new();
    if text(object, "/kind") == "ScaledObject" {
        hosts.extend(list(object, "/spec/triggers").iter().map(|trigger| (text(trigger, "/metadata/host"), None)));
    }
    if text(object, "/kind") != "ConfigMap" {
        return hosts;
    }
    for (name, value) in object.pointer("/data").and_then(Value::as_object).into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        if name == "PGHOST" {
            hosts.push((value, None));
        }
        // Of a URL, or of each in a JSON object of them.
        for part in value.split('"') {
            let Some((scheme, rest)) = part.split_once("://") else { continue };
            let authority = rest.split(['/', '?']).next().unwrap_or_default();
            let authority = authority.rsplit('@').next().unwrap_or_default();
            let (host, port) =
                authority.split_once(':').map_or((authority, None), |(host, port)| (host, port.parse().ok()));
            let usual = match scheme {
                "http" => Some(80),
                "https" => Some(443),
                _ => None,
            };
            hosts.push((host, port.or(usual)));
        }
    }
    hosts
}

/// The ports of a Service: of one that is rendered, or (not known, none) of one that an operator makes. None when nobody does.
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
