//! Connection strings: libpq's parameters, brought into what the Postgres client understands.

use std::collections::BTreeMap;

use crate::config::libpq::{self, Here, PARAMETERS, PGPASSWORD, Parameter};
use job_utils::config::nearest;
use job_utils::config::{Reader, Var};

/// Which servers will do, as far as jobs can be run there: libpq's value, and the client's.
const SESSIONS: &[(&str, &str)] = &[("any", "any"), ("read-write", "read-write"), ("primary", "read-write")];

/// How far a name may be from a parameter's to be taken for a misspelling of it, and no further than half of it.
const NEAR: usize = 4;

/// A connection string of which the client understands all, and what it does not.
#[derive(Debug, Default)]
pub(super) struct UrlParts {
    form: Form,
    /// Parameters that are read by code of ours.
    own: BTreeMap<&'static str, String>,
    /// Parameters that the client takes.
    kept: Vec<(String, String)>,
    /// Parameters that the string says anything about.
    said: Vec<&'static str>,
    faults: Vec<String>,
}

/// What stands before and around the parameters.
#[derive(Debug, Default)]
enum Form {
    /// `name=value` pairs.
    #[default]
    Pairs,
    /// A URL, without what follows its question mark.
    Url(String),
    /// Something else. Whoever reads it next says what is wrong.
    Unreadable(String),
}

impl UrlParts {
    /// Reads a variable, and the PG variables of the parameters that it leaves out. What is wrong with its parameters
    /// is noted as its fault.
    pub(super) fn read(reader: &mut Reader<'_>, var: &Var) -> Option<Self> {
        let mut parts = Self::split(&reader.optional(var)?);
        if !parts.faults.is_empty() {
            reader.fault(var, parts.faults.join("; "));
        }
        parts.complete(reader);
        Some(parts)
    }

    /// What the PG variables alone say, without those that have a field of their own.
    pub(super) fn of_variables(reader: &mut Reader<'_>) -> Self {
        let mut parts = Self::default();
        parts.complete(reader);
        parts
    }

    fn split(text: &str) -> Self {
        let mut parts = Self::default();
        if !text.contains("://") {
            match pairs(text) {
                Some(pairs) => {
                    // A password that should have been quoted goes on as a parameter.
                    let shown = pairs.iter().all(|(name, _)| name != "password");
                    for (name, value) in pairs {
                        parts.take(&name, &value, shown);
                    }
                }
                None => parts.form = Form::Unreadable(text.to_owned()),
            }
            return parts;
        }
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        parts.form = Form::Url(base.to_owned());
        // A password with a question mark in it begins before it and ends at the @. And nobody is to read of one what
        // stands there as well.
        let shown = |name: &str| !query.contains('@') && !base.contains(name);
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match (&*name, &*value) {
                // For the sake of JDBC's URLs, as in libpq.
                ("ssl", "true") => parts.take("sslmode", "require", true),
                (name, value) => parts.take(name, value, shown(name)),
            }
        }
        parts
    }

    /// Takes a parameter. `shown` says whether its name may be told.
    fn take(&mut self, name: &str, value: &str, shown: bool) {
        let Some(parameter) = Parameter::named(name) else { return self.unknown(name, shown) };
        self.said.push(parameter.name);
        match parameter.here {
            Here::Client(client) => self.keep(client, value),
            Here::Field => self.keep(name, value),
            Here::Own => self.take_own(parameter.name, value),
            Here::Idle(_) | Here::Told(_) => {}
            Here::Only(..) => self.faults.extend(parameter.refusal(&format!("its parameter {name}"), value)),
        }
    }

    fn take_own(&mut self, name: &'static str, value: &str) {
        match name {
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
            _ => drop(self.own.insert(name, value.to_owned())),
        }
    }

    /// Takes what the string leaves out from the PG variables, but for those that have a field of their own.
    fn complete(&mut self, reader: &mut Reader<'_>) {
        for parameter in PARAMETERS.iter().filter(|parameter| !parameter.variable.is_empty()) {
            let var = Var { name: parameter.variable, default: "", used_by: "", about: "" };
            let Some(value) = reader.optional(&var) else { continue };
            if !parameter.name.is_empty() && self.said.contains(&parameter.name) {
                continue;
            }
            match parameter.here {
                Here::Client(client) => {
                    if client::takes(&format!("{client}={}", quoted(&value))) {
                        self.keep(client, &value);
                    } else {
                        reader.fault(&var, format!("{value:?} cannot be used"));
                    }
                }
                Here::Told(reason) => reader.warn(&var, format!("has no effect: {reason}")),
                // libpq reads the file when there is no password.
                Here::Only(..) if parameter.name == "passfile" && self.has_password(reader) => {}
                Here::Only(..) => {
                    if let Some(refusal) = parameter.refusal(var.name, &value) {
                        reader.fault(&var, refusal);
                    }
                }
                Here::Field | Here::Own | Here::Idle(_) => {}
            }
        }
    }

    fn has_password(&self, reader: &mut Reader<'_>) -> bool {
        reader.optional(&PGPASSWORD).is_some() || client::has_password(&self.rest())
    }

    /// A parameter that is read by code of ours.
    pub(super) fn own(&self, name: &str) -> Option<String> {
        self.own.get(name).filter(|value| !value.is_empty()).cloned()
    }

    fn keep(&mut self, name: &str, value: &str) {
        self.kept.push((name.to_owned(), value.to_owned()));
    }

    fn unknown(&mut self, name: &str, shown: bool) {
        let plain = name.len() <= 40 && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
        let what = if shown && plain && !name.is_empty() { format!("{name} is") } else { "one is".to_owned() };
        let meant = nearest(name, libpq::names(), NEAR.min(name.len() / 2)).filter(|_| shown);
        let meant = meant.map(|known| format!(" (did you mean {known}?)")).unwrap_or_default();
        self.faults.push(format!("{what} not a parameter that is known{meant}"));
    }

    /// The connection string with what the client understands.
    pub(super) fn rest(&self) -> String {
        let mut kept: Vec<(&str, &str)> = self.kept.iter().map(|(name, value)| (&**name, &**value)).collect();
        let named = kept.iter().any(|(name, _)| *name == "application_name");
        if let Some(name) = self.own.get("fallback_application_name").filter(|_| !named) {
            kept.push(("application_name", name));
        }
        match &self.form {
            Form::Unreadable(text) => text.clone(),
            Form::Pairs => {
                let pairs: Vec<String> = kept.iter().map(|(name, value)| format!("{name}={}", quoted(value))).collect();
                pairs.join(" ")
            }
            Form::Url(base) if kept.is_empty() => base.clone(),
            Form::Url(base) => {
                let mut query = url::form_urlencoded::Serializer::new(String::new());
                query.extend_pairs(kept);
                // The client decodes percent signs, not the plus of form encoding.
                format!("{base}?{}", query.finish().replace('+', "%20"))
            }
        }
    }
}

/// What the client makes of a connection string.
mod client {
    use tokio_postgres::Config;

    pub(super) fn takes(text: &str) -> bool {
        text.parse::<Config>().is_ok()
    }

    pub(super) fn has_password(text: &str) -> bool {
        text.parse().is_ok_and(|config: Config| config.get_password().is_some())
    }
}

/// Why a server that takes no writes will not do.
pub(super) const READ_ONLY: &str = "claiming and completing jobs are writes";

/// Whether a server has to take writes, by libpq's name for the servers that will do; None when that name is not one of
/// ours.
pub(super) fn takes_writes(session: &str) -> Option<bool> {
    SESSIONS.iter().find(|(known, _)| *known == session).map(|(_, client)| *client != "any")
}

/// `name=value` pairs between spaces, as libpq reads them: a value may stand in single quotes, and a backslash takes
/// the next character as it is. None when it is something else.
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
    use crate::config::postgres::DATABASE_URL;

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
            (
                "servicefile=/s&max_protocol_version=3.2&gssencmode=disable&krbsrvname=x&gssdelegation=1&sslcompression=0&sslsni=1&client_encoding=UTF8",
                "",
            ),
            ("sslcrl=&ssl_min_protocol_version=TLSv1.2&ssl_max_protocol_version=TLSv1.3&replication=off", ""),
        ] {
            let parts = split(libpq);
            assert_eq!((parts.rest(), parts.faults), (format!("postgres://u:p@h/db{client}"), vec![]), "{libpq}");
        }
        assert_eq!(split("ssl=true").own("sslmode").as_deref(), Some("require"));
    }

    #[test]
    fn what_asks_for_more_than_is_done_is_refused_by_its_name() {
        for (parameters, name) in [
            ("gssencmode=require", "gssencmode"),
            ("sslcrl=/crl.pem", "sslcrl"),
            ("sslcrldir=/crl", "sslcrldir"),
            ("requirepeer=postgres", "requirepeer"),
            ("require_auth=scram-sha-256", "require_auth"),
            ("sslpassword=x", "sslpassword"),
            ("passfile=/p", "passfile"),
            ("requiressl=1", "requiressl"),
            ("min_protocol_version=3.2", "min_protocol_version"),
            ("ssl_min_protocol_version=TLSv1.3", "ssl_min_protocol_version"),
            ("target_session_attrs=standby", "target_session_attrs"),
            ("target_session_attrs=read-only", "target_session_attrs"),
            ("service=prod", "service"),
            ("client_encoding=latin1", "client_encoding"),
        ] {
            assert!(fault(parameters).contains(&format!("parameter {name} ")), "{parameters}: {}", fault(parameters));
        }
    }

    /// What each of the variables does, alone and beside a connection string.
    #[test]
    fn a_variable_says_what_its_parameter_says_unless_the_string_does() {
        let parts = |url: Option<&str>, name, value| {
            let env = BTreeMap::from([(name, value), ("DATABASE_URL", url.unwrap_or_default())]);
            let mut reader = Reader::new(&env);
            let parts = UrlParts::read(&mut reader, &DATABASE_URL);
            let parts = parts.unwrap_or_else(|| UrlParts::of_variables(&mut reader));
            reader.finish(()).map(|()| parts.rest()).map_err(|error| error.faults[0].name)
        };
        let mut seen = Vec::new();
        for (variable, value, said, bad) in [
            ("PGAPPNAME", "a b", "application_name='a b'", None),
            ("PGCONNECT_TIMEOUT", "3", "connect_timeout=3", Some("soon")),
            ("PGOPTIONS", "-c a.b=c", "options='-c a.b=c'", None),
            ("PGCHANNELBINDING", "require", "channel_binding=require", Some("x")),
            ("PGSSLNEGOTIATION", "direct", "sslnegotiation=direct", Some("x")),
            ("PGLOADBALANCEHOSTS", "random", "load_balance_hosts=random", Some("x")),
            ("PGGSSENCMODE", "prefer", "", Some("require")),
            ("PGREQUIREAUTH", "", "", Some("scram-sha-256")),
            ("PGREQUIREPEER", "", "", Some("postgres")),
            ("PGSSLCRL", "", "", Some("/crl.pem")),
            ("PGSSLCRLDIR", "", "", Some("/crl")),
            ("PGSSLSNI", "1", "", Some("0")),
            ("PGSSLMINPROTOCOLVERSION", "TLSv1.2", "", Some("TLSv1.3")),
            ("PGSSLMAXPROTOCOLVERSION", "TLSv1.3", "", Some("TLSv1.2")),
            ("PGMINPROTOCOLVERSION", "3.0", "", Some("3.2")),
            ("PGCLIENTENCODING", "UTF8", "", Some("LATIN1")),
            ("PGREQUIRESSL", "0", "", Some("1")),
            ("PGSERVICE", "", "", Some("prod")),
            ("PGPASSFILE", "", "", Some("/pgpass")),
            ("PGMAXPROTOCOLVERSION", "3.2", "", None),
            ("PGSSLCOMPRESSION", "1", "", None),
            ("PGKRBSRVNAME", "x", "", None),
            ("PGGSSLIB", "gssapi", "", None),
            ("PGGSSDELEGATION", "1", "", None),
            ("PGSERVICEFILE", "/s", "", None),
            ("PGSYSCONFDIR", "/etc", "", None),
            ("PGLOCALEDIR", "/usr", "", None),
            ("PGOAUTHDEBUG", "x", "", None),
            ("PGDATESTYLE", "ISO", "", None),
            ("PGTZ", "UTC", "", None),
            ("PGGEQO", "off", "", None),
        ] {
            assert_eq!(parts(None, variable, value).as_deref(), Ok(said), "{variable}={value}");
            if let Some(bad) = bad {
                for url in [None, Some("postgres://u@h/d"), Some("host=h user=u")] {
                    assert_eq!(parts(url, variable, bad), Err(variable), "{variable}={bad}, {url:?}");
                }
            }
            seen.push(variable);
        }
        // The others have fields, and tests of their own.
        let fields = |parameter: &&Parameter| !matches!(parameter.here, Here::Field | Here::Own);
        let all: Vec<&str> = PARAMETERS.iter().filter(fields).map(|parameter| parameter.variable).collect();
        assert_eq!(all.iter().filter(|name| !name.is_empty() && !seen.contains(name)).count(), 0);

        let url = "postgres://u@h/d?options=-c%20a.b%3Dc&gssencmode=disable&connect_timeout=3";
        assert_eq!(parts(Some(url), "PGOPTIONS", "-c d.e=f").unwrap().matches("options").count(), 1);
        let named = "postgres://u@h/d?options=-c%20a.b%3Dc&connect_timeout=3&application_name=a%20b";
        assert_eq!(parts(Some(url), "PGAPPNAME", "a b").as_deref(), Ok(named));
        for (name, value) in [("PGGSSENCMODE", "require"), ("PGCONNECT_TIMEOUT", "soon")] {
            assert!(parts(Some(url), name, value).is_ok(), "{name}");
        }
        // With a password nobody asks for the file.
        assert!(parts(Some("postgres://u:p@h/d"), "PGPASSFILE", "/pgpass").is_ok());
        let env = BTreeMap::from([("PGPASSFILE", "/pgpass"), ("PGPASSWORD", "p")]);
        let mut reader = Reader::new(&env);
        UrlParts::of_variables(&mut reader);
        reader.finish(()).unwrap();
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
            parts.rest(),
            r"host = h  password='it''s' options='-c a.b=c\'d' keepalives_count=3 sslmode='require'"
        );
        let parts =
            UrlParts::split(r"host = h  password='it\'s ' options='-c  a.b=c' keepalives_count=3 sslmode='require'");
        assert_eq!(parts.rest(), r"host=h password='it\'s ' options='-c  a.b=c' keepalives_retries=3");
        assert_eq!((parts.own("sslmode").as_deref(), parts.faults), (Some("require"), vec![]));
        assert_eq!(UrlParts::split("hunter2").rest(), "hunter2");
    }
}
