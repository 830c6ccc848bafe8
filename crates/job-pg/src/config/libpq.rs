//! libpq's connection parameters and their environment variables: what becomes of each here.
//!
//! The one list of them. What a connection string may say, what a variable may say, the messages about both and the
//! table in docs/connections.md follow from it.

use job_utils::variables;

/// Which programs connect to Postgres.
pub(super) const PROGRAMS: &str = "worker, server, scheduler, service, admin-server";

variables! {
    /// Database host, or the directory of a Unix socket; several between commas are tried in order, beginning with the
    /// last that was a primary.
    pub PGHOST = "localhost" for PROGRAMS;
    /// Numeric addresses of PGHOST's hosts, one each between commas, so that no name is looked up. Without effect where
    /// a connection string names its hosts.
    pub PGHOSTADDR = "" for PROGRAMS;
    /// Database port; one for all hosts, or one per host between commas.
    pub PGPORT = "5432" for PROGRAMS;
    /// Database user.
    pub PGUSER = "postgres" for PROGRAMS;
    /// Database password. Never logged.
    pub PGPASSWORD = "" for PROGRAMS;
    /// Database that holds the jobs schema.
    pub PGDATABASE = "postgres" for PROGRAMS;
    /// TLS to Postgres, as in libpq: disable, allow, prefer, require, verify-ca, verify-full.
    pub PGSSLMODE = "prefer" for PROGRAMS;
    /// File with the root certificates for verify-ca and verify-full (PEM); without it the system's. `system`: the
    /// system's, and verify-full.
    pub PGSSLROOTCERT = "" for PROGRAMS;
    /// File with the certificate that a server which asks for one is shown (PEM), and what leads to its root after it.
    /// Goes with PGSSLKEY.
    pub PGSSLCERT = "" for PROGRAMS;
    /// File with the private key of PGSSLCERT (PEM, not encrypted).
    pub PGSSLKEY = "" for PROGRAMS;
    /// `disable` shows no certificate, whatever PGSSLCERT says.
    pub PGSSLCERTMODE = "allow" for PROGRAMS;
    /// Which of several hosts to use: `read-write` (or `primary`) skips replicas, `any` takes the first that answers.
    pub PGTARGETSESSIONATTRS = "read-write" for PROGRAMS;
    /// Name of the sessions in pg_stat_activity.
    pub PGAPPNAME = "jobs" for PROGRAMS;
    /// How many seconds a host may take to give a session, before the next is tried.
    pub PGCONNECT_TIMEOUT = "5" for PROGRAMS;
    /// Options of the sessions, as in `-c work_mem=8MB`. Poolers refuse them, or leave them out.
    pub PGOPTIONS = "" for PROGRAMS;
    /// `require` logs in by SCRAM over TLS, bound to it, and in no other way; `prefer`, `disable`.
    pub PGCHANNELBINDING = "prefer" for PROGRAMS;
    /// `direct` begins with TLS (PostgreSQL 17); `postgres` asks for it first.
    pub PGSSLNEGOTIATION = "postgres" for PROGRAMS;
    /// `random` begins with any of several hosts; `disable` takes them in order.
    pub PGLOADBALANCEHOSTS = "disable" for PROGRAMS;
}

/// A parameter of libpq.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Parameter {
    /// Its name in a connection string; "" for what is a variable only.
    pub name: &'static str,
    /// Its environment variable; "" where libpq has none.
    pub variable: &'static str,
    pub(crate) here: Here,
}

/// What becomes of a parameter.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Here {
    /// The client takes it, by this name.
    Client(&'static str),
    /// The client takes it by its own name. Its variable is read by [`PostgresConfig`](crate::config::PostgresConfig).
    Field,
    /// It is brought into what the client takes, or honoured by code of ours.
    Own,
    /// It changes nothing, whatever it says, and why.
    Idle(&'static str),
    /// The same, but whoever sets it has reason to expect something: it is told.
    Told(&'static str),
    /// It can only have one of these values. Anything else asks for what would not be done, and whoever asks for it,
    /// often for the sake of security, must not believe that it is; why.
    Only(&'static [&'static str], &'static str),
}

const fn row(name: &'static str, variable: &'static str, here: Here) -> Parameter {
    Parameter { name, variable, here }
}

use Here::{Client, Field, Idle, Only, Own, Told};

const GSSAPI: &str = "nothing logs in by GSSAPI";
const OAUTH: &str = "nothing logs in by OAuth";
const PASSWORDS: &str = "the keys that are made of a password are not taken; use PGPASSWORD";
const REVOKED: &str = "lists of revoked certificates are not read";
const SERVICES: &str = "service files are not read";
const SESSION: &str = "sessions do not take it from a variable; write `-c name=value` into PGOPTIONS";

/// PostgreSQL 18's list, in its order, and what libpq still takes of older ones.
pub const PARAMETERS: &[Parameter] = &[
    row("host", PGHOST.name, Field),
    row("hostaddr", PGHOSTADDR.name, Field),
    row("port", PGPORT.name, Field),
    row("dbname", PGDATABASE.name, Field),
    row("user", PGUSER.name, Field),
    row("password", PGPASSWORD.name, Field),
    row("passfile", "PGPASSFILE", Only(&[], "password files are not read; use PGPASSWORD")),
    row(
        "require_auth",
        "PGREQUIREAUTH",
        Only(&[], "no way to log in can be required; channel_binding=require insists on SCRAM over TLS"),
    ),
    row("channel_binding", PGCHANNELBINDING.name, Client("channel_binding")),
    row("connect_timeout", PGCONNECT_TIMEOUT.name, Client("connect_timeout")),
    row("client_encoding", "PGCLIENTENCODING", Only(&["auto", "utf8", "utf-8", "unicode"], "texts are always UTF-8")),
    row("options", PGOPTIONS.name, Client("options")),
    row("application_name", PGAPPNAME.name, Client("application_name")),
    row("fallback_application_name", "", Own),
    row("keepalives", "", Client("keepalives")),
    row("keepalives_idle", "", Client("keepalives_idle")),
    row("keepalives_interval", "", Client("keepalives_interval")),
    row("keepalives_count", "", Client("keepalives_retries")),
    row("keepalives_retries", "", Client("keepalives_retries")),
    row("tcp_user_timeout", "", Own),
    row("replication", "", Only(&["false", "off", "no", "0"], "a connection for replication runs no jobs")),
    row("gssencmode", "PGGSSENCMODE", Only(&["disable", "prefer"], "encryption by GSSAPI is not supported; use TLS")),
    row("sslmode", PGSSLMODE.name, Own),
    row("requiressl", "PGREQUIRESSL", Only(&["0"], "it is long out of use; use sslmode=require")),
    row("sslnegotiation", PGSSLNEGOTIATION.name, Client("sslnegotiation")),
    row("sslcompression", "PGSSLCOMPRESSION", Idle("TLS never compresses")),
    row("sslcert", PGSSLCERT.name, Own),
    row("sslkey", PGSSLKEY.name, Own),
    row("sslkeylogfile", "", Only(&[], "the keys of a connection are never written down")),
    row("sslpassword", "", Only(&[], "an encrypted key cannot be read; decrypt it, as by `openssl pkey`")),
    row("sslcertmode", PGSSLCERTMODE.name, Own),
    row("sslrootcert", PGSSLROOTCERT.name, Own),
    row("sslcrl", "PGSSLCRL", Only(&[], REVOKED)),
    row("sslcrldir", "PGSSLCRLDIR", Only(&[], REVOKED)),
    row("sslsni", "PGSSLSNI", Only(&["1"], "the host's name is always sent")),
    row("requirepeer", "PGREQUIREPEER", Only(&[], "the user that the server runs as is not checked")),
    row(
        "ssl_min_protocol_version",
        "PGSSLMINPROTOCOLVERSION",
        Only(&["tlsv1", "tlsv1.1", "tlsv1.2"], "TLS is version 1.2 or 1.3, as the server likes"),
    ),
    row(
        "ssl_max_protocol_version",
        "PGSSLMAXPROTOCOLVERSION",
        Only(&["tlsv1.3"], "the newest version of TLS cannot be ruled out"),
    ),
    row("min_protocol_version", "PGMINPROTOCOLVERSION", Only(&["3.0"], "the protocol is version 3.0")),
    row("max_protocol_version", "PGMAXPROTOCOLVERSION", Idle("the protocol is version 3.0, the oldest there is")),
    row("krbsrvname", "PGKRBSRVNAME", Idle(GSSAPI)),
    row("gsslib", "PGGSSLIB", Idle(GSSAPI)),
    row("gssdelegation", "PGGSSDELEGATION", Idle(GSSAPI)),
    row("scram_client_key", "", Only(&[], PASSWORDS)),
    row("scram_server_key", "", Only(&[], PASSWORDS)),
    row("service", "PGSERVICE", Only(&[], "service files are not read; give their parameters here")),
    row("servicefile", "PGSERVICEFILE", Idle(SERVICES)),
    row("", "PGSYSCONFDIR", Idle(SERVICES)),
    row("", "PGLOCALEDIR", Idle("messages of the client are English")),
    row("target_session_attrs", PGTARGETSESSIONATTRS.name, Own),
    row("load_balance_hosts", PGLOADBALANCEHOSTS.name, Client("load_balance_hosts")),
    row("oauth_issuer", "", Idle(OAUTH)),
    row("oauth_client_id", "", Idle(OAUTH)),
    row("oauth_client_secret", "", Idle(OAUTH)),
    row("oauth_scope", "", Idle(OAUTH)),
    row("", "PGOAUTHDEBUG", Idle(OAUTH)),
    row("", "PGDATESTYLE", Told(SESSION)),
    row("", "PGTZ", Told("sessions do not take it from a variable; the zone of schedules is TZ")),
    row("", "PGGEQO", Told(SESSION)),
];

/// What of the list's own the client takes by the same name, once it is brought into it.
const TRANSLATED: &[&str] = &["target_session_attrs", "tcp_user_timeout"];

impl Parameter {
    /// The parameter of a name in a connection string.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        PARAMETERS.iter().find(|parameter| !name.is_empty() && parameter.name == name)
    }

    /// The name by which the client takes it, if it does.
    fn of_client(&self) -> Option<&'static str> {
        match self.here {
            Client(name) => Some(name),
            Field => Some(self.name),
            Own => TRANSLATED.contains(&self.name).then_some(self.name),
            Idle(_) | Told(_) | Only(..) => None,
        }
    }

    /// What is wrong with a value that asks for what is not done; `what` names it.
    pub(crate) fn refusal(&self, what: &str, value: &str) -> Option<String> {
        let Only(values, reason) = self.here else { return None };
        let will_do = value.is_empty() || values.contains(&value.to_ascii_lowercase().as_str());
        (!will_do).then(|| match values {
            [] => format!("leave {what} out: {reason}"),
            _ => format!("{what} can only be {}: {reason}", values.join(", ")),
        })
    }

    /// What becomes of it, in words.
    pub fn becomes(&self) -> String {
        match self.here {
            Client(_) | Field | Own => "honoured".to_owned(),
            Idle(reason) => format!("without effect: {reason}"),
            Told(reason) => format!("without effect, which is told: {reason}"),
            Only([], reason) => format!("refused: {reason}"),
            Only(values, reason) => format!("refused unless {}: {reason}", values.join(", ")),
        }
    }
}

/// The names in a connection string that are known.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    PARAMETERS.iter().map(|parameter| parameter.name).filter(|name| !name.is_empty())
}

/// The name as the client's, if it is one.
pub(crate) fn of_client(name: &str) -> Option<&'static str> {
    PARAMETERS.iter().filter_map(Parameter::of_client).find(|known| *known == name)
}

/// Whether a variable is libpq's.
pub(crate) fn is_variable(name: &str) -> bool {
    !name.is_empty() && PARAMETERS.iter().any(|parameter| parameter.variable == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::postgres::VARS;

    #[test]
    fn the_variables_that_are_read_are_those_that_are_honoured() {
        let honoured = |parameter: &&Parameter| matches!(parameter.here, Client(_) | Field | Own);
        let mut listed: Vec<&str> = PARAMETERS.iter().filter(honoured).map(|parameter| parameter.variable).collect();
        listed.retain(|variable| !variable.is_empty());
        let mut shown: Vec<&str> = VARS.iter().map(|var| var.name).filter(|name| name.starts_with("PG")).collect();
        listed.sort_unstable();
        shown.sort_unstable();
        assert_eq!(listed, shown);
    }

    #[test]
    fn no_name_is_listed_twice() {
        for of in [|parameter: &Parameter| parameter.name, |parameter: &Parameter| parameter.variable] {
            let mut names: Vec<&str> = PARAMETERS.iter().map(of).filter(|name| !name.is_empty()).collect();
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all);
        }
    }
}
