//! The compose files: compose itself reads them, and what it makes of them is looked at.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::process::Command;

/// The files at the top of the repository.
pub const FILES: [&str; 2] = ["docker-compose.yml", "docker-compose.jobs.yml"];

/// The network that both files share.
pub const NETWORK: &str = "constructive-net";

/// Who stays up, under a container name that is its service's, with what it publishes: of docker-compose.yml, and of
/// the specification's section 4.
const PUBLISHED: [&[(&str, &[&str])]; 2] = [
    &[("postgres", &["5432:5432"]), ("minio", &["9000:9000", "9001:9001"])],
    &[
        ("constructive-admin-server", &["3001:3000"]),
        ("send-verification-link", &["8082:8080"]),
        ("knative-job-service", &["8080:8080"]),
    ],
];

/// Who of docker-compose.jobs.yml waits for whom, and until when.
const WAITS: [(&str, &str, &str); 6] = [
    ("migrate-admin", "migrate-jobs", "service_completed_successfully"),
    ("constructive-admin-server", "migrate-admin", "service_completed_successfully"),
    ("send-verification-link", "constructive-admin-server", "service_healthy"),
    ("knative-job-service", "migrate-jobs", "service_completed_successfully"),
    ("knative-job-service", "send-verification-link", "service_healthy"),
    ("job-worker", "knative-job-service", "service_healthy"),
];

/// The variables of the specification's sections 2 and 3 that have one value. Those of Mailgun differ from user to
/// user.
const VARIABLES: [(&str, &str, &str); 12] = [
    ("send-verification-link", "JOBS_CALLBACK_ORIGINS", "http://knative-job-service:8080"),
    ("send-verification-link", "GRAPHQL_URL", "http://constructive-admin-server:3000/graphql"),
    ("send-verification-link", "META_GRAPHQL_URL", "http://constructive-admin-server:3000/graphql"),
    ("send-verification-link", "GRAPHQL_HOST_HEADER", "private.localhost"),
    ("send-verification-link", "META_GRAPHQL_HOST_HEADER", "private.localhost"),
    ("send-verification-link", "MAILGUN_DOMAIN", "mg.example.com"),
    ("send-verification-link", "SEND_VERIFICATION_LINK_DRY_RUN", "true"),
    ("constructive-admin-server", "API_IS_PUBLIC", "false"),
    ("knative-job-service", "JOBS_SUPPORT_ANY", "false"),
    ("knative-job-service", "JOBS_SUPPORTED", "email:send_verification_link"),
    ("knative-job-service", "KNATIVE_SERVICE_URL", "http://send-verification-link:8080"),
    ("knative-job-service", "INTERNAL_GATEWAY_URL", "http://send-verification-link:8080"),
];

/// Those of Mailgun: passed, whatever they are.
const MAILGUN: [&str; 3] = ["MAILGUN_API_KEY", "MAILGUN_FROM", "MAILGUN_REPLY"];

/// `docker-compose`, or `docker compose` where that is all there is; None when neither answers.
pub async fn program() -> Option<Vec<String>> {
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
pub fn command(program: &[String]) -> Command {
    let mut command = Command::new(program.first().map_or("docker-compose", String::as_str));
    command.args(program.get(1..).unwrap_or_default()).kill_on_drop(true);
    command
}

pub(crate) async fn check(program: &[String], root: &Path) -> Result<()> {
    for (file, published) in FILES.into_iter().zip(PUBLISHED) {
        let mut command = command(program);
        command.args(["-f", file]);
        let config = config(command, root).await.with_context(|| file.to_owned())?;
        let mut problems = problems(&config);
        problems.extend(confinement_problems(&config));
        problems.extend(published_problems(&config, published));
        if file == FILES[1] {
            problems.extend(jobs_problems(&config));
        }
        if !problems.is_empty() {
            bail!("{file}: {}", problems.join("\n"));
        }
    }
    example(program, root).await.context("the function in deploy/README.md")
}

/// What compose makes of the files that a command names.
async fn config(mut command: Command, root: &Path) -> Result<Value> {
    command.args(["--profile", "workers", "config"]).current_dir(root);
    // What the files say by themselves, and not what this shell adds.
    for variable in generated::names() {
        command.env_remove(variable);
    }
    let output = command.output().await.context("cannot run compose")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(serde_saphyr::from_str(&String::from_utf8(output.stdout)?)?)
}

/// The README's file and its `export` add a function that the worker and the service know of.
async fn example(program: &[String], root: &Path) -> Result<()> {
    let readme = std::fs::read_to_string(root.join("deploy/README.md"))?;
    let file = readme.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next());
    let export = readme.lines().find(|line| line.starts_with("export JOBS_SUPPORTED="));
    let (file, export) = file.zip(export).context("there is no file, or no export")?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("docker-compose.greet.yml");
    std::fs::write(&path, file)?;
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{export}\nexec \"$@\"")).arg("sh").args(program);
    command.args(["-f", FILES[1], "-f"]).arg(&path);
    let config = config(command, root).await?;
    if config["services"]["greet"]["networks"].get(NETWORK).is_none() {
        bail!("greet is not on {NETWORK}");
    }
    for (name, variable) in ["knative-job-service", "job-worker"]
        .iter()
        .flat_map(|name| [(name, "JOBS_SUPPORTED"), (name, "INTERNAL_GATEWAY_DEVELOPMENT_MAP")])
    {
        let value = &config["services"][name]["environment"][variable];
        if !value.as_str().is_some_and(|value| value.contains("greet")) {
            bail!("{name}: {variable} is {value}");
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

/// Services that run as they should not, or that the others do not reach.
fn confinement_problems(config: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    if config["networks"][NETWORK]["name"] != NETWORK {
        problems.push(format!("the network {NETWORK} has another name for Docker"));
    }
    for (name, service) in config["services"].as_object().into_iter().flatten() {
        for (key, wanted) in [
            ("read_only", Value::Bool(true)),
            ("cap_drop", serde_json::json!(["ALL"])),
            ("security_opt", serde_json::json!(["no-new-privileges:true"])),
            // Docker's own 10 s are less than JOBS_SHUTDOWN_GRACE.
            ("stop_grace_period", Value::from("30s")),
        ] {
            if service[key] != wanted {
                problems.push(format!("{name}: {key} is {} instead of {wanted}", service[key]));
            }
        }
        if ["cap_add", "privileged", "user", "network_mode"].iter().any(|key| service.get(key).is_some()) {
            problems.push(format!("{name} takes back what the images and this file deny it"));
        }
        // By 1.29 written as it is; by v2 an object, too.
        let networks = service["networks"].as_object();
        if networks.is_none_or(|networks| networks.len() != 1 || !networks.contains_key(NETWORK)) {
            problems.push(format!("{name} is not on {NETWORK} alone"));
        }
    }
    problems
}

/// Container names and ports that are not those of the specification.
fn published_problems(config: &Value, wanted: &[(&str, &[&str])]) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, ports) in wanted {
        let service = &config["services"][name];
        if service["container_name"] != *name {
            problems.push(format!("the container of {name} is called {}", service["container_name"]));
        }
        if service["restart"] != "unless-stopped" {
            problems.push(format!("{name} does not come back by itself"));
        }
        let published: Vec<String> = service["ports"].as_array().into_iter().flatten().map(port).collect();
        if published != *ports {
            problems.push(format!("{name} publishes {published:?} instead of {ports:?}"));
        }
    }
    for (name, service) in config["services"].as_object().into_iter().flatten() {
        let named = wanted.iter().any(|(wanted, _)| wanted == name);
        if !named && (service.get("container_name").is_some() || service.get("ports").is_some()) {
            problems.push(format!("{name} has a name or a port that nobody knows of"));
        }
    }
    problems
}

/// `3001:3000` of `127.0.0.1:3001:3000/tcp` and of what v2 makes of it.
fn port(port: &Value) -> String {
    match port.as_str() {
        Some(text) => text.trim_start_matches("127.0.0.1:").trim_end_matches("/tcp").to_owned(),
        None => format!("{}:{}", port["published"].as_str().unwrap_or_default(), port["target"]),
    }
}

/// What the jobs stack alone has: an order of start, and the specification's variables.
fn jobs_problems(config: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let services = &config["services"];
    for (name, awaited, condition) in WAITS {
        let found = &services[name]["depends_on"][awaited]["condition"];
        if found != condition {
            problems.push(format!("{name} waits for {awaited} until {found} instead of {condition}"));
        }
        if services[awaited]["healthcheck"]["disable"] == true {
            problems.push(format!("{awaited} does not say whether it is healthy"));
        }
    }
    for (name, variable, wanted) in VARIABLES {
        let found = &services[name]["environment"][variable];
        if found != wanted {
            problems.push(format!("{name}: {variable} is {found} instead of {wanted}"));
        }
    }
    for variable in MAILGUN {
        if services["send-verification-link"]["environment"].get(variable).is_none() {
            problems.push(format!("send-verification-link does not get {variable}"));
        }
    }
    // What is claimed by the one has to be known to the other.
    for variable in ["JOBS_SUPPORTED", "INTERNAL_GATEWAY_DEVELOPMENT_MAP", "KNATIVE_SERVICE_URL", "JOBS_SCHEMA"] {
        let of = |name: &str| &services[name]["environment"][variable];
        if of("job-worker") != of("knative-job-service") || of("job-worker").is_null() {
            problems.push(format!("{variable} of job-worker is not that of knative-job-service"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service that runs as it should: the beginning of its braces.
    const RUNS: &str = "read_only: true, cap_drop: [ALL], security_opt: ['no-new-privileges:true'], stop_grace_period: 30s, \
                        networks: {constructive-net: null}";

    const GOOD: &str = r#"
networks: {constructive-net: {name: constructive-net}}
services:
  migrate-jobs: {RUNS}
  migrate-admin: {RUNS, depends_on: {migrate-jobs: {condition: service_completed_successfully}}}
  constructive-admin-server:
    {RUNS, container_name: constructive-admin-server, restart: unless-stopped, ports: ['127.0.0.1:3001:3000/tcp'],
    environment: {API_IS_PUBLIC: 'false'}, depends_on: {migrate-admin: {condition: service_completed_successfully}},
    healthcheck: {interval: 2s}}
  send-verification-link:
    {RUNS, container_name: send-verification-link, restart: unless-stopped,
    ports: [{mode: ingress, host_ip: 127.0.0.1, target: 8080, published: '8082', protocol: tcp}],
    environment: {GRAPHQL_URL: 'http://constructive-admin-server:3000/graphql', GRAPHQL_HOST_HEADER: private.localhost,
      META_GRAPHQL_URL: 'http://constructive-admin-server:3000/graphql', META_GRAPHQL_HOST_HEADER: private.localhost,
      MAILGUN_API_KEY: '', MAILGUN_DOMAIN: mg.example.com, MAILGUN_FROM: a@b, MAILGUN_REPLY: c@d,
      SEND_VERIFICATION_LINK_DRY_RUN: 'true', JOBS_CALLBACK_ORIGINS: 'http://knative-job-service:8080'},
    depends_on: {constructive-admin-server: {condition: service_healthy}}}
  knative-job-service:
    {RUNS, container_name: knative-job-service, restart: unless-stopped, ports: ['127.0.0.1:8080:8080/tcp'],
    environment: {JOBS_SUPPORT_ANY: 'false', JOBS_SUPPORTED: 'email:send_verification_link', JOBS_SCHEMA: app_jobs,
      INTERNAL_GATEWAY_DEVELOPMENT_MAP: '', KNATIVE_SERVICE_URL: 'http://send-verification-link:8080',
      INTERNAL_GATEWAY_URL: 'http://send-verification-link:8080'},
    depends_on:
      {migrate-jobs: {condition: service_completed_successfully}, send-verification-link: {condition: service_healthy}}}
  job-worker:
    {RUNS, depends_on: {knative-job-service: {condition: service_healthy, required: true}},
    environment: {JOBS_SUPPORTED: 'email:send_verification_link', JOBS_SCHEMA: app_jobs, # of the worker
      INTERNAL_GATEWAY_DEVELOPMENT_MAP: '', KNATIVE_SERVICE_URL: 'http://send-verification-link:8080'}}
"#;

    /// What is said of the jobs stack once `from` is `to`.
    fn told(from: &str, to: &str) -> String {
        let good = GOOD.replace("RUNS", RUNS);
        assert!(good.contains(from), "{from}");
        let config = serde_saphyr::from_str(&good.replace(from, to)).unwrap();
        let problems =
            [confinement_problems(&config), published_problems(&config, PUBLISHED[1]), jobs_problems(&config)];
        problems.concat().join("\n")
    }

    #[test]
    fn what_differs_from_the_specification_is_told() {
        assert_eq!(told("services", "services"), "");
        for (from, to, problem) in [
            ("3001:3000", "3000:3000", r#"constructive-admin-server publishes ["3000:3000"] instead of ["3001:3000"]"#),
            ("published: '8082'", "published: '8083'", r#"send-verification-link publishes ["8083:8080"]"#),
            ("target: 8080", "target: 8081", r#"send-verification-link publishes ["8082:8081"]"#),
            ("127.0.0.1:8080:8080/tcp", "127.0.0.1:8080:8080/udp", "knative-job-service publishes"),
            ("['127.0.0.1:8080:8080/tcp']", "[]", "knative-job-service publishes [] instead of"),
            ("container_name: knative-job-service", "container_name: jobs", "knative-job-service is called \"jobs\""),
            ("container_name: send-verification-link, ", "", "the container of send-verification-link is called null"),
            ("restart: unless-stopped", "restart: 'no'", "does not come back by itself"),
            ("job-worker:\n    {", "job-worker:\n    {container_name: one, ", "job-worker has a name or a port"),
            (
                "{GRAPHQL_URL: 'http://constructive-admin-server:3000",
                "{GRAPHQL_URL: 'http://localhost:3000",
                ": GRAPHQL_URL is",
            ),
            (
                "META_GRAPHQL_URL: 'http://constructive-admin-server:3000/graphql'",
                "META_GRAPHQL_URL: 'http://constructive-admin-server:3000'",
                "META_GRAPHQL_URL is",
            ),
            (", GRAPHQL_HOST_HEADER: private", ", GRAPHQL_HOST_HEADER: public", ": GRAPHQL_HOST_HEADER is"),
            ("META_GRAPHQL_HOST_HEADER: private", "META_GRAPHQL_HOST_HEADER: public", "META_GRAPHQL_HOST_HEADER is"),
            ("MAILGUN_API_KEY", "MAILGUN_KEY", "does not get MAILGUN_API_KEY"),
            ("MAILGUN_DOMAIN: mg", "MAILGUN_DOMAIN: mail", "MAILGUN_DOMAIN is"),
            ("MAILGUN_FROM", "MAILGUN_FORM", "does not get MAILGUN_FROM"),
            ("MAILGUN_REPLY", "MAILGUN_REPLAY", "does not get MAILGUN_REPLY"),
            ("DRY_RUN: 'true'", "DRY_RUN: 'false'", "SEND_VERIFICATION_LINK_DRY_RUN is \"false\" instead of true"),
            ("JOBS_CALLBACK_ORIGINS: 'http://k", "JOBS_CALLBACK_ORIGINS: 'https://k", "JOBS_CALLBACK_ORIGINS is"),
            ("API_IS_PUBLIC: 'false'", "API_IS_PUBLIC: 'true'", "API_IS_PUBLIC is"),
            ("SUPPORT_ANY: 'false'", "SUPPORT_ANY: 'true'", "JOBS_SUPPORT_ANY is"),
            ("'email:send_verification_link'", "'email:send_email'", "JOBS_SUPPORTED is"),
            ("INTERNAL_GATEWAY_URL: 'http://send", "INTERNAL_GATEWAY_URL: 'http://sent", "INTERNAL_GATEWAY_URL is"),
            ("KNATIVE_SERVICE_URL: 'http://send", "KNATIVE_SERVICE_URL: 'http://sent", "KNATIVE_SERVICE_URL is"),
            ("app_jobs, # of", "jobs, # of", "JOBS_SCHEMA of job-worker is not that of knative-job-service"),
            ("{name: constructive-net}", "{name: jobs_constructive-net}", "constructive-net has another name"),
            (
                "networks: {constructive-net: null}",
                "networks: {default: null}",
                "migrate-jobs is not on constructive-net",
            ),
            ("{constructive-net: null}", "{constructive-net: null, other: null}", "is not on constructive-net alone"),
            ("read_only: true", "read_only: false", "knative-job-service: read_only is false"),
            ("cap_drop: [ALL]", "cap_drop: [NET_RAW]", "job-worker: cap_drop is"),
            ("cap_drop: [ALL]", "cap_drop: [ALL], cap_add: [NET_RAW]", "job-worker takes back"),
            ("cap_drop: [ALL]", "cap_drop: [ALL], user: root", "send-verification-link takes back"),
            ("no-new-privileges:true", "no-new-privileges:false", "security_opt is"),
            ("stop_grace_period: 30s", "stop_grace_period: 10s", "constructive-admin-server: stop_grace_period is"),
            ("stop_grace_period: 30s, ", "", "knative-job-service: stop_grace_period is null"),
            ("{condition: service_healthy}", "{condition: service_started}", "until \"service_started\""),
            (
                "{migrate-admin: {condition: service_completed_successfully}}",
                "{migrate-admin: {condition: service_started}}",
                "constructive-admin-server waits for migrate-admin until",
            ),
            (
                "{knative-job-service: {condition: service_healthy, required: true}}",
                "{}",
                "job-worker waits for knative-job-service until null",
            ),
            ("healthcheck: {interval: 2s}", "healthcheck: {disable: true}", "constructive-admin-server does not say"),
        ] {
            let told = told(from, to);
            assert!(told.contains(problem), "{to}: {told}");
        }
    }

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
