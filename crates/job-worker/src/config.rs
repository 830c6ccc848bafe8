//! The worker's settings.

mod callback;
pub mod gateway;
mod tasks;

use std::collections::BTreeMap;
use std::time::Duration;

use job_utils::config::LONGEST;
use job_utils::config::id::{id_problem, random_id, read_id};
use job_utils::config::shared::{
    HOSTNAME, INTERNAL_JOBS_CALLBACK_PORT, INTERNAL_JOBS_CALLBACK_URL, JOBS_CALLBACK_SECRET, JOBS_CALLBACK_TIMEOUT,
    JOBS_HEALTH_PORT, JOBS_POLL_INTERVAL, JOBS_SHUTDOWN_GRACE, JOBS_SUPPORT_ANY, JOBS_SUPPORTED, LEAST,
    duration_problem, read_health_port, read_secrets,
};
use job_utils::variables;
use job_utils::wire::signature::CallbackSecrets;

pub use job_pg::config::{ClientCertificate, Endpoint, Listen, PostgresConfig, SchemaName, SslMode};
pub use job_utils::config::{
    ConfigError, Env, Fault, HttpUrl, ProcessEnv, Reader, Secret, Tasks, TimeZone, Var, in_words, parse_http_url,
};

pub use crate::config::gateway::Gateway;
pub use crate::config::tasks::{AllTasks, RetrySettings, TaskSettings};

use crate::config::callback::{CallbackAddress, JOBS_CALLBACK_HOST};
use crate::config::tasks::{JOBS_TASKS, read_limits};

variables! {
    /// Jobs that run at once. A job that a function has accepted holds no place.
    pub JOBS_CONCURRENCY = "16" for "worker, service";
    /// Limits for single tasks within JOBS_CONCURRENCY, as `task=number` between commas; JOBS_TASKS says the same and
    /// more.
    pub JOBS_TASK_CONCURRENCY = "" for "worker, service";
    /// How many jobs may be claimed ahead while jobs take no longer than 100 ms; 0 for none.
    pub JOBS_PREFETCH = "1000" for "worker, service";
    /// MiB that payloads may take: a quarter for those claimed ahead, the rest for larger ones, which are fetched when
    /// their job starts. A payload that is larger than that is fetched alone.
    pub JOBS_PAYLOAD_MEMORY = "64" for "worker, service";
    /// How long a function may take to answer; slow synchronous functions are normal.
    pub JOBS_DISPATCH_TIMEOUT = "15m" for "worker, service";
    /// How long after the request status and headers of the answer may take; unset: as long as JOBS_DISPATCH_TIMEOUT
    /// allows.
    pub JOBS_DISPATCH_FIRST_BYTE_TIMEOUT = "" for "worker, service";
    /// How long a worker may be silent before others take over the jobs it runs. It shows itself at least every sixth
    /// of that.
    pub JOBS_LEASE = "30s" for "worker, service";
    /// A lock older than this no longer counts, whoever holds it: any worker may claim the job.
    pub JOBS_JOB_EXPIRY = "4h" for "worker, service";
    /// Take every 2xx answer but 202 as a completion, for plain functions that never call back.
    pub JOBS_COMPLETE_ON_2XX = "false" for "worker, service";
    /// Speak HTTP/2 to functions without asking first, one connection per host and port; every function must know it.
    pub JOBS_HTTP2 = "false" for "worker, service";
}

/// Every variable that the worker reads, but for those of Postgres.
pub const VARS: &[&Var] = &[
    &HOSTNAME,
    &JOBS_SUPPORT_ANY,
    &JOBS_SUPPORTED,
    &JOBS_CONCURRENCY,
    &JOBS_TASKS,
    &JOBS_TASK_CONCURRENCY,
    &JOBS_PREFETCH,
    &JOBS_PAYLOAD_MEMORY,
    &JOBS_POLL_INTERVAL,
    &JOBS_SHUTDOWN_GRACE,
    &JOBS_DISPATCH_TIMEOUT,
    &JOBS_DISPATCH_FIRST_BYTE_TIMEOUT,
    &JOBS_LEASE,
    &JOBS_JOB_EXPIRY,
    &JOBS_COMPLETE_ON_2XX,
    &JOBS_HTTP2,
    &JOBS_HEALTH_PORT,
    &gateway::KNATIVE_SERVICE_URL,
    &gateway::INTERNAL_GATEWAY_URL,
    &gateway::INTERNAL_GATEWAY_DEVELOPMENT_MAP,
    &gateway::NODE_ENV,
    &INTERNAL_JOBS_CALLBACK_PORT,
    &INTERNAL_JOBS_CALLBACK_URL,
    &JOBS_CALLBACK_HOST,
    &JOBS_CALLBACK_SECRET,
    &JOBS_CALLBACK_TIMEOUT,
];

/// Below this, a pause of the machine would be taken for the end of a worker.
const LEAST_LEASE: Duration = Duration::from_secs(1);
/// More jobs than a process has room for.
const MOST_JOBS: usize = 1_000_000;

/// Reads JOBS_DISPATCH_FIRST_BYTE_TIMEOUT.
fn read_first_byte_timeout(reader: &mut Reader<'_>) -> Option<Duration> {
    reader.optional(&JOBS_DISPATCH_FIRST_BYTE_TIMEOUT)?;
    Some(reader.positive_duration(&JOBS_DISPATCH_FIRST_BYTE_TIMEOUT))
}

/// The worker's settings. From the environment, or the defaults with what differs:
///
/// ```
/// use std::time::Duration;
/// let mut config = job_worker::WorkerConfig::default();
/// config.lease = Duration::from_secs(60);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WorkerConfig {
    /// How to reach Postgres.
    pub postgres: PostgresConfig,
    /// Worker id: exactly HOSTNAME, else `worker-0`; by default a random one. Two live workers need two.
    pub worker_id: String,
    /// Which tasks to take.
    pub tasks: Tasks,
    /// Jobs that run at once.
    pub concurrency: usize,
    /// Limits for single tasks, within the concurrency.
    pub task_concurrency: BTreeMap<String, usize>,
    /// How single tasks are dispatched. Their limits are in `task_concurrency`.
    pub task_settings: AllTasks,
    /// Jobs to claim ahead at most.
    pub prefetch: usize,
    /// Bytes that payloads may take.
    pub payload_memory: usize,
    /// How often to poll, without a notification.
    pub poll_interval: Duration,
    /// How long a stop waits for jobs in flight.
    pub shutdown_grace: Duration,
    /// How long a function may take to answer.
    pub dispatch_timeout: Duration,
    /// How long the head of its answer may take, when that is less.
    pub first_byte_timeout: Option<Duration>,
    /// How long an accepted job waits for its callback.
    pub callback_timeout: Duration,
    /// Without a heartbeat for so long, other workers take over the jobs that run here.
    pub lease: Duration,
    /// With it, callback URLs are signed.
    pub secrets: Option<CallbackSecrets>,
    /// When a lock no longer counts.
    pub job_expiry: Duration,
    /// Take every 2xx but 202 as a completion.
    pub complete_on_2xx: bool,
    /// Speak HTTP/2 to functions by prior knowledge.
    pub http2: bool,
    /// Where functions are.
    pub gateway: Gateway,
    /// Where functions report.
    pub callback_url: HttpUrl,
    /// Port for health checks when the worker runs alone.
    pub health_port: Option<u16>,
}

/// The settings of an empty environment, with a random id. What reaches Postgres is of no use where a `Db` is given.
impl Default for WorkerConfig {
    fn default() -> Self {
        let config = Self::read(&mut Reader::new(&BTreeMap::new()));
        Self { worker_id: random_id("worker"), ..config }
    }
}

impl WorkerConfig {
    /// Reads and checks every variable the worker uses.
    pub fn from_env(env: &dyn Env) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(env);
        let mut config = Self::read(&mut reader);
        config.health_port = read_health_port(&mut reader);
        reader.finish(config)
    }

    /// Reads with a given reader, so that several parts report their faults together. JOBS_HEALTH_PORT is not read:
    /// only a worker alone has one.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let concurrency = reader.number_within(&JOBS_CONCURRENCY, 1..=MOST_JOBS);
        let port = reader.number(&INTERNAL_JOBS_CALLBACK_PORT);
        let dispatch_timeout = reader.positive_duration(&JOBS_DISPATCH_TIMEOUT);
        let first_byte_timeout = read_first_byte_timeout(reader);
        let callback_timeout = reader.positive_duration(&JOBS_CALLBACK_TIMEOUT);
        let job_expiry = reader.positive_duration(&JOBS_JOB_EXPIRY);
        let lease = reader.duration(&JOBS_LEASE);
        let task_settings = AllTasks::read(reader);
        let task_concurrency = read_limits(reader, &task_settings);
        let config = Self {
            postgres: PostgresConfig::read(reader),
            worker_id: read_id(reader, "worker-0"),
            tasks: Tasks::read(reader),
            concurrency,
            task_concurrency,
            task_settings,
            prefetch: reader.number_within(&JOBS_PREFETCH, 0..=MOST_JOBS),
            payload_memory: reader.number_within(&JOBS_PAYLOAD_MEMORY, 1..=1 << 20) << 20,
            poll_interval: reader.positive_duration(&JOBS_POLL_INTERVAL),
            shutdown_grace: reader.duration(&JOBS_SHUTDOWN_GRACE),
            dispatch_timeout,
            first_byte_timeout,
            callback_timeout,
            lease,
            secrets: read_secrets(reader),
            job_expiry,
            complete_on_2xx: reader.flag(&JOBS_COMPLETE_ON_2XX),
            http2: reader.flag(&JOBS_HTTP2),
            gateway: Gateway::read(reader),
            callback_url: CallbackAddress::read_url(reader, port),
            health_port: None,
        };
        for (var, message) in config.problems() {
            reader.fault(var, message);
        }
        config
    }

    /// Everything that a worker could not work with, wherever the settings are from: the variable, and what is wrong
    /// with the value.
    pub fn problems(&self) -> Vec<(&'static Var, String)> {
        let mut problems = Vec::new();
        let mut problem = |var: &'static Var, message: String| problems.push((var, message));
        if let Some(message) = id_problem(&self.worker_id) {
            problem(&HOSTNAME, message);
        }
        for (var, jobs, least) in [(&JOBS_CONCURRENCY, self.concurrency, 1), (&JOBS_PREFETCH, self.prefetch, 0)] {
            if !(least..=MOST_JOBS).contains(&jobs) {
                problem(var, format!("{jobs} is not within {least} to {MOST_JOBS}"));
            }
        }
        if let Some(task) = self.task_concurrency.iter().find_map(|(task, jobs)| (*jobs == 0).then_some(task)) {
            problem(&JOBS_TASK_CONCURRENCY, format!("{task}: must be at least 1"));
        }
        for (var, duration, least) in [
            (&JOBS_POLL_INTERVAL, self.poll_interval, LEAST),
            (&JOBS_SHUTDOWN_GRACE, self.shutdown_grace, Duration::ZERO),
            (&JOBS_DISPATCH_TIMEOUT, self.dispatch_timeout, LEAST),
            (&JOBS_DISPATCH_FIRST_BYTE_TIMEOUT, self.first_byte_timeout.unwrap_or(LEAST), LEAST),
            (&JOBS_CALLBACK_TIMEOUT, self.callback_timeout, LEAST),
            (&JOBS_LEASE, self.lease, LEAST_LEASE),
            (&JOBS_JOB_EXPIRY, self.job_expiry, LEAST),
        ] {
            if let Some(message) = duration_problem(duration, least) {
                problem(var, message);
            }
        }
        let Self { dispatch_timeout, first_byte_timeout, job_expiry, .. } = *self;
        if let Some(message) = self.task_settings.problem(dispatch_timeout, first_byte_timeout, job_expiry) {
            problem(&JOBS_TASKS, message);
        }
        // Past its expiry a job is claimed anew, so no attempt may legitimately last longer. A job that a function has
        // accepted has its own deadline.
        if self.dispatch_timeout > self.job_expiry && self.dispatch_timeout <= LONGEST {
            let message = "must not exceed JOBS_JOB_EXPIRY: another worker would start the job meanwhile";
            problem(&JOBS_DISPATCH_TIMEOUT, message.to_owned());
        }
        if self.first_byte_timeout.is_some_and(|limit| limit > self.dispatch_timeout) {
            let message = "must not exceed JOBS_DISPATCH_TIMEOUT: it would have no effect";
            problem(&JOBS_DISPATCH_FIRST_BYTE_TIMEOUT, message.to_owned());
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(env: &[(&str, &str)]) -> Result<WorkerConfig, ConfigError> {
        let env: BTreeMap<&str, &str> = env.iter().copied().collect();
        WorkerConfig::from_env(&env)
    }

    #[test]
    fn the_defaults_are_valid() {
        let config = read(&[]).unwrap();
        assert_eq!(config.worker_id, "worker-0");
        assert_eq!(config.gateway.base.as_str(), "http://gateway:8080/");
        assert_eq!(config.callback_url.as_str(), "http://jobs-callback:12345/callback");
        assert_eq!(config.tasks, Tasks::Any);
    }

    #[test]
    fn single_tasks_can_be_limited() {
        let config = read(&[("JOBS_TASK_CONCURRENCY", "email:send=2, a=b=1")]).unwrap();
        assert_eq!(config.task_concurrency, BTreeMap::from([("email:send".into(), 2), ("a=b".into(), 1)]));
        assert!(read(&[("JOBS_TASK_CONCURRENCY", "email:send=0")]).is_err());
        assert!(read(&[("JOBS_TASK_CONCURRENCY", "email:send")]).is_err());
    }

    #[test]
    fn the_answers_head_can_have_less_time_than_the_answer() {
        let read = |limit| read(&[("JOBS_DISPATCH_FIRST_BYTE_TIMEOUT", limit)]).map(|config| config.first_byte_timeout);
        assert_eq!(read("").unwrap(), None);
        assert_eq!(read("15m").unwrap(), Some(Duration::from_secs(900)));
        for bad in ["16m", "0", "soon"] {
            assert_eq!(read(bad).unwrap_err().faults[0].name, "JOBS_DISPATCH_FIRST_BYTE_TIMEOUT", "{bad}");
        }
    }

    #[test]
    fn a_callback_url_without_a_path_means_callback() {
        let config = read(&[("INTERNAL_JOBS_CALLBACK_URL", "http://knative-job-service:8080")]).unwrap();
        assert_eq!(config.callback_url.as_str(), "http://knative-job-service:8080/callback");
    }

    #[test]
    fn tasks_can_be_restricted() {
        let env = [("JOBS_SUPPORT_ANY", "No"), ("JOBS_SUPPORTED", " a, b ,,c:d")];
        assert_eq!(read(&env).unwrap().tasks, Tasks::Only(vec!["a".into(), "b".into(), "c:d".into()]));
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let env = [
            ("JOBS_CONCURRENCY", "0"),
            ("HOSTNAME", "abc"),
            ("JOBS_SUPPORT_ANY", "maybe"),
            ("KNATIVE_SERVICE_URL", "ftp://x"),
            ("INTERNAL_JOBS_CALLBACK_PORT", "70000"),
        ];
        let mut names: Vec<_> = read(&env).unwrap_err().faults.iter().map(|fault| fault.name).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["HOSTNAME", "INTERNAL_JOBS_CALLBACK_PORT", "JOBS_CONCURRENCY", "JOBS_SUPPORT_ANY", "KNATIVE_SERVICE_URL"]
        );
    }

    #[test]
    fn who_is_not_named_has_an_id_of_its_own() {
        let ids = [WorkerConfig::default(), WorkerConfig::default()].map(|config| config.worker_id);
        assert_ne!(ids[0], ids[1]);
        assert!(ids[0].starts_with("worker-") && ids[0] != "worker-0", "{}", ids[0]);
        assert!(WorkerConfig::default().problems().is_empty());
    }
}
