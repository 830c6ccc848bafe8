//! Rendered manifests: what no schema says of them.

mod network;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::tidy::env_table;

/// Secrets that are made by hand (deploy/kubernetes/README.md), where an overlay makes none.
const SECRETS: &[&str] = &["jobs-database", "jobs-database-owner", "jobs-callback", "jobs-mail", "jobs-graphql"];

/// Variables of images that are not ours.
const FOREIGN: &[&str] = &["POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB", "PGDATA"];

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
        if let Some(pod) = object.pointer("/spec/template/spec") {
            let job = text(object, "/kind") == "Job";
            for container in list(pod, "/containers") {
                pod_problems(pod, container, job, images).into_iter().for_each(&mut tell);
                reference_problems(container, objects).into_iter().for_each(&mut tell);
            }
            if gets_token(pod, objects) {
                tell("gets a token of the cluster's API".to_owned());
            }
        }
        if let Some(data) = object.pointer("/data").and_then(Value::as_object)
            && text(object, "/kind") == "ConfigMap"
        {
            unknown_variables(data.keys().map(String::as_str)).into_iter().for_each(&mut tell);
        }
        selector_problems(object, objects).into_iter().for_each(&mut tell);
        network::port_problems(object, objects).into_iter().for_each(&mut tell);
        network::host_problems(object, objects).into_iter().for_each(&mut tell);
        uncounted_tasks(object, objects).into_iter().for_each(&mut tell);
    }
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

/// What every container has, and where its image comes from.
fn pod_problems(pod: &Value, container: &Value, job: bool, images: &[String]) -> Vec<String> {
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
    let image = text(container, "/image");
    // The tag comes after the last slash; before it, a colon belongs to a port.
    let path = image.rfind(':').filter(|colon| !image[*colon..].contains('/')).map_or(image, |colon| &image[..colon]);
    if !images.iter().any(|made| path == made || path.ends_with(&format!("/{made}"))) {
        problems.push(format!("no Dockerfile makes the image {image}"));
    }
    let named = list(container, "/env").iter().map(|variable| text(variable, "/name"));
    problems.extend(unknown_variables(named));
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
    let secrets = sources.clone().map(names("/secretRef/name"));
    for secret in secrets.chain(variables.map(names("/valueFrom/secretKeyRef/name"))).filter(|name| !name.is_empty()) {
        if !made("Secret", secret) && !SECRETS.contains(&secret) {
            problems.push(format!("nobody makes the Secret {secret}"));
        }
    }
    for map in sources.map(names("/configMapRef/name")).filter(|name| !name.is_empty()) {
        if !made("ConfigMap", map) {
            problems.push(format!("nobody makes the ConfigMap {map}"));
        }
    }
    problems
}

fn unknown_variables<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let known = env_table::names();
    let unknown = names.filter(|name| !known.contains(name) && !FOREIGN.contains(name));
    unknown.map(|name| format!("no program reads the variable {name}")).collect()
}

/// A selector that selects nothing is a Service without a pod, or a lock on no door.
fn selector_problems(object: &Value, objects: &[Value]) -> Vec<String> {
    let pointer = match text(object, "/kind") {
        "Service" if text(object, "/apiVersion") == "v1" => "/spec/selector",
        "PodDisruptionBudget" => "/spec/selector/matchLabels",
        "NetworkPolicy" => "/spec/podSelector/matchLabels",
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
    let Some(wanted) = object.pointer(pointer).and_then(Value::as_object) else {
        return vec![format!("has no {pointer}")];
    };
    let selected = objects
        .iter()
        .filter_map(|other| other.pointer("/spec/template/metadata/labels"))
        .any(|labels| wanted.iter().all(|(key, value)| labels.get(key) == Some(value)));
    if selected { Vec::new() } else { vec![format!("{pointer} selects no pod")] }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: one, namespace: jobs}
spec:
  template:
    metadata: {labels: {app: one}}
    spec:
      automountServiceAccountToken: false
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: one
          image: registry.example.com:5000/jobs/one:1
          ports: [{name: web, containerPort: 80}]
          envFrom: [{configMapRef: {name: settings}}, {secretRef: {name: jobs-mail}}]
          env: [{name: PGHOST, value: there}]
          readinessProbe: {}
          livenessProbe: {httpGet: {port: web}}
          resources: {requests: {cpu: 1, memory: 1Mi}, limits: {memory: 1Mi}}
          securityContext:
            {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
---
apiVersion: v1
kind: Service
metadata: {name: one, namespace: jobs}
spec: {selector: {app: one}, ports: [{port: 8080, targetPort: web}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: one, namespace: jobs}
spec: {podSelector: {matchLabels: {app: one}}, ingress: [{ports: [{port: web}]}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: jobs}
data:
  JOBS_SCHEMA: app_jobs
  JOBS_SUPPORTED: greet
  PGHOST: db-rw
  KNATIVE_SERVICE_URL: http://one.jobs.svc.cluster.local:8080/path
  INTERNAL_GATEWAY_DEVELOPMENT_MAP: '{"greet": "http://fn.jobs.svc.cluster.local", "other": "https://example.com"}'
---
apiVersion: postgresql.cnpg.io/v1
kind: Cluster
metadata: {name: db, namespace: jobs}
---
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: fn, namespace: jobs}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: one, namespace: jobs}
spec:
  scaleTargetRef: {name: one}
  triggers: [{metadata: {host: db-rw.jobs.svc.cluster.local, query: "WHERE task_identifier IN ('greet')"}}]
"#;

    fn told(manifest: &str) -> String {
        problems(&read(manifest).unwrap(), &["jobs/one".to_owned()]).join("\n")
    }

    #[test]
    fn every_rule_is_told_when_it_is_broken() {
        assert_eq!(told(GOOD), "");
        for (from, to, problem) in [
            ("runAsNonRoot: true", "runAsNonRoot: false", "Deployment one: may run as root"),
            ("readOnlyRootFilesystem: true", "x: true", "readOnlyRootFilesystem is not true"),
            ("[ALL]", "[NET_RAW]", "capabilities/drop is not"),
            ("livenessProbe: {", "x: {", "has no /livenessProbe"),
            ("limits: {memory: 1Mi}", "limits: {}", "has no /resources/limits/memory"),
            ("jobs/one:1", "jobs/two:1", "no Dockerfile makes the image"),
            ("name: PGHOST", "name: PGHOTS", "no program reads the variable PGHOTS"),
            ("JOBS_SCHEMA: ", "JOBS_SHEMA: ", "no program reads the variable JOBS_SHEMA"),
            ("configMapRef: {name: settings}", "configMapRef: {name: other}", "nobody makes the ConfigMap other"),
            ("name: jobs-mail", "name: jobs-male", "nobody makes the Secret jobs-male"),
            ("selector: {app: one}", "selector: {app: two}", "Service one: /spec/selector selects no pod"),
            ("scaleTargetRef: {name: one}", "scaleTargetRef: {name: two}", "there is no Deployment two"),
            ("automountServiceAccountToken: false", "x: 1", "gets a token"),
            ("name: settings, namespace: jobs", "name: settings", "ConfigMap settings: has no namespace"),
            (
                "livenessProbe: {httpGet: {port: web",
                "livenessProbe: {httpGet: {port: wed",
                "/livenessProbe asks the port wed",
            ),
            ("targetPort: web", "targetPort: wed", "Service one: no pod that it selects has the port wed"),
            ("[{port: web}]", "[{port: wed}]", "NetworkPolicy one: no pod that it selects has the port wed"),
            ("PGHOST: db-rw", "PGHOST: dc-rw", "ConfigMap settings: there is no Service dc-rw"),
            ("http://one.jobs.svc", "http://two.jobs.svc", "there is no Service two"),
            (
                "http://one.jobs.svc",
                "http://one.jobz.svc",
                "one.jobz.svc.cluster.local is in another namespace than jobs",
            ),
            ("local:8080/path", "local:8081/path", "the Service one has no port 8081"),
            ("local:8080/path", "local/path", "the Service one has no port 80"),
            ("http://fn.jobs.svc", "http://fm.jobs.svc", "there is no Service fm"),
            ("host: db-rw.jobs.svc", "host: dc-rw.jobs.svc", "ScaledObject one: there is no Service dc-rw"),
            ("JOBS_SUPPORTED: greet", "JOBS_SUPPORTED: 'greet,part'", "its query does not count part"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let told = told(&GOOD.replace(from, to));
            assert!(told.contains(problem), "{to}: {told}");
        }
    }

    #[test]
    fn an_image_needs_a_registry_and_a_version() {
        let told =
            |image: &str| unnamed_images(&read(&GOOD.replace("registry.example.com:5000/jobs/one:1", image)).unwrap());
        assert_eq!(unnamed_images(&read(GOOD).unwrap()), Vec::<String>::new());
        for image in
            ["jobs/one:1", "jobs/one", "registry.example.com/jobs/one:latest", "registry.example.com:5000/jobs/one"]
        {
            assert_eq!(told(image).len(), 1, "{image}");
        }
    }
}
