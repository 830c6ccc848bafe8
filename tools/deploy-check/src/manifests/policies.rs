//! What the NetworkPolicies let through, pod by pod, and what deploy/kubernetes/README.md promises of that.

use serde_json::{Value, json};

use super::{list, text};

const PART_OF: &str = "app.kubernetes.io/part-of";
const COMPONENT: &str = "app.kubernetes.io/component";

/// Where the requests to Knative's functions come from: the activator, and one of the ingresses that it is installed
/// with.
const ACTIVATOR: &str = "knative-serving";
const INGRESSES: [&str; 3] = ["kourier-system", "istio-system", "contour-internal"];

/// Where they go to: to Knative's own container in a function's pod, which is in no manifest.
const QUEUE_PROXY: Port<'static> = Port { name: "queue-port", number: 8012 };

/// A pod that connects, or is connected to.
struct Pod<'a> {
    name: String,
    namespace: &'a str,
    labels: Value,
    ports: Vec<Port<'a>>,
    knative: bool,
}

#[derive(Clone, Copy)]
struct Port<'a> {
    name: &'a str,
    number: u64,
}

impl Pod<'_> {
    fn is(&self, components: &[&str]) -> bool {
        self.labels[COMPONENT].as_str().is_some_and(|component| components.contains(&component))
    }

    fn is_part(&self) -> bool {
        self.labels[PART_OF] == "jobs"
    }
}

/// Where the policies of all objects differ from what is promised.
pub(super) fn problems(objects: &[Value]) -> Vec<String> {
    let pods = pods(objects);
    let mut problems = Vec::new();
    for pod in pods.iter().filter(|pod| pod.is_part() && policies_of(pod, objects).next().is_none()) {
        problems.push(format!("{}: no NetworkPolicy selects its pods: everybody reaches them", pod.name));
    }
    problems.extend(callback_problems(&pods, objects));
    for function in pods.iter().filter(|pod| pod.is(&["function"])) {
        problems.extend(function_problems(function, &pods, objects));
    }
    problems
}

/// The callback port: functions, all of them, and nobody else.
fn callback_problems(pods: &[Pod], objects: &[Value]) -> Vec<String> {
    let mut problems = Vec::new();
    let takers: Vec<&Pod> = pods.iter().filter(|pod| pod.is_part() && pod.is(&["service", "server"])).collect();
    if takers.is_empty() || !pods.iter().any(|pod| pod.is(&["function"])) {
        problems.push("no callback server, or no function that reports to it: this check sees nothing".to_owned());
    }
    for taker in takers {
        let Some(port) = taker.ports.iter().find(|port| port.name == "callback") else {
            problems.push(format!("{}: has no port callback", taker.name));
            continue;
        };
        for from in pods.iter().chain(&strangers(taker.namespace)) {
            match (from.is(&["function"]), reaches(from, taker, *port, objects)) {
                (true, false) => {
                    problems.push(format!("{}: {} does not reach its callback port", taker.name, from.name))
                }
                (false, true) => problems.push(format!("{}: {} reaches its callback port", taker.name, from.name)),
                _ => {}
            }
        }
    }
    problems
}

/// A function: workers reach it, or what Knative puts before it; where it is part of jobs, nobody else.
fn function_problems(function: &Pod, pods: &[Pod], objects: &[Value]) -> Vec<String> {
    let mut problems = Vec::new();
    let is_worker = |pod: &&Pod| pod.is_part() && pod.is(&["worker", "service"]);
    if function.knative {
        let from = |namespace| reaches(&stranger(namespace, json!({})), function, QUEUE_PROXY, objects);
        if !from(ACTIVATOR) || !INGRESSES.into_iter().any(from) {
            problems.push(format!("{}: Knative's namespaces do not reach it", function.name));
        }
    } else if !pods.iter().any(|pod| is_worker(&pod)) {
        problems.push(format!("{}: there is no worker to reach it", function.name));
    }
    let ports = if function.knative { &[QUEUE_PROXY] } else { function.ports.as_slice() };
    for port in ports {
        for from in pods.iter().chain(&strangers(function.namespace)) {
            let reached = reaches(from, function, *port, objects);
            if is_worker(&from) && !reached && !function.knative {
                problems.push(format!("{}: {} does not reach it", function.name, from.name));
            }
            if !is_worker(&from) && reached && function.is_part() {
                problems.push(format!("{}: {} reaches it", function.name, from.name));
            }
        }
    }
    problems
}

fn pods(objects: &[Value]) -> Vec<Pod<'_>> {
    let templates = objects.iter().filter_map(|object| Some((object, object.pointer("/spec/template")?)));
    let port = |port| Port { name: text(port, "/name"), number: port["containerPort"].as_u64().unwrap_or_default() };
    templates
        .map(|(object, template)| Pod {
            name: format!("{} {}", text(object, "/kind"), text(object, "/metadata/name")),
            namespace: text(object, "/metadata/namespace"),
            labels: template.pointer("/metadata/labels").cloned().unwrap_or_default(),
            ports: list(template, "/spec/containers").iter().flat_map(|it| list(it, "/ports")).map(port).collect(),
            knative: text(object, "/apiVersion").starts_with("serving.knative.dev/"),
        })
        .collect()
}

/// Pods that nobody thought of.
fn strangers(namespace: &str) -> [Pod<'_>; 3] {
    [
        stranger(namespace, json!({})),
        stranger(namespace, json!({ PART_OF: "jobs", COMPONENT: "stranger" })),
        stranger("elsewhere", json!({})),
    ]
}

fn stranger(namespace: &str, labels: Value) -> Pod<'_> {
    Pod { name: format!("any pod of {namespace}"), namespace, labels, ports: Vec::new(), knative: false }
}

/// The policies that say who connects to a pod.
fn policies_of<'a>(pod: &'a Pod, objects: &'a [Value]) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(|policy| {
        let types = list(policy, "/spec/policyTypes");
        text(policy, "/kind") == "NetworkPolicy"
            && text(policy, "/metadata/namespace") == pod.namespace
            && (types.is_empty() || types.iter().any(|kind| kind == "Ingress"))
            && selects(&policy["spec"]["podSelector"], &pod.labels)
    })
}

/// Whether a connection is let through: always to a pod that no policy selects, else by any rule of any that does.
fn reaches(from: &Pod, to: &Pod, port: Port, objects: &[Value]) -> bool {
    let mut policies = policies_of(to, objects).peekable();
    policies.peek().is_none()
        || policies.any(|policy| {
            list(policy, "/spec/ingress").iter().any(|rule| {
                let (peers, ports) = (list(rule, "/from"), list(rule, "/ports"));
                (peers.is_empty() || peers.iter().any(|peer| is_meant(peer, from, to.namespace)))
                    && (ports.is_empty() || ports.iter().any(|it| has_port(it, port)))
            })
        })
}

/// Whether an entry of `from` means a pod. Addresses may be anybody's.
fn is_meant(peer: &Value, pod: &Pod, namespace: &str) -> bool {
    let by_namespace = match peer.get("namespaceSelector") {
        // A cluster gives this label to every namespace; what others they have is not known here.
        Some(selector) => selects(selector, &json!({ "kubernetes.io/metadata.name": pod.namespace })),
        None => pod.namespace == namespace,
    };
    peer.get("ipBlock").is_some()
        || by_namespace && peer.get("podSelector").is_none_or(|selector| selects(selector, &pod.labels))
}

fn has_port(entry: &Value, port: Port) -> bool {
    let tcp = entry.get("protocol").is_none_or(|protocol| protocol == "TCP");
    tcp && match &entry["port"] {
        Value::String(name) => name == port.name,
        Value::Number(first) => {
            let first = first.as_u64().unwrap_or_default();
            (first..=entry["endPort"].as_u64().unwrap_or(first)).contains(&port.number)
        }
        _ => true,
    }
}

/// Whether a selector (matchLabels and matchExpressions; everything, where it has neither) selects what has these
/// labels.
pub(super) fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector["matchLabels"].as_object();
    let by_labels = wanted.into_iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    by_labels
        && list(selector, "/matchExpressions").iter().all(|expression| {
            let label = labels.get(text(expression, "/key"));
            let listed = label.is_some_and(|label| list(expression, "/values").contains(label));
            match text(expression, "/operator") {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => label.is_some(),
                "DoesNotExist" => label.is_none(),
                _ => false,
            }
        })
}
