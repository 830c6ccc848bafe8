//! The settings of admin-server.

use std::net::{IpAddr, Ipv4Addr};

use job_pg::config::PostgresConfig;
use job_utils::config::{ConfigError, Env, Reader, Secret, Var};
use job_utils::probe::Target;
use job_utils::variables;

variables! {
    /// Port that admin-server listens on.
    pub PORT = "3000" for "admin-server";
    /// IP address that admin-server listens on; `0.0.0.0` for all interfaces, as a container needs.
    pub ADMIN_HOST = "127.0.0.1" for "admin-server";
    /// Bearer token that every GraphQL request must carry (GRAPHQL_AUTH_TOKEN of the functions); unset: none is asked
    /// for.
    pub ADMIN_TOKEN = "" for "admin-server";
    /// `false`: the private API, for requests with `Host: private.localhost`. admin-server has no public API and
    /// refuses `true`.
    pub API_IS_PUBLIC = "false" for "admin-server";
}

/// Every variable of this crate.
pub const VARS: &[&Var] = &[&PORT, &ADMIN_HOST, &ADMIN_TOKEN, &API_IS_PUBLIC];

/// The settings of the service.
#[derive(Debug, Clone)]
pub struct Config {
    /// How to reach Postgres, and the jobs schema.
    pub postgres: PostgresConfig,
    /// The address to listen on.
    pub host: IpAddr,
    /// The port to listen on; 0 lets the system choose (tests).
    pub port: u16,
    /// What a request must carry, if anything.
    pub token: Option<Secret>,
}

impl Config {
    /// Reads and checks every variable the service uses.
    ///
    /// # Errors
    /// Every variable that cannot be used.
    pub fn from_env(env: &dyn Env) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(env);
        let config = Self {
            postgres: PostgresConfig::read(&mut reader),
            host: read_host(&mut reader),
            port: reader.number(&PORT),
            token: reader.secret(&ADMIN_TOKEN),
        };
        // Serving the private API to everybody under the name of a public one would give away what it guards.
        if reader.flag(&API_IS_PUBLIC) {
            reader.fault(&API_IS_PUBLIC, "this stand-in has only the private API: set it to false or leave it out");
        }
        reader.finish(config)
    }
}

/// The settings of `migrate`: only the database.
#[derive(Debug, Clone)]
pub struct MigrateConfig {
    /// How to reach Postgres.
    pub postgres: PostgresConfig,
}

impl MigrateConfig {
    /// Reads and checks the variables of the database.
    ///
    /// # Errors
    /// Every variable that cannot be used.
    pub fn from_env(env: &dyn Env) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(env);
        let config = Self { postgres: PostgresConfig::read(&mut reader) };
        reader.finish(config)
    }
}

/// Where `admin-server health` asks: at the address that the server listens on.
///
/// # Errors
/// ADMIN_HOST or PORT cannot be used.
pub fn health_target(env: &dyn Env) -> Result<Target, ConfigError> {
    let mut reader = Reader::new(env);
    let (host, port) = (read_host(&mut reader), reader.number(&PORT));
    let local = Target::local(port, "/readyz");
    reader.finish(if host.is_unspecified() { local } else { Target { hosts: vec![host], ..local } })
}

fn read_host(reader: &mut Reader<'_>) -> IpAddr {
    let text = reader.text(&ADMIN_HOST);
    text.trim().parse().unwrap_or_else(|_| {
        reader.fault(&ADMIN_HOST, format!("{text:?} is not an IP address; write 127.0.0.1, 0.0.0.0 or ::"));
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn read(env: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_env(&env.iter().copied().collect::<BTreeMap<_, _>>())
    }

    #[test]
    fn without_settings_it_listens_on_loopback_and_asks_for_no_token() {
        let config = read(&[]).unwrap();
        assert_eq!((config.host.is_loopback(), config.port, config.token), (true, 3000, None));
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let env = [("PORT", "x"), ("ADMIN_HOST", "localhost"), ("API_IS_PUBLIC", "true"), ("JOBS_SCHEMA", "a b")];
        let error = read(&env).unwrap_err();
        let names: Vec<_> = error.faults.iter().map(|fault| fault.name).collect();
        assert_eq!(names, ["JOBS_SCHEMA", "ADMIN_HOST", "PORT", "API_IS_PUBLIC"]);
    }

    #[test]
    fn health_is_asked_where_the_server_listens() {
        let hosts =
            |env: &[(&str, &str)]| health_target(&env.iter().copied().collect::<BTreeMap<_, _>>()).unwrap().hosts;
        assert_eq!(hosts(&[]), [Ipv4Addr::LOCALHOST]);
        assert_eq!(hosts(&[("ADMIN_HOST", "0.0.0.0")]), Target::local(3000, "/readyz").hosts);
        assert_eq!(
            hosts(&[("ADMIN_HOST", "192.0.2.1"), ("JOBS_SCHEMA", "a b")]),
            ["192.0.2.1".parse::<IpAddr>().unwrap()]
        );
    }

    #[test]
    fn migrate_checks_only_the_database() {
        let env = BTreeMap::from([("PORT", "x"), ("API_IS_PUBLIC", "true")]);
        assert!(MigrateConfig::from_env(&env).is_ok());
        assert!(MigrateConfig::from_env(&BTreeMap::from([("PGPORT", "x")])).is_err());
    }
}
