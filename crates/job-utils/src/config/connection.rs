//! Connection strings: libpq's parameters, brought into what the Postgres client understands.

use std::path::PathBuf;

use crate::config::nearest::nearest;
use crate::config::{Reader, Var};

/// What the client takes as it stands.
const PASSED: &[&str] = &[
    "application_name",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    // The client's own name for libpq's keepalives_count.
    "keepalives_retries",
    "load_balance_hosts",
    "options",
    "password",
    "port",
    "sslnegotiation",
    "user",
];

/// What needs a word more.
const OWN: &[&str] = &[
    "fallback_application_name",
    "keepalives_count",
    "sslmode",
    "sslrootcert",
    "target_session_attrs",
    "tcp_user_timeout",
];

/// What changes nothing here, whatever it says: no way to log in by GSSAPI, and no compression, which libpq has given up.
const WITHOUT_EFFECT: &[&str] = &["gssdelegation", "gsslib", "krbsrvname", "sslcompression"];

/// What has to say nothing, or what is so anyway. Anything else asks for what would not be done, and whoever asks for it, often
/// for the sake of security, must not believe that it is: name, the values that will do, and why no other does.
const ONLY: &[(&str, &[&str], &str)] = &[
    ("client_encoding", &["auto", "utf8", "utf-8", "unicode"], "texts are always UTF-8"),
    ("gssencmode", &["disable", "prefer"], "encryption by GSSAPI is not supported; use TLS"),
    ("passfile", &[], "password files are not read; use PGPASSWORD"),
    ("replication", &["false", "off", "no", "0"], "a connection for replication runs no jobs"),
    ("require_auth", &[], "no way to log in can be required; channel_binding=require insists on SCRAM over TLS"),
    ("requirepeer", &[], "the user that the server runs as is not checked"),
    ("service", &[], "service files are not read; write their parameters here"),
    ("ssl_max_protocol_version", &["tlsv1.3"], "the newest version of TLS cannot be ruled out"),
    ("ssl_min_protocol_version", &["tlsv1", "tlsv1.1", "tlsv1.2"], "TLS is version 1.2 or 1.3, as the server likes"),
    ("sslcert", &[], CERTIFICATE),
    ("sslcertmode", &["disable", "allow"], CERTIFICATE),
    ("sslcrl", &[], REVOKED),
    ("sslcrldir", &[], REVOKED),
    ("sslkey", &[], CERTIFICATE),
    ("sslpassword", &[], CERTIFICATE),
    ("sslsni", &["1"], "the host's name is always sent"),
];

const CERTIFICATE: &str = "a client's certificate cannot be presented";
const REVOKED: &str = "lists of revoked certificates are not read";

/// Which servers will do, as far as jobs can be run there: libpq's value, and the client's.
const SESSIONS: &[(&str, &str)] = &[("any", "any"), ("read-write", "read-write"), ("primary", "read-write")];

/// How far a name may be from a parameter's to be taken for a misspelling of it, and no further than half of it.
const NEAR: usize = 4;

/// A connection string of which the client understands all, and what it does not.
#[derive(Debug, Default)]
pub(super) struct UrlParts {
    pub(super) rest: String,
    pub(super) ssl_mode: Option<String>,
    pub(super) ssl_root_cert: Option<PathBuf>,
    fallback_name: Option<String>,
    kept: Vec<(String, String)>,
    faults: Vec<String>,
}

impl UrlParts {
    /// Reads a variable. What is wrong with its parameters is noted as its fault.
    pub(super) fn read(reader: &mut Reader<'_>, var: &Var) -> Option<Self> {
        let parts = Self::split(&reader.optional(var)?);
        if !parts.faults.is_empty() {
            reader.fault(var, parts.faults.join("; "));
        }
        Some(parts)
    }

    fn split(text: &str) -> Self {
        let mut parts = Self::default();
        if !text.contains("://") {
            parts.rest = match pairs(text) {
                Some(pairs) => {
                    // A password that should have been quoted goes on as a parameter.
                    let shown = pairs.iter().all(|(name, _)| name != "password");
                    for (name, value) in pairs {
                        parts.take(&name, &value, shown);
                    }
                    let kept: Vec<String> =
                        parts.finished().iter().map(|(name, value)| format!("{name}={}", quoted(value))).collect();
                    kept.join(" ")
                }
                // Whoever reads it next says what is wrong.
                None => text.to_owned(),
            };
            return parts;
        }
        let Some((base, query)) = text.split_once('?') else { return Self { rest: text.to_owned(), ..parts } };
        // A password with a question mark in it begins before it and ends at the @. And nobody is to read of one what stands
        // there as well.
        let shown = |name: &str| !query.contains('@') && !base.contains(name);
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match (&*name, &*value) {
                // For the sake of JDBC's URLs, as in libpq.
                ("ssl", "true") => parts.ssl_mode = Some("require".to_owned()),
                (name, value) => parts.take(name, value, shown(name)),
            }
        }
        let mut kept = url::form_urlencoded::Serializer::new(String::new());
        kept.extend_pairs(parts.finished());
        // The client decodes percent signs, not the plus of form encoding.
        let kept = kept.finish().replace('+', "%20");
        parts.rest = if kept.is_empty() { base.to_owned() } else { format!("{base}?{kept}") };
        parts
    }

    /// Takes a parameter. `shown` says whether its name may be told.
    fn take(&mut self, name: &str, value: &str, shown: bool) {
        if PASSED.contains(&name) {
            return self.keep(name, value);
        }
        if let Some((known, values, reason)) = ONLY.iter().find(|(known, ..)| *known == name) {
            if !value.is_empty() && !values.contains(&value.to_ascii_lowercase().as_str()) {
                self.faults.push(match values {
                    [] => format!("leave its parameter {known} out: {reason}"),
                    _ => format!("its parameter {known} can only be {}: {reason}", values.join(", ")),
                });
            }
            return;
        }
        match name {
            "sslmode" => self.ssl_mode = Some(value.to_owned()),
            "sslrootcert" => self.ssl_root_cert = Some(PathBuf::from(value)).filter(|_| !value.is_empty()),
            "keepalives_count" => self.keep("keepalives_retries", value),
            "fallback_application_name" => self.fallback_name = Some(value.to_owned()),
            // Milliseconds for libpq, seconds for the client.
            "tcp_user_timeout" => match value.parse::<u64>() {
                Ok(millis) => self.keep(name, &millis.div_ceil(1000).to_string()),
                Err(_) => self.keep(name, value),
            },
            "target_session_attrs" => match SESSIONS.iter().find(|(known, _)| *known == value) {
                Some((_, session)) => self.keep(name, session),
                None => self.faults.push(format!(
                    "its parameter target_session_attrs can only be read-write, primary or any: {READ_ONLY}"
                )),
            },
            _ if WITHOUT_EFFECT.contains(&name) => {}
            _ => self.unknown(name, shown),
        }
    }

    fn keep(&mut self, name: &str, value: &str) {
        self.kept.push((name.to_owned(), value.to_owned()));
    }

    fn unknown(&mut self, name: &str, shown: bool) {
        let only = ONLY.iter().map(|(known, ..)| *known);
        let known = PASSED.iter().chain(OWN).chain(WITHOUT_EFFECT).copied().chain(only);
        let plain = name.len() <= 40 && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
        let what = if shown && plain && !name.is_empty() { format!("{name} is") } else { "one is".to_owned() };
        let meant = nearest(name, known, NEAR.min(name.len() / 2)).filter(|_| shown);
        let meant = meant.map(|known| format!(" (did you mean {known}?)")).unwrap_or_default();
        self.faults.push(format!("{what} not a parameter that is known{meant}"));
    }

    /// What the client gets.
    fn finished(&mut self) -> Vec<(String, String)> {
        let mut kept = std::mem::take(&mut self.kept);
        if let Some(name) =
            self.fallback_name.take().filter(|_| kept.iter().all(|(name, _)| name != "application_name"))
        {
            kept.push(("application_name".to_owned(), name));
        }
        kept
    }
}

/// Why a server that takes no writes will not do.
pub(super) const READ_ONLY: &str = "claiming and completing jobs are writes";

/// Whether a server has to take writes, by libpq's name for the servers that will do; None when that name is not one of ours.
pub(super) fn takes_writes(session: &str) -> Option<bool> {
    SESSIONS.iter().find(|(known, _)| *known == session).map(|(_, client)| *client != "any")
}

/// `name=value` pairs between spaces, as libpq reads them: a value may stand in single quotes, and a backslash takes the next
/// character as it is. None when it is something else.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let name = name.trim_end();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return None;
        }
        let (value, after) = value(after.trim_start())?;
        pairs.push((name.to_owned(), value));
        rest = after.trim_start();
    }
    Some(pairs)
}

/// The value that a text begins with, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let (quoted, text) = text.strip_prefix('\'').map_or((false, text), |rest| (true, rest));
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            '\'' if quoted => return Some((value, &text[at + 1..])),
            c if !quoted && c.is_whitespace() => return Some((value, &text[at..])),
            c => value.push(c),
        }
    }
    (!quoted).then_some((value, ""))
}

/// A value as it stands in a pair.
fn quoted(value: &str) -> String {
    let plain = |c: char| !c.is_whitespace() && c != '\'' && c != '\\';
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A URL in which the hosts without a port have this one: the client would take 5432 before it asks for PGPORT.
pub(super) fn with_port(url: &str, port: u16) -> String {
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

    fn split(parameters: &str) -> UrlParts {
        UrlParts::split(&format!("postgres://u:p@h/db?{parameters}"))
    }

    fn fault(parameters: &str) -> String {
        split(parameters).faults.join("; ")
    }

    #[test]
    fn libpqs_parameters_are_brought_into_the_clients() {
        for (libpq, client) in [
            ("keepalives_count=3", "?keepalives_retries=3"),
            ("tcp_user_timeout=1500", "?tcp_user_timeout=2"),
            ("target_session_attrs=primary", "?target_session_attrs=read-write"),
            ("fallback_application_name=a%20b", "?application_name=a%20b"),
            ("fallback_application_name=a&application_name=b", "?application_name=b"),
            ("channel_binding=require&load_balance_hosts=random", "?channel_binding=require&load_balance_hosts=random"),
            ("gssencmode=disable&krbsrvname=x&gssdelegation=1&sslcompression=0&sslsni=1&client_encoding=UTF8", ""),
            ("sslcert=&ssl_min_protocol_version=TLSv1.2&ssl_max_protocol_version=TLSv1.3&replication=off", ""),
        ] {
            let parts = split(libpq);
            assert_eq!((parts.rest, parts.faults), (format!("postgres://u:p@h/db{client}"), vec![]), "{libpq}");
        }
        assert_eq!(split("ssl=true").ssl_mode.as_deref(), Some("require"));
    }

    #[test]
    fn what_asks_for_more_than_is_done_is_refused_by_its_name() {
        for (parameters, name) in [
            ("gssencmode=require", "gssencmode"),
            ("sslcrl=/crl.pem", "sslcrl"),
            ("sslcrldir=/crl", "sslcrldir"),
            ("requirepeer=postgres", "requirepeer"),
            ("require_auth=scram-sha-256", "require_auth"),
            ("sslcert=/c.pem", "sslcert"),
            ("sslcertmode=require", "sslcertmode"),
            ("ssl_min_protocol_version=TLSv1.3", "ssl_min_protocol_version"),
            ("target_session_attrs=standby", "target_session_attrs"),
            ("target_session_attrs=read-only", "target_session_attrs"),
            ("service=prod", "service"),
            ("client_encoding=latin1", "client_encoding"),
        ] {
            assert!(fault(parameters).contains(&format!("parameter {name} ")), "{parameters}: {}", fault(parameters));
        }
    }

    #[test]
    fn what_is_unknown_is_named_with_the_nearest_name_but_never_a_piece_of_a_password() {
        assert_eq!(fault("sslmod=require"), "sslmod is not a parameter that is known (did you mean sslmode?)");
        assert_eq!(fault("pgbouncer=true"), "pgbouncer is not a parameter that is known");
        assert_eq!(fault("a=1&sslrootcrt=2").matches("not a parameter").count(), 2);
        for secret in [
            "postgres://u:hun?ter2=1@host/db",
            "postgres://u:p@h/db?ter2=1@x",
            "password=hun ter2=1",
            "postgres://u:ter2@h/db?ter2=1",
        ] {
            let faults = UrlParts::split(secret).faults.join("; ");
            assert_eq!(faults, "one is not a parameter that is known", "{secret}");
        }
        assert!(fault("a%0Ab=1").starts_with("one is"));
    }

    #[test]
    fn pairs_are_read_with_their_quotes() {
        let parts =
            UrlParts::split(r"host = h  password='it''s' options='-c a.b=c\'d' keepalives_count=3 sslmode='require'");
        assert_eq!(
            parts.rest,
            r"host = h  password='it''s' options='-c a.b=c\'d' keepalives_count=3 sslmode='require'"
        );
        let parts =
            UrlParts::split(r"host = h  password='it\'s ' options='-c  a.b=c' keepalives_count=3 sslmode='require'");
        assert_eq!(parts.rest, r"host=h password='it\'s ' options='-c  a.b=c' keepalives_retries=3");
        assert_eq!((parts.ssl_mode.as_deref(), parts.faults), (Some("require"), vec![]));
        assert_eq!(UrlParts::split("hunter2").rest, "hunter2");
    }
}
