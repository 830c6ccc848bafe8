//! Target `configuration`: the settings of every program, read from an environment.
//!
//! The input is lines `NAME=value`; other lines are passed over. Where a value holds [`MARKER`] in a place that may be
//! secret, nothing that is shown may hold it.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::time::Duration;

use admin_server::MigrateConfig;
use http::HeaderValue;
use job_pg::Db;
use job_pg::config::libpq::PARAMETERS;
use job_pg::config::{PostgresConfig, SslMode};
use job_service::{SchedulerConfig, ServerConfig, ServiceConfig, WorkerConfig};
use job_utils::config::{ConfigError, Env, Var};
use job_utils::error::chain;
use serde_json::Value;
use url::Url;

/// What a secret is made of here.
const MARKER: &str = "hunter2";

/// More than any duration, or number of anything, that somebody means. Clocks and SQL can hold it.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
const MOST_JOBS: usize = 1_000_000;
const MOST_CONNECTIONS: usize = 10_000;

type Environment = HashMap<String, String>;

/// Reads the input as the environment of every program.
pub fn configuration(input: &[u8]) {
    let env = environment(input);
    if let Some(config) = check(&env, WorkerConfig::from_env) {
        worker(&config);
    }
    if let Some(config) = check(&env, ServerConfig::from_env) {
        durations(&[config.shutdown_grace, config.store_timeout]);
    }
    if let Some(config) = check(&env, SchedulerConfig::from_env) {
        is_id(&config.scheduler_id);
        durations(&[config.poll_interval, config.shutdown_grace]);
    }
    if let Some(config) = check(&env, ServiceConfig::from_env) {
        worker(&config.worker);
    }
    if let Some(config) = check(&env, MigrateConfig::from_env) {
        database(&env, &config.postgres);
    }
    check(&env, admin_server::Config::from_env);
    check(&env, send_email::Config::from_env);
    check(&env, send_verification_link::Config::from_env);
}

fn environment(input: &[u8]) -> Environment {
    let input = String::from_utf8_lossy(input);
    let pairs = input.lines().filter_map(|line| line.split_once('='));
    // As execve has it, no variable holds a NUL.
    pairs.map(|(name, value)| (name.trim().to_owned(), value.replace('\0', ""))).collect()
}

/// Reads a program's settings; what is wrong with them must be told well, and nothing secret be shown.
fn check<T: Debug>(env: &Environment, read: impl Fn(&dyn Env) -> Result<T, ConfigError>) -> Option<T> {
    let result = read(env);
    let set: Environment =
        env.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name.clone(), value.clone())).collect();
    assert_eq!(read(&set).err().as_ref(), result.as_ref().err(), "an empty variable is not as an unset one");
    match result {
        Ok(config) => {
            shows_no_secret(env, &format!("{config:?}"));
            Some(config)
        }
        Err(error) => {
            is_told_well(&error);
            shows_no_secret(env, &format!("{error}{error:?}"));
            None
        }
    }
}

fn is_told_well(error: &ConfigError) {
    assert!(!error.faults.is_empty(), "an error without faults");
    let mut names = BTreeSet::new();
    for fault in &error.faults {
        let libpqs = PARAMETERS.iter().any(|parameter| parameter.variable == fault.name);
        assert!(libpqs || vars().any(|var| var.name == fault.name), "{} is no variable", fault.name);
        assert!(names.insert(fault.name), "{} has two faults", fault.name);
        let one_line = !fault.message.is_empty() && !fault.message.contains(char::is_control);
        assert!(one_line, "{}: {:?}", fault.name, fault.message);
    }
}

/// Every variable of the programs.
fn vars() -> impl Iterator<Item = &'static Var> {
    let functions: [&[&Var]; 4] = [job_fn::VARS, mailer::VARS, send_email::VARS, send_verification_link::VARS];
    job_service::known().read().to_vec().into_iter().chain(admin_server::VARS.iter().copied()).chain(functions.concat())
}

fn worker(config: &WorkerConfig) {
    is_id(&config.worker_id);
    assert!((1..=MOST_JOBS).contains(&config.concurrency), "{} jobs at once", config.concurrency);
    assert!(config.prefetch <= MOST_JOBS, "{} jobs ahead", config.prefetch);
    assert!(config.task_concurrency.values().all(|limit| *limit > 0), "a task that never runs");
    let limits = [config.poll_interval, config.dispatch_timeout, config.callback_timeout, config.job_expiry];
    durations(&limits);
    durations(&[config.shutdown_grace]);
    assert!(limits.iter().all(|limit| !limit.is_zero()), "no time at all");
    let mapped = config.gateway.development_map.values().flatten();
    for url in mapped.chain([&config.gateway.base, &config.callback_url]) {
        assert!(matches!(url.scheme(), "http" | "https") && url.has_host(), "{url:?} cannot be posted to");
    }
    assert!(!matches!(config.callback_url.path(), "" | "/"), "{:?} has no path", config.callback_url);
    assert!(HeaderValue::from_str(config.callback_url.as_str()).is_ok(), "{:?} is no header", config.callback_url);
}

fn is_id(id: &str) {
    assert!(id.chars().count() >= 4 && HeaderValue::from_str(id).is_ok(), "{id:?} cannot be a worker's id");
}

fn durations(durations: &[Duration]) {
    assert!(durations.iter().all(|duration| *duration <= LONGEST), "{durations:?}: longer than any clock goes");
}

fn database(env: &Environment, config: &PostgresConfig) {
    assert!(config.url.is_some() || !config.hosts.is_empty() || !config.host_addresses.is_empty(), "no host");
    assert!((2..=MOST_CONNECTIONS).contains(&config.pool_size), "{} connections", config.pool_size);
    // Certificates would be read from files.
    if matches!(config.ssl_mode, SslMode::VerifyCa | SslMode::VerifyFull) || config.ssl_client.is_some() {
        return;
    }
    if let Err(error) = Db::new(config) {
        shows_no_secret(env, &chain(&error));
    }
}

fn shows_no_secret(env: &Environment, text: &str) {
    if text.contains(MARKER) {
        assert!(env.iter().any(|(name, value)| may_show(name, value)), "a secret is shown: {text}");
    }
}

/// Whether a variable holds the marker where everybody may see it.
fn may_show(name: &str, value: &str) -> bool {
    match name {
        // Files of certificates and keys are no secrets, and neither is the name of a parameter where no password can
        // reach that far.
        "DATABASE_URL" | "JOBS_LISTEN_URL" | "JOBS_MIGRATE_URL" => {
            let parameters = match value.split_once("://") {
                Some((_, rest)) => rest.split_once('?').is_some_and(|(_, query)| !query.contains('@')),
                None => !value.contains("password"),
            };
            let files = ["sslrootcert", "sslcert", "sslkey"].iter().any(|file| value.contains(file));
            value.contains(MARKER) && (parameters || files)
        }
        "INTERNAL_GATEWAY_DEVELOPMENT_MAP" => match serde_json::from_str(value) {
            Ok(Value::Object(map)) => {
                map.iter().any(|(task, url)| task.contains(MARKER) || url.as_str().is_some_and(url_shows))
            }
            _ => false,
        },
        "JOBS_CALLBACK_HOST" => url_shows(&format!("http://{value}")),
        _ if name.ends_with("_URL") => url_shows(value),
        _ if is_secret(name) => false,
        _ => value.contains(MARKER),
    }
}

/// By its name, so that a new one is known as well.
fn is_secret(name: &str) -> bool {
    ["PASSWORD", "_PASS", "_KEY", "_TOKEN", "_SECRET"].iter().any(|end| name.ends_with(end))
}

/// Whether the marker is in a part of a URL that is no secret: scheme, host, path. A text that is no http URL is
/// secret, after the scheme if it has one, up to its last `@`, and from a `?` or `#` on.
fn url_shows(text: &str) -> bool {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => {
            url.host_str().is_some_and(|host| host.contains(MARKER)) || url.path().contains(MARKER)
        }
        _ => {
            let is_scheme = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
            let (scheme, rest) = text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)).unwrap_or(("", text));
            let shows = |(at, marker): (usize, &str)| {
                !rest[..at].contains(['?', '#']) && !rest[at + marker.len()..].contains('@')
            };
            scheme.contains(MARKER) || rest.match_indices(MARKER).any(shows)
        }
    }
}

#[cfg(test)]
mod tests {
    use job_utils::config::{Reader, Secret};

    use super::*;

    const PASSWORD: Var = Var { name: "PGPASSWORD", default: "", used_by: "", about: "" };

    fn hunter2() -> Environment {
        environment(b"PGPASSWORD=hunter2\n")
    }

    #[test]
    fn a_secret_that_is_kept_passes() {
        assert!(check(&hunter2(), |env| Ok(env.get(PASSWORD.name).map(Secret::new))).is_some());
    }

    #[test]
    #[should_panic(expected = "a secret is shown")]
    fn a_secret_in_debug_is_told() {
        check(&hunter2(), |env| Ok(env.get(PASSWORD.name)));
    }

    #[test]
    #[should_panic(expected = "a secret is shown")]
    fn a_secret_in_a_fault_is_told() {
        check(&hunter2(), |env| {
            let mut reader = Reader::new(env);
            let port: u16 = reader.number(&PASSWORD);
            reader.finish(port)
        });
    }

    #[test]
    #[should_panic(expected = "is no variable")]
    fn a_fault_that_names_no_variable_is_told() {
        check(&hunter2(), |env| {
            let mut reader = Reader::new(env);
            reader.fault(&Var { name: "PASSWORD", ..PASSWORD }, "is missing");
            reader.finish(())
        });
    }

    #[test]
    #[should_panic(expected = "not as an unset one")]
    fn an_empty_variable_that_is_taken_for_a_value_is_told() {
        check(&environment(b"PGPASSWORD=\n"), |env| {
            let mut reader = Reader::new(env);
            if env.get(PASSWORD.name).is_some() {
                reader.fault(&PASSWORD, "is empty");
            }
            reader.finish(())
        });
    }

    #[test]
    fn every_variable_that_holds_a_secret_is_known_by_its_name() {
        let secrets: Vec<&str> = vars().map(|var| var.name).filter(|name| is_secret(name)).collect();
        for name in ["PGPASSWORD", "SMTP_PASS", "MAILGUN_API_KEY", "MAILGUN_KEY", "GRAPHQL_AUTH_TOKEN", "ADMIN_TOKEN"] {
            assert!(secrets.contains(&name), "{name}");
        }
    }
}
