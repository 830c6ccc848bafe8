//! How to reach Postgres: `DATABASE_URL`, or libpq's `PG*` variables, and the jobs schema.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Reader, Secret, Var};

/// A connection URL.
pub const DATABASE_URL: Var = Var {
    name: "DATABASE_URL",
    default: "",
    used_by: "worker, server, scheduler, service, admin-server",
    about: "Connection URL, `postgres://user:password@host:port/database`; what it leaves out comes from the PG variables.",
};
/// Host or hosts.
pub const PGHOST: Var = Var {
    name: "PGHOST",
    default: "localhost",
    used_by: "worker, server, scheduler, service, admin-server",
    about: "Database host, several between commas (tried in order), or the directory of a Unix socket.",
};
/// Port or ports.
pub const PGPORT: Var = Var {
    name: "PGPORT",
    default: "5432",
    used_by: "worker, server, scheduler, service, admin-server",
    about: "Database port; one for all hosts, or one per host between commas.",
};
/// User.
pub const PGUSER: Var = Var {
    name: "PGUSER",
    default: "postgres",
    used_by: "worker, server, scheduler, service, admin-server",
    about: "Database user.",
};
/// Password.
pub const PGPASSWORD: Var = Var {
    name: "PGPASSWORD",
    default: "",
    used_by: "worker, server, scheduler, service, admin-server",
    about: "Database password. Never logged.",
};
/// Database.
pub const PGDATABASE: Var = Var {
    name: "PGDATABASE",
    default: "postgres",
    used_by: "worker, server, scheduler, service, admin-server",
    about: "Database that holds the jobs schema.",
};
/// TLS mode.
pub const PGSSLMODE: Var = Var {
    name: "PGSSLMODE",
    default: "prefer",
    used_by: "worker, server, scheduler, service, admin-server",
    about: "TLS to Postgres, as in libpq: disable, allow, prefer, require, verify-ca, verify-full.",
};
/// Root certificates.
pub const PGSSLROOTCERT: Var = Var {
    name: "PGSSLROOTCERT",
    default: "",
    used_by: "worker, server, scheduler, service, admin-server",
    about: "File with the root certificates for verify-ca and verify-full (PEM); without it the system's.",
};
/// Session kind.
pub const PGTARGETSESSIONATTRS: Var = Var {
    name: "PGTARGETSESSIONATTRS",
    default: "read-write",
    used_by: "worker, server, scheduler, service, admin-server",
    about: "Which of several hosts to use: `read-write` skips replicas, `any` takes the first that answers.",
};
/// Schema.
pub const JOBS_SCHEMA: Var = Var {
    name: "JOBS_SCHEMA",
    default: "app_jobs",
    used_by: "worker, server, scheduler, service, admin-server",
    about: "Schema of the job tables: a plain identifier.",
};
/// Pool size.
pub const JOBS_POOL_SIZE: Var = Var {
    name: "JOBS_POOL_SIZE",
    default: "5",
    used_by: "worker, server, scheduler, service, admin-server",
    about: "Connections to Postgres, beside one that listens.",
};

/// Every variable of this file.
pub const VARS: &[&Var] = &[
    &DATABASE_URL,
    &PGHOST,
    &PGPORT,
    &PGUSER,
    &PGPASSWORD,
    &PGDATABASE,
    &PGSSLMODE,
    &PGSSLROOTCERT,
    &PGTARGETSESSIONATTRS,
    &JOBS_SCHEMA,
    &JOBS_POOL_SIZE,
];

/// More than a server of Postgres usually has for all. The pool sets aside room for them.
const MOST_CONNECTIONS: usize = 10_000;

/// The jobs schema's name: a plain identifier, so that quoting it is enough everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaName(String);

impl SchemaName {
    /// Takes letters, digits and underscores, beginning with no digit, at most 63 characters, not PostgreSQL's own
    /// `pg_…`. The error says what to write.
    pub fn new(name: &str) -> Result<Self, String> {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && name.chars().next().is_some_and(|c| !c.is_ascii_digit());
        if !plain || name.len() > 63 {
            return Err(format!(
                "{name:?} is not a plain identifier: use letters, digits and underscores, at most 63, not a digit first"
            ));
        }
        if name.starts_with("pg_") || name == "information_schema" {
            return Err(format!("{name:?} is reserved by PostgreSQL: choose another name"));
        }
        Ok(Self(name.to_owned()))
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// SQL text with every `@extschema@` replaced by the quoted name.
    pub fn apply(&self, sql: &str) -> String {
        sql.replace("@extschema@", &self.to_string())
    }
}

impl Default for SchemaName {
    fn default() -> Self {
        Self(JOBS_SCHEMA.default.to_owned())
    }
}

/// The name in double quotes.
impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

/// TLS to Postgres, with libpq's meanings. `allow` is `prefer` here: both end with a connection either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Never.
    Disable,
    /// When the server offers it, unverified.
    Prefer,
    /// Always, unverified unless a root certificate is configured.
    Require,
    /// Always, with a certificate of a trusted root.
    VerifyCa,
    /// Always, with a certificate of a trusted root for this host name.
    VerifyFull,
}

impl SslMode {
    fn parse(value: &str) -> Option<Self> {
        Some(match value {
            "disable" => Self::Disable,
            "allow" | "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => return None,
        })
    }
}

/// How to reach Postgres.
#[derive(Debug, Clone)]
pub struct PostgresConfig {
    /// The connection URL without its TLS parameters.
    pub url: Option<Secret>,
    /// Hosts in the order of trying.
    pub hosts: Vec<String>,
    /// One port for all hosts, or one each.
    pub ports: Vec<u16>,
    /// User.
    pub user: String,
    /// Password.
    pub password: Option<Secret>,
    /// Database.
    pub database: String,
    /// TLS mode.
    pub ssl_mode: SslMode,
    /// Root certificates (PEM).
    pub ssl_root_cert: Option<PathBuf>,
    /// Skip hosts that do not take writes.
    pub read_write: bool,
    /// Jobs schema.
    pub schema: SchemaName,
    /// Connections, beside one that listens.
    pub pool_size: usize,
    /// How long one host may take to give a session.
    pub connect_timeout: Duration,
}

impl PostgresConfig {
    /// Reads the variables of this file.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let url = reader.optional(&DATABASE_URL).map(|url| UrlParts::split(&url));
        let url_mode = url.as_ref().and_then(|parts| parts.ssl_mode.clone());
        let url_root = url.as_ref().and_then(|parts| parts.ssl_root_cert.clone());
        let mode_from = if url_mode.is_some() { &DATABASE_URL } else { &PGSSLMODE };
        let mode = url_mode.unwrap_or_else(|| reader.text(&PGSSLMODE));
        let mut ssl_mode = SslMode::parse(&mode).unwrap_or_else(|| {
            // What stands there in a URL may be a piece of a password with a question mark in it.
            let shown = if mode_from == &PGSSLMODE { format!("{mode:?}") } else { "its sslmode".to_owned() };
            let modes = "disable, allow, prefer, require, verify-ca, verify-full";
            reader.fault(mode_from, format!("{shown} is not one of {modes}"));
            SslMode::Prefer
        });
        let ssl_root_cert = url_root.or_else(|| reader.path(&PGSSLROOTCERT));
        // As libpq: whoever names a root certificate wants it checked.
        if ssl_mode == SslMode::Require && ssl_root_cert.is_some() {
            ssl_mode = SslMode::VerifyCa;
        }
        let hosts: Vec<String> = reader.list(&PGHOST);
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
        if hosts.is_empty() {
            reader.fault(&PGHOST, "names no host");
        }
        let port_set = reader.optional(&PGPORT).is_some();
        if ports.len() > 1 && ports.len() != hosts.len() {
            reader
                .fault(&PGPORT, format!("{} ports for {} hosts: give one, or one per host", ports.len(), hosts.len()));
        }
        let attrs = reader.text(&PGTARGETSESSIONATTRS);
        if !matches!(attrs.as_str(), "read-write" | "any" | "primary") {
            reader.fault(&PGTARGETSESSIONATTRS, format!("{attrs:?} is neither read-write nor any"));
        }
        let schema = reader.text(&JOBS_SCHEMA);
        let schema = SchemaName::new(&schema).unwrap_or_else(|message| {
            reader.fault(&JOBS_SCHEMA, message);
            SchemaName::default()
        });
        let pool_size = reader.number_within(&JOBS_POOL_SIZE, 2..=MOST_CONNECTIONS);
        Self {
            url: url.map(|parts| match ports.as_slice() {
                [port] if port_set => Secret::new(with_port(&parts.rest, *port)),
                _ => Secret::new(parts.rest),
            }),
            hosts,
            ports,
            user: reader.text(&PGUSER),
            password: reader.secret(&PGPASSWORD),
            database: reader.text(&PGDATABASE),
            ssl_mode,
            ssl_root_cert,
            read_write: attrs != "any",
            schema,
            pool_size,
            connect_timeout: Duration::from_secs(5),
        }
    }
}

/// A connection string without the TLS parameters that the Postgres client does not know.
struct UrlParts {
    rest: String,
    ssl_mode: Option<String>,
    ssl_root_cert: Option<PathBuf>,
}

impl UrlParts {
    fn split(text: &str) -> Self {
        let mut parts = Self { rest: String::new(), ssl_mode: None, ssl_root_cert: None };
        if let Some((base, query)) = text.split_once('?').filter(|_| text.contains("://")) {
            let mut kept = url::form_urlencoded::Serializer::new(String::new());
            for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
                if !parts.take(&name, &value) {
                    kept.append_pair(&name, &value);
                }
            }
            // The client decodes percent signs, not the plus of form encoding.
            let kept = kept.finish().replace('+', "%20");
            parts.rest = if kept.is_empty() { base.to_owned() } else { format!("{base}?{kept}") };
        } else if text.contains("://") {
            parts.rest = text.to_owned();
        } else {
            let kept: Vec<&str> = text
                .split_whitespace()
                .filter(|word| word.split_once('=').is_none_or(|(name, value)| !parts.take(name, value)))
                .collect();
            parts.rest = kept.join(" ");
        }
        parts
    }

    fn take(&mut self, name: &str, value: &str) -> bool {
        match name {
            "sslmode" => self.ssl_mode = Some(value.to_owned()),
            "sslrootcert" => self.ssl_root_cert = Some(PathBuf::from(value)),
            _ => return false,
        }
        true
    }
}

/// A URL in which the hosts without a port have this one: the client would take 5432 before it asks for PGPORT.
fn with_port(url: &str, port: u16) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
    let at = if authority.contains('@') { "@" } else { "" };
    let hosts: Vec<String> = hosts
        .split(',')
        .map(|host| {
            // The colons of an IPv6 address are inside its brackets.
            let bare = host.rsplit_once(']').map_or(host, |(_, after)| after);
            if host.is_empty() || bare.contains(':') { host.to_owned() } else { format!("{host}:{port}") }
        })
        .collect();
    format!("{scheme}://{user}{at}{}{path}", hosts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn read(env: &[(&str, &str)]) -> Result<PostgresConfig, crate::config::ConfigError> {
        let env: BTreeMap<&str, &str> = env.iter().copied().collect();
        let mut reader = Reader::new(&env);
        let config = PostgresConfig::read(&mut reader);
        reader.finish(config)
    }

    #[test]
    fn a_schema_name_is_a_plain_identifier() {
        for good in ["app_jobs", "Jobs2", "_x"] {
            assert!(SchemaName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "2x", "a-b", "a\"b", "a;drop", "größe", "pg_jobs", "a.b", &"x".repeat(64)] {
            assert!(SchemaName::new(bad).is_err(), "{bad}");
        }
        assert_eq!(SchemaName::new("Jobs").unwrap().apply("@extschema@.t"), "\"Jobs\".t");
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
    fn a_url_without_a_port_gets_it_from_pgport() {
        let url = |text| read(&[("DATABASE_URL", text), ("PGPORT", "5433")]).unwrap().url.unwrap().expose().to_owned();
        assert_eq!(url("postgres://u:p@h1,h2:1/db?x=y"), "postgres://u:p@h1:5433,h2:1/db?x=y");
        assert_eq!(url("postgres://[::1]/db"), "postgres://[::1]:5433/db");
        assert_eq!(url("postgres:///db"), "postgres:///db");
        let unset = read(&[("DATABASE_URL", "postgres://h/db")]).unwrap();
        assert_eq!(unset.url.unwrap().expose(), "postgres://h/db");
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let error = read(&[("PGPORT", "0"), ("PGSSLMODE", "on"), ("JOBS_SCHEMA", "a b"), ("JOBS_POOL_SIZE", "x")]);
        let names: Vec<_> = error.unwrap_err().faults.iter().map(|fault| fault.name).collect();
        assert_eq!(names, ["PGSSLMODE", "PGPORT", "JOBS_SCHEMA", "JOBS_POOL_SIZE"]);
    }
}
