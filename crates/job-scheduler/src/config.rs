//! The scheduler's settings.

use std::collections::BTreeMap;
use std::time::Duration;

use job_pg::config::PostgresConfig;
use job_utils::config::id::{id_problem, random_id, read_id};
use job_utils::config::shared::{
    HOSTNAME, JOBS_HEALTH_PORT, JOBS_POLL_INTERVAL, JOBS_SHUTDOWN_GRACE, JOBS_SUPPORT_ANY, JOBS_SUPPORTED, LEAST,
    duration_problem, read_health_port,
};
use job_utils::config::{ConfigError, Env, Reader, Tasks, Var};
use job_utils::variables;

/// The scheduler shows itself every third of it, and a statement has to get through in between.
const LEAST_LEASE: Duration = Duration::from_secs(1);

variables! {
    /// IANA zone of schedules that name none.
    pub TZ = "UTC" for "scheduler, service";
    /// How long a scheduler may be silent before others take over its schedules. It shows itself every third of that.
    pub JOBS_SCHEDULER_LEASE = "8s" for "scheduler, service";
    /// How long schedule_fires tells what became of a fire.
    pub JOBS_FIRES_RETENTION = "168h" for "scheduler, service";
}

/// Every variable that the scheduler reads, but for those of Postgres.
pub const VARS: &[&Var] = &[
    &TZ,
    &JOBS_SCHEDULER_LEASE,
    &JOBS_FIRES_RETENTION,
    &HOSTNAME,
    &JOBS_SUPPORT_ANY,
    &JOBS_SUPPORTED,
    &JOBS_POLL_INTERVAL,
    &JOBS_SHUTDOWN_GRACE,
    &JOBS_HEALTH_PORT,
];

/// The scheduler's settings. From the environment, or the defaults with what differs:
///
/// ```
/// let mut config = job_scheduler::SchedulerConfig::default();
/// config.time_zone = jiff::tz::TimeZone::get("Europe/Berlin").unwrap();
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SchedulerConfig {
    /// How to reach Postgres.
    pub postgres: PostgresConfig,
    /// Scheduler id: exactly HOSTNAME, else `scheduler-0`; by default a random one. Two live schedulers need two; the
    /// next with the same id takes over at once what a killed one held, any other when its lease has passed.
    pub scheduler_id: String,
    /// Which tasks to schedule.
    pub tasks: Tasks,
    /// How often to poll, without a notification.
    pub poll_interval: Duration,
    /// How long a stop may take.
    pub shutdown_grace: Duration,
    /// Zone of schedules that name none.
    pub time_zone: jiff::tz::TimeZone,
    /// How long it may be silent before others take over.
    pub lease: Duration,
    /// How long the ledger keeps a fire.
    pub fires_retention: Duration,
    /// Port for health checks when the scheduler runs alone.
    pub health_port: Option<u16>,
}

/// The settings of an empty environment, with a random id. What reaches Postgres is of no use where a `Db` is given.
impl Default for SchedulerConfig {
    fn default() -> Self {
        let config = Self::read(&mut Reader::new(&BTreeMap::new()));
        Self { scheduler_id: random_id("scheduler"), ..config }
    }
}

impl SchedulerConfig {
    /// Reads and checks every variable the scheduler uses.
    pub fn from_env(env: &dyn Env) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(env);
        let mut config = Self::read(&mut reader);
        config.health_port = read_health_port(&mut reader);
        reader.finish(config)
    }

    /// Reads with a given reader, so that several parts report their faults together. JOBS_HEALTH_PORT is not read:
    /// only a scheduler alone has one.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let config = Self {
            postgres: PostgresConfig::read(reader),
            scheduler_id: read_id(reader, "scheduler-0"),
            tasks: Tasks::read(reader),
            poll_interval: reader.positive_duration(&JOBS_POLL_INTERVAL),
            shutdown_grace: reader.duration(&JOBS_SHUTDOWN_GRACE),
            time_zone: read_time_zone(reader),
            lease: reader.duration(&JOBS_SCHEDULER_LEASE),
            fires_retention: reader.positive_duration(&JOBS_FIRES_RETENTION),
            health_port: None,
        };
        for (var, message) in config.problems() {
            reader.fault(var, message);
        }
        config
    }

    /// Everything that a scheduler could not work with, wherever the settings are from: the variable, and what is wrong
    /// with the value.
    pub fn problems(&self) -> Vec<(&'static Var, String)> {
        let id = id_problem(&self.scheduler_id).map(|message| (&HOSTNAME, message));
        let durations = [
            (&JOBS_POLL_INTERVAL, self.poll_interval, LEAST),
            (&JOBS_SHUTDOWN_GRACE, self.shutdown_grace, Duration::ZERO),
            (&JOBS_SCHEDULER_LEASE, self.lease, LEAST_LEASE),
            (&JOBS_FIRES_RETENTION, self.fires_retention, LEAST),
        ];
        let durations = durations.map(|(var, duration, least)| Some((var, duration_problem(duration, least)?)));
        id.into_iter().chain(durations.into_iter().flatten()).collect()
    }
}

/// Reads TZ: an IANA name, also with the leading colon that POSIX allows. Zones come from the bundled database, so that
/// every scheduler of one version agrees, whatever its host has installed.
pub fn read_time_zone(reader: &mut Reader<'_>) -> jiff::tz::TimeZone {
    let name = reader.text(&TZ);
    jiff::tz::TimeZoneDatabase::bundled().get(name.trim_start_matches(':')).unwrap_or_else(|_| {
        reader.fault(&TZ, format!("{name:?} is not an IANA time zone such as Europe/Berlin"));
        jiff::tz::TimeZone::UTC
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_named_has_an_id_of_its_own() {
        let ids = [SchedulerConfig::default(), SchedulerConfig::default()].map(|config| config.scheduler_id);
        assert_ne!(ids[0], ids[1]);
        assert!(ids[0].starts_with("scheduler-") && ids[0] != "scheduler-0", "{}", ids[0]);
        // In the environment's stead it is the contract's.
        assert_eq!(SchedulerConfig::from_env(&BTreeMap::new()).unwrap().scheduler_id, "scheduler-0");
    }
}
