//! How to reach Postgres: `DATABASE_URL`, or libpq's `PG*` variables, and the jobs schema.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::connection::{READ_ONLY, UrlParts, takes_writes, with_port};
use crate::config::libpq::PROGRAMS;
pub use crate::config::libpq::{
    PGAPPNAME, PGCHANNELBINDING, PGCONNECT_TIMEOUT, PGDATABASE, PGHOST, PGHOSTADDR, PGLOADBALANCEHOSTS, PGOPTIONS,
    PGPASSWORD, PGPORT, PGSSLCERT, PGSSLCERTMODE, PGSSLKEY, PGSSLMODE, PGSSLNEGOTIATION, PGSSLROOTCERT,
    PGTARGETSESSIONATTRS, PGUSER,
};
use crate::config::listen::{Endpoint, JOBS_LISTEN, JOBS_LISTEN_URL, JOBS_MIGRATE_URL, Listen};
use crate::config::tls::read_tls;
use crate::config::{ClientCertificate, SchemaName, SslMode};
use job_utils::config::{ConfigError, Reader, Secret, Var, in_words};
use job_utils::variables;

variables! {
    /// Connection URL, `postgres://user:password@host:port/database`, with libpq's parameters after a `?`, or libpq's
    /// `name=value` pairs; what it leaves out comes from the PG variables.
    pub DATABASE_URL = "" for PROGRAMS;
    /// Schema of the job tables: a plain identifier of at most 54 characters. Beside it is a second schema,
    /// `<name>_internal`.
    pub JOBS_SCHEMA = "app_jobs" for PROGRAMS;
    /// Connections to Postgres, beside one that listens.
    pub JOBS_POOL_SIZE = "5" for PROGRAMS;
    /// How long a statement may go without an answer before its connection is given up and it is tried again;
    /// enqueueing and migrations wait without limit.
    pub JOBS_STATEMENT_TIMEOUT = "15s" for PROGRAMS;
}

/// Every variable of this file, of `libpq` and of `listen`.
pub const VARS: &[&Var] = &[
    &DATABASE_URL,
    &PGHOST,
    &PGHOSTADDR,
    &PGPORT,
    &PGUSER,
    &PGPASSWORD,
    &PGDATABASE,
    &PGSSLMODE,
    &PGSSLROOTCERT,
    &PGSSLCERT,
    &PGSSLKEY,
    &PGSSLCERTMODE,
    &PGSSLNEGOTIATION,
    &PGCHANNELBINDING,
    &PGTARGETSESSIONATTRS,
    &PGLOADBALANCEHOSTS,
    &PGCONNECT_TIMEOUT,
    &PGOPTIONS,
    &PGAPPNAME,
    &JOBS_SCHEMA,
    &JOBS_POOL_SIZE,
    &JOBS_STATEMENT_TIMEOUT,
    &JOBS_LISTEN,
    &JOBS_LISTEN_URL,
    &JOBS_MIGRATE_URL,
];

/// More than a server of Postgres usually has for all. The pool sets aside room for them.
pub(crate) const MOST_CONNECTIONS: usize = 10_000;

/// Below this, a server that is merely busy would be taken for one that has gone.
pub(crate) const LEAST_STATEMENT_TIMEOUT: Duration = Duration::from_secs(1);

/// How to reach Postgres.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PostgresConfig {
    /// The variable that the connection URL comes from, for messages.
    pub url_var: &'static Var,
    /// The connection URL without its TLS parameters, with those that come from PG variables.
    pub url: Option<Secret>,
    /// Hosts in the order of trying.
    pub hosts: Vec<String>,
    /// The addresses of `hosts`, or none.
    pub host_addresses: Vec<IpAddr>,
    /// One port for all hosts, or one each.
    pub ports: Vec<u16>,
    /// The database user to connect as.
    pub user: String,
    /// Its password, which is never shown.
    pub password: Option<Secret>,
    /// Name of the database that holds the jobs schema.
    pub database: String,
    /// TLS mode.
    pub ssl_mode: SslMode,
    /// Root certificates (PEM).
    pub ssl_root_cert: Option<PathBuf>,
    /// The client's certificate.
    pub ssl_client: Option<ClientCertificate>,
    /// Skip hosts that do not take writes.
    pub read_write: bool,
    /// Jobs schema.
    pub schema: SchemaName,
    /// Connections, beside one that listens.
    pub pool_size: usize,
    /// How long one host may take to give a session, unless the URL says so.
    pub connect_timeout: Duration,
    /// How long a statement may go without an answer.
    pub statement_timeout: Duration,
    /// Whether connections are sessions of one's own.
    pub listen: Listen,
    /// Where to listen, when not there.
    pub listen_at: Option<Endpoint>,
}

impl PostgresConfig {
    /// The settings of a connection URL, `postgres://user:password@host:port/database`; nothing is read from the
    /// environment.
    ///
    /// ```
    /// let mut config = job_pg::config::PostgresConfig::from_url("postgres://app@localhost/shop").unwrap();
    /// config.pool_size = 10;
    /// assert_eq!(config.schema.as_str(), "app_jobs");
    /// ```
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_url(url: &str) -> Result<Self, ConfigError> {
        let env = BTreeMap::from([(DATABASE_URL.name, url)]);
        let mut reader = Reader::new(&env);
        let config = Self::read(&mut reader);
        reader.finish(config)
    }

    /// Reads the variables of this file.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let url = UrlParts::read(reader, &DATABASE_URL);
        let (ssl_mode, ssl_root_cert, ssl_client) = read_tls(reader, &DATABASE_URL, url.as_ref());
        let host_addresses = read_addresses(reader);
        let hosts = match reader.optional(&PGHOST) {
            // As libpq: an address needs no name.
            None if !host_addresses.is_empty() => Vec::new(),
            _ => reader.list(&PGHOST),
        };
        let ports: Vec<u16> = reader
            .list(&PGPORT)
            .iter()
            .filter_map(|port| match port.parse() {
                Ok(port) if port > 0 => Some(port),
                _ => {
                    reader.fault(&PGPORT, format!("{port:?} is not a port (1 to 65535)"));
                    None
                }
            })
            .collect();
        if hosts.is_empty() && host_addresses.is_empty() {
            reader.fault(&PGHOST, "names no host");
        }
        // At its beginning, it is a socket in the abstract namespace.
        if hosts.iter().any(|host| host.chars().skip(1).any(|c| c == '@')) {
            reader.fault(&PGHOST, "has an @, as no host's name has: PGUSER and PGPASSWORD say who connects");
        }
        if !hosts.is_empty() && !host_addresses.is_empty() && hosts.len() != host_addresses.len() {
            let problem = format!("{} addresses for {} hosts: give one each", host_addresses.len(), hosts.len());
            reader.fault(&PGHOSTADDR, problem);
        }
        let port_set = reader.optional(&PGPORT).is_some();
        let places = hosts.len().max(host_addresses.len());
        if ports.len() > 1 && ports.len() != places {
            reader.fault(&PGPORT, format!("{} ports for {places} hosts: give one, or one per host", ports.len()));
        }
        let attrs = reader.text(&PGTARGETSESSIONATTRS);
        let read_write = takes_writes(&attrs).unwrap_or_else(|| {
            let problem = format!("{attrs:?} is neither read-write nor primary nor any: {READ_ONLY}");
            reader.fault(&PGTARGETSESSIONATTRS, problem);
            true
        });
        let schema = reader.text(&JOBS_SCHEMA);
        let schema = SchemaName::new(&schema).unwrap_or_else(|message| {
            reader.fault(&JOBS_SCHEMA, message);
            SchemaName::default()
        });
        let pool_size = reader.number_within(&JOBS_POOL_SIZE, 2..=MOST_CONNECTIONS);
        let (listen, listen_at) = (Listen::read(reader), Endpoint::read(reader, &JOBS_LISTEN_URL));
        if listen == Listen::Off && listen_at.is_some() {
            reader.fault(&JOBS_LISTEN, "is off, and JOBS_LISTEN_URL says where to listen: leave one of them out");
        }
        let statement_timeout = reader.duration(&JOBS_STATEMENT_TIMEOUT);
        if statement_timeout < LEAST_STATEMENT_TIMEOUT {
            reader.fault(&JOBS_STATEMENT_TIMEOUT, format!("must be at least {}", in_words(LEAST_STATEMENT_TIMEOUT)));
        }
        let url = match (url, ports.as_slice()) {
            (Some(parts), [port]) if port_set => Some(with_port(&parts.rest(), *port)),
            (Some(parts), _) => Some(parts.rest()),
            (None, _) => Some(UrlParts::of_variables(reader).rest()).filter(|parameters| !parameters.is_empty()),
        };
        Self {
            url_var: &DATABASE_URL,
            url: url.map(Secret::new),
            hosts,
            host_addresses,
            ports,
            user: reader.text(&PGUSER),
            password: reader.secret(&PGPASSWORD),
            database: reader.text(&PGDATABASE),
            ssl_mode,
            ssl_root_cert,
            ssl_client,
            read_write,
            schema,
            pool_size,
            connect_timeout: Duration::from_secs(5),
            statement_timeout,
            listen,
            listen_at,
        }
    }

    /// Reads the variables of this file for a migration, which may have a connection URL of its own.
    pub fn read_for_migration(reader: &mut Reader<'_>) -> Self {
        let config = Self::read(reader);
        match (Endpoint::read(reader, &JOBS_MIGRATE_URL), config.listen) {
            // What JOBS_LISTEN says is said of the other connection.
            (Some(endpoint), _) => Self { listen: Listen::Auto, ..config.at(&endpoint) },
            // It may be off although there is no pooler.
            (None, Listen::Off) => Self { listen: Listen::Auto, ..config },
            (None, Listen::Auto | Listen::On) => config,
        }
    }

    /// The same settings with another connection URL.
    #[must_use]
    pub fn at(&self, endpoint: &Endpoint) -> Self {
        Self {
            url_var: endpoint.var,
            url: Some(endpoint.url.clone()),
            ssl_mode: endpoint.ssl_mode,
            ssl_root_cert: endpoint.ssl_root_cert.clone(),
            ssl_client: endpoint.ssl_client.clone(),
            ..self.clone()
        }
    }
}

fn read_addresses(reader: &mut Reader<'_>) -> Vec<IpAddr> {
    let written = reader.list(&PGHOSTADDR);
    let addresses = written.iter().filter_map(|address| {
        let read = address.parse();
        if read.is_err() {
            reader
                .fault(&PGHOSTADDR, format!("{address:?} is not a numeric address; a host's name belongs into PGHOST"));
        }
        read.ok()
    });
    addresses.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn read(env: &[(&str, &str)]) -> Result<PostgresConfig, job_utils::config::ConfigError> {
        let env: BTreeMap<&str, &str> = env.iter().copied().collect();
        let mut reader = Reader::new(&env);
        let config = PostgresConfig::read(&mut reader);
        reader.finish(config)
    }

    #[test]
    fn tls_parameters_of_a_url_are_understood() {
        let url = "postgres://u:p@h1:1,h2:2/db?sslmode=verify-full&application_name=a%20b&sslrootcert=%2Fca.pem";
        let config = read(&[("DATABASE_URL", url)]).unwrap();
        assert_eq!(config.ssl_mode, SslMode::VerifyFull);
        assert_eq!(config.ssl_root_cert, Some(PathBuf::from("/ca.pem")));
        assert_eq!(config.url.unwrap().expose(), "postgres://u:p@h1:1,h2:2/db?application_name=a%20b");
        let config = read(&[("DATABASE_URL", "host=h sslmode=disable user=u")]).unwrap();
        assert_eq!(config.ssl_mode, SslMode::Disable);
        assert_eq!(config.url.unwrap().expose(), "host=h user=u");
    }

    #[test]
    fn which_of_several_hosts_will_do_is_named_as_in_libpq() {
        let read_write = |value| read(&[("PGTARGETSESSIONATTRS", value)]).map(|config| config.read_write);
        assert_eq!((read_write("primary").unwrap(), read_write("any").unwrap()), (true, false));
        assert_eq!(read_write("prefer-standby").unwrap_err().faults[0].name, "PGTARGETSESSIONATTRS");
    }

    #[test]
    fn a_parameter_that_cannot_be_honoured_is_its_variables_fault() {
        for name in ["DATABASE_URL", "JOBS_LISTEN_URL"] {
            let faults = read(&[(name, "postgres://h/d?gssencmode=require&sslmod=x")]).unwrap_err().faults;
            assert_eq!((faults.len(), faults[0].name), (1, name));
            assert!(faults[0].message.contains("gssencmode") && faults[0].message.contains("sslmode"), "{faults:?}");
        }
    }

    #[test]
    fn addresses_stand_beside_hosts_or_for_them() {
        let of = |env: &[(&str, &str)]| {
            let config = read(env).map_err(|error| error.faults[0].name)?;
            Ok((config.hosts.join(","), config.host_addresses.len()))
        };
        assert_eq!(of(&[("PGHOSTADDR", "::1")]), Ok((String::new(), 1)));
        assert_eq!(of(&[("PGHOST", "a,b"), ("PGHOSTADDR", "10.0.0.1,10.0.0.2")]), Ok(("a,b".to_owned(), 2)));
        assert_eq!(of(&[("PGHOST", "a,b"), ("PGHOSTADDR", "10.0.0.1")]), Err("PGHOSTADDR"));
        assert_eq!(of(&[("PGHOSTADDR", "a")]), Err("PGHOSTADDR"));
        assert_eq!(of(&[("PGHOSTADDR", "::1,::1"), ("PGPORT", "1,2,3")]), Err("PGPORT"));
    }

    #[test]
    fn a_url_without_a_port_gets_it_from_pgport() {
        let url = |text| read(&[("DATABASE_URL", text), ("PGPORT", "5433")]).unwrap().url.unwrap().expose().to_owned();
        assert_eq!(url("postgres://u:p@h1,h2:1/db?options=y"), "postgres://u:p@h1:5433,h2:1/db?options=y");
        assert_eq!(url("postgres://[::1]/db"), "postgres://[::1]:5433/db");
        assert_eq!(url("postgres:///db"), "postgres:///db");
        let unset = read(&[("DATABASE_URL", "postgres://h/db")]).unwrap();
        assert_eq!(unset.url.unwrap().expose(), "postgres://h/db");
    }

    #[test]
    fn a_host_with_a_password_before_it_is_refused_and_not_shown() {
        let error = read(&[("PGHOST", "u:secret@h")]).unwrap_err().to_string();
        assert!(error.contains("PGHOST: has an @") && !error.contains("secret"), "{error}");
        assert!(read(&[("PGHOST", "@socket")]).is_ok());
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let error = read(&[
            ("PGPORT", "0"),
            ("PGSSLMODE", "on"),
            ("JOBS_SCHEMA", "a b"),
            ("JOBS_POOL_SIZE", "x"),
            ("JOBS_STATEMENT_TIMEOUT", "10ms"),
        ]);
        let names: Vec<_> = error.unwrap_err().faults.iter().map(|fault| fault.name).collect();
        assert_eq!(names, ["PGSSLMODE", "PGPORT", "JOBS_SCHEMA", "JOBS_POOL_SIZE", "JOBS_STATEMENT_TIMEOUT"]);
    }
    #[test]
    fn another_url_stands_in_with_its_own_tls_and_without_the_poolers_port() {
        let env = [
            ("DATABASE_URL", "postgres://u:p@pooler/db?sslmode=require"),
            ("PGPORT", "6432"),
            ("JOBS_LISTEN_URL", "postgres://l:q@direct/db?sslmode=disable"),
            ("JOBS_MIGRATE_URL", "postgres://owner@direct:5433/db"),
        ];
        let config = read(&env).unwrap();
        assert_eq!((config.listen, config.url_var.name), (Listen::Auto, "DATABASE_URL"));
        let there = config.at(config.listen_at.as_ref().unwrap());
        assert_eq!(there.url.unwrap().expose(), "postgres://l:q@direct/db");
        assert_eq!((there.ssl_mode, there.url_var.name), (SslMode::Disable, "JOBS_LISTEN_URL"));
        let env: BTreeMap<&str, &str> = env.into();
        let migration = PostgresConfig::read_for_migration(&mut Reader::new(&env));
        assert_eq!(migration.url.unwrap().expose(), "postgres://owner@direct:5433/db");
        assert_eq!((migration.ssl_mode, migration.url_var.name), (SslMode::Prefer, "JOBS_MIGRATE_URL"));
    }

    #[test]
    fn listening_is_on_off_or_found_out_and_not_two_things_at_once() {
        let listen = |value| read(&[("JOBS_LISTEN", value)]).map(|config| config.listen);
        assert_eq!(listen("Off").unwrap(), Listen::Off);
        assert_eq!(listen("on").unwrap(), Listen::On);
        assert_eq!(listen("").unwrap(), Listen::Auto);
        assert_eq!(listen("perhaps").unwrap_err().faults[0].name, "JOBS_LISTEN");
        let both = read(&[("JOBS_LISTEN", "off"), ("JOBS_LISTEN_URL", "postgres://direct/db")]);
        assert_eq!(both.unwrap_err().faults[0].name, "JOBS_LISTEN");
    }
}
