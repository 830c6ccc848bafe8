//! TLS to Postgres: the mode, and the roots that are trusted.

use std::path::{Path, PathBuf};

use crate::config::connection::UrlParts;
use crate::config::libpq::{PGSSLCERT, PGSSLCERTMODE, PGSSLKEY, PGSSLMODE, PGSSLROOTCERT};
use job_utils::config::{Reader, Var};

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

/// What the client shows a server that asks who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientCertificate {
    /// The certificate, and what leads to its root after it (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM, not encrypted).
    pub key: PathBuf,
}

/// TLS as a connection string wants it, else as the PG variables say.
pub(super) fn read_tls(
    reader: &mut Reader<'_>,
    var: &Var,
    url: Option<&UrlParts>,
) -> (SslMode, Option<PathBuf>, Option<ClientCertificate>) {
    let (mode, ssl_root_cert) = read_trust(reader, var, url);
    let client = read_client(reader, var, url);
    // As libpq: without TLS there is nothing to show.
    (mode, ssl_root_cert, client.filter(|_| mode != SslMode::Disable))
}

fn read_client(reader: &mut Reader<'_>, var: &Var, url: Option<&UrlParts>) -> Option<ClientCertificate> {
    let mut of = |name: &str, variable: &'static Var| match url.and_then(|parts| parts.own(name)) {
        Some(value) => Some((value, true)),
        None => Some((reader.optional(variable)?, false)),
    };
    let (certificate, key) = (of("sslcert", &PGSSLCERT), of("sslkey", &PGSSLKEY));
    let shown = of("sslcertmode", &PGSSLCERTMODE);
    let of = |in_url, variable| if in_url { var } else { variable };
    match shown.as_ref().map(|(mode, in_url)| (mode.as_str(), *in_url)) {
        None | Some(("allow", _)) => {}
        Some(("disable", _)) => return None,
        Some((_, in_url)) => {
            let problem =
                "sslcertmode can only be allow or disable: whether the server asks for a certificate is not checked";
            reader.fault(of(in_url, &PGSSLCERTMODE), problem);
        }
    }
    match (certificate, key) {
        (Some((certificate, _)), Some((key, _))) => {
            Some(ClientCertificate { certificate: certificate.into(), key: key.into() })
        }
        (None, None) => None,
        (Some((_, in_url)), None) => {
            let problem = "sslcert needs sslkey (PGSSLKEY), the file with the certificate's private key";
            reader.fault(of(in_url, &PGSSLCERT), problem);
            None
        }
        (None, Some((_, in_url))) => {
            reader
                .fault(of(in_url, &PGSSLKEY), "sslkey needs sslcert (PGSSLCERT), the file with the key's certificate");
            None
        }
    }
}

fn read_trust(reader: &mut Reader<'_>, var: &Var, url: Option<&UrlParts>) -> (SslMode, Option<PathBuf>) {
    let url_mode = url.and_then(|parts| parts.own("sslmode"));
    let url_root = url.and_then(|parts| parts.own("sslrootcert")).map(PathBuf::from);
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
    fn a_certificate_of_the_client_goes_with_its_key() {
        let client = |env: &[(&str, &str)]| {
            let env: BTreeMap<&str, &str> = env.iter().copied().collect();
            let mut reader = Reader::new(&env);
            let config = PostgresConfig::read(&mut reader);
            let shown = config.ssl_client.map(|client| (client.certificate, client.key));
            reader.finish(shown).map_err(|error| error.faults[0].name)
        };
        let named = |certificate: &str, key: &str| Ok(Some((PathBuf::from(certificate), PathBuf::from(key))));
        let both = [("PGSSLCERT", "/c"), ("PGSSLKEY", "/k")];
        let with = |more: (&'static str, &'static str)| client(&[both[0], both[1], more]);
        assert_eq!(client(&both), named("/c", "/k"));
        assert_eq!(with(("DATABASE_URL", "postgres://h/d?sslcert=/other&sslkey=/o")), named("/other", "/o"));
        assert_eq!(with(("PGSSLCERTMODE", "allow")), named("/c", "/k"));
        for none in
            [("PGSSLCERTMODE", "disable"), ("DATABASE_URL", "host=h sslcertmode=disable"), ("PGSSLMODE", "disable")]
        {
            assert_eq!(with(none), Ok(None), "{none:?}");
        }
        assert_eq!(with(("PGSSLCERTMODE", "require")), Err("PGSSLCERTMODE"));
        assert_eq!(with(("DATABASE_URL", "host=h sslcertmode=require")), Err("DATABASE_URL"));
        assert_eq!(client(&both[..1]), Err("PGSSLCERT"));
        assert_eq!(client(&both[1..]), Err("PGSSLKEY"));
        assert_eq!(client(&[("DATABASE_URL", "postgres://h/d?sslcert=/c")]), Err("DATABASE_URL"));
        assert_eq!(client(&[("JOBS_LISTEN_URL", "postgres://h/d?sslkey=/k")]), Err("JOBS_LISTEN_URL"));
    }

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
