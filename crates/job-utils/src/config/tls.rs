//! TLS to Postgres: the mode, and the roots that are trusted.

use std::path::{Path, PathBuf};

use crate::config::connection::UrlParts;
use crate::config::postgres::{PGSSLMODE, PGSSLROOTCERT};
use crate::config::{Reader, Var};

/// TLS to Postgres, with libpq's meanings. `allow` is `prefer` here: both end with a connection either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
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

/// TLS as a connection string wants it, else as the PG variables say.
pub(super) fn read_tls(reader: &mut Reader<'_>, var: &Var, url: Option<&UrlParts>) -> (SslMode, Option<PathBuf>) {
    let url_mode = url.and_then(|parts| parts.ssl_mode.clone());
    let url_root = url.and_then(|parts| parts.ssl_root_cert.clone());
    let root_from = if url_root.is_some() { var } else { &PGSSLROOTCERT };
    let ssl_root_cert = url_root.or_else(|| reader.path(&PGSSLROOTCERT));
    let system = ssl_root_cert.as_deref().is_some_and(|path| path == Path::new("system"));
    let mode_from = if url_mode.is_some() { var } else { &PGSSLMODE };
    let mode = url_mode.or_else(|| reader.optional(&PGSSLMODE));
    let mode = match mode {
        // As libpq: anybody can have a certificate of the system's roots, for a host of one's own.
        None if system => SslMode::VerifyFull,
        mode => read_mode(reader, mode_from, &mode.unwrap_or_else(|| PGSSLMODE.default.to_owned())),
    };
    if system {
        if mode != SslMode::VerifyFull {
            let problem =
                "with the root certificates `system` sslmode can only be verify-full: write that, or leave sslmode out";
            reader.fault(root_from, problem);
        }
        return (SslMode::VerifyFull, None);
    }
    // As libpq: whoever names a root certificate wants it checked.
    let checked = mode == SslMode::Require && ssl_root_cert.is_some();
    (if checked { SslMode::VerifyCa } else { mode }, ssl_root_cert)
}

fn read_mode(reader: &mut Reader<'_>, var: &Var, mode: &str) -> SslMode {
    SslMode::parse(mode).unwrap_or_else(|| {
        // What stands there in a URL may be a piece of a password with a question mark in it.
        let shown = if var == &PGSSLMODE { format!("{mode:?}") } else { "its sslmode".to_owned() };
        let modes = "disable, allow, prefer, require, verify-ca, verify-full";
        reader.fault(var, format!("{shown} is not one of {modes}"));
        SslMode::Prefer
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::PostgresConfig;

    #[test]
    fn the_systems_root_certificates_come_with_the_check_of_the_host_name() {
        let full = (SslMode::VerifyFull, None);
        let tls = |env: &[(&str, &str)]| {
            let env: BTreeMap<&str, &str> = env.iter().copied().collect();
            let mut reader = Reader::new(&env);
            let config = PostgresConfig::read(&mut reader);
            reader.finish((config.ssl_mode, config.ssl_root_cert))
        };
        assert_eq!(tls(&[("DATABASE_URL", "postgres://h/d?sslrootcert=system")]).unwrap(), full);
        assert_eq!(tls(&[("PGSSLROOTCERT", "system")]).unwrap(), full);
        assert_eq!(tls(&[("PGSSLROOTCERT", "system"), ("PGSSLMODE", "verify-full")]).unwrap(), full);
        for (env, name) in [
            ([("DATABASE_URL", "postgres://h/d?sslrootcert=system&sslmode=require"), ("PGUSER", "u")], "DATABASE_URL"),
            ([("PGSSLROOTCERT", "system"), ("PGSSLMODE", "verify-ca")], "PGSSLROOTCERT"),
        ] {
            assert_eq!(tls(&env).unwrap_err().faults[0].name, name);
        }
    }
}
