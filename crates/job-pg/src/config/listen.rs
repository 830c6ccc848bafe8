//! Whether to listen, and where: what a pooler between us and Postgres changes.

use std::path::PathBuf;

use crate::config::connection::UrlParts;
use crate::config::libpq::PROGRAMS;
use crate::config::tls::read_tls;
use crate::config::{ClientCertificate, SslMode};
use job_utils::config::{Reader, Secret, Var};
use job_utils::variables;

variables! {
    /// `auto` finds out whether a pooler is in between, and then neither listens nor prepares statements; `on`, `off`:
    /// do not find out (docs/pgbouncer.md).
    pub JOBS_LISTEN = "auto" for PROGRAMS;
    /// Connection URL past the pooler, for the one connection that listens; unset: the same as everything else.
    pub JOBS_LISTEN_URL = "" for "worker, scheduler, service";
    /// Connection URL for `migrate`, past the pooler and perhaps of another user; unset: the same as everything else.
    pub JOBS_MIGRATE_URL = "" for "migrate";
}

/// Whether a connection is a session of one's own, in which one can listen and prepare statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Listen {
    /// Find out for each connection.
    Auto,
    /// It is.
    On,
    /// It is not: a pooler gives it another session for every transaction.
    Off,
}

impl Listen {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let value = reader.text(&JOBS_LISTEN);
        match value.trim().to_ascii_lowercase().as_str() {
            "auto" => Self::Auto,
            "on" | "true" | "yes" | "1" => Self::On,
            "off" | "false" | "no" | "0" => Self::Off,
            _ => {
                reader.fault(&JOBS_LISTEN, format!("{value:?} is neither auto nor on nor off"));
                Self::Auto
            }
        }
    }
}

/// A connection URL that stands in for the usual one.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Endpoint {
    /// The variable that it comes from, for messages.
    pub var: &'static Var,
    /// The connection URL without its TLS parameters.
    pub url: Secret,
    /// TLS mode.
    pub ssl_mode: SslMode,
    /// Root certificates (PEM).
    pub ssl_root_cert: Option<PathBuf>,
    /// The client's certificate.
    pub ssl_client: Option<ClientCertificate>,
}

impl Endpoint {
    pub(super) fn read(reader: &mut Reader<'_>, var: &'static Var) -> Option<Self> {
        let parts = UrlParts::read(reader, var)?;
        let (ssl_mode, ssl_root_cert, ssl_client) = read_tls(reader, var, Some(&parts));
        Some(Self { var, url: Secret::new(parts.rest()), ssl_mode, ssl_root_cert, ssl_client })
    }
}
