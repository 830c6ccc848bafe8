//! Which transport, and its settings.

use job_utils::config::{HttpUrl, Reader, Secret, Var, parse_http_url};

const FUNCTIONS: &str = "send-verification-link, send-email";

/// The key of Mailgun's API.
pub const MAILGUN_API_KEY: Var =
    Var { name: "MAILGUN_API_KEY", default: "", used_by: FUNCTIONS, about: "Key of Mailgun's API." };
/// Its older name.
pub const MAILGUN_KEY: Var =
    Var { name: "MAILGUN_KEY", default: "", used_by: FUNCTIONS, about: "Older name of `MAILGUN_API_KEY`." };
/// The sending domain.
pub const MAILGUN_DOMAIN: Var =
    Var { name: "MAILGUN_DOMAIN", default: "", used_by: FUNCTIONS, about: "Domain that Mailgun sends from." };
/// The default sender.
pub const MAILGUN_FROM: Var =
    Var { name: "MAILGUN_FROM", default: "", used_by: FUNCTIONS, about: "Sender of messages that name none." };
/// The default reply address.
pub const MAILGUN_REPLY: Var =
    Var { name: "MAILGUN_REPLY", default: "", used_by: FUNCTIONS, about: "Reply-To of messages that name none." };
/// Mailgun's base URL.
pub const MAILGUN_URL: Var = Var {
    name: "MAILGUN_URL",
    default: "https://api.mailgun.net",
    used_by: FUNCTIONS,
    about: "Base URL of Mailgun's API; https://api.eu.mailgun.net for domains in the EU region.",
};
/// SMTP instead of Mailgun.
pub const EMAIL_SEND_USE_SMTP: Var = Var {
    name: "EMAIL_SEND_USE_SMTP",
    default: "false",
    used_by: FUNCTIONS,
    about: "Send by SMTP instead of Mailgun.",
};
/// The SMTP server.
pub const SMTP_HOST: Var = Var { name: "SMTP_HOST", default: "", used_by: FUNCTIONS, about: "SMTP server." };
/// Its port.
pub const SMTP_PORT: Var = Var {
    name: "SMTP_PORT",
    default: "",
    used_by: FUNCTIONS,
    about: "Port of the SMTP server; when unset 465 with `SMTP_SECURE=true`, else 587.",
};
/// The user, if the server wants one.
pub const SMTP_USER: Var =
    Var { name: "SMTP_USER", default: "", used_by: FUNCTIONS, about: "User for the SMTP server, if it wants one." };
/// The user's password.
pub const SMTP_PASS: Var =
    Var { name: "SMTP_PASS", default: "", used_by: FUNCTIONS, about: "Password of `SMTP_USER`." };
/// The default sender.
pub const SMTP_FROM: Var = Var {
    name: "SMTP_FROM",
    default: "",
    used_by: FUNCTIONS,
    about: "Sender of messages that name none, when sending by SMTP; when unset `MAILGUN_FROM`.",
};
/// How the connection is protected.
pub const SMTP_SECURE: Var = Var {
    name: "SMTP_SECURE",
    default: "false",
    used_by: FUNCTIONS,
    about: "`true`: TLS from the first byte; `starttls`: STARTTLS required; `false`: STARTTLS when the server offers it.",
};

/// Every variable that this crate reads.
pub const VARS: &[&Var] = &[
    &MAILGUN_API_KEY,
    &MAILGUN_KEY,
    &MAILGUN_DOMAIN,
    &MAILGUN_FROM,
    &MAILGUN_REPLY,
    &MAILGUN_URL,
    &EMAIL_SEND_USE_SMTP,
    &SMTP_HOST,
    &SMTP_PORT,
    &SMTP_USER,
    &SMTP_PASS,
    &SMTP_FROM,
    &SMTP_SECURE,
];

/// How an SMTP connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Security {
    /// TLS from the first byte.
    Tls,
    /// STARTTLS, or nothing is sent.
    StartTls,
    /// STARTTLS when the server offers it.
    Opportunistic,
}

/// Where messages go.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transport {
    /// Nowhere.
    DryRun,
    /// Mailgun's HTTP API.
    Mailgun {
        /// The API's base URL.
        url: HttpUrl,
        /// The sending domain.
        domain: String,
        /// The API key.
        key: Secret,
    },
    /// An SMTP server.
    Smtp {
        /// Its name or address.
        host: String,
        /// Its port.
        port: u16,
        /// User and password, if it wants them.
        credentials: Option<(String, Secret)>,
        /// How the connection is protected.
        security: Security,
    },
}

/// A mailer's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where messages go.
    pub transport: Transport,
    /// The sender of messages that name none.
    pub from: Option<String>,
    /// The reply address of messages that name none.
    pub reply_to: Option<String>,
}

impl Config {
    /// Reads the settings that the chosen transport needs; every fault stays in `reader`. A dry run needs none.
    pub fn read(reader: &mut Reader<'_>, dry_run: bool) -> Self {
        let from = reader.optional(&MAILGUN_FROM);
        let reply_to = reader.optional(&MAILGUN_REPLY);
        if dry_run {
            return Self { transport: Transport::DryRun, from, reply_to };
        }
        let (transport, from) =
            if reader.flag(&EMAIL_SEND_USE_SMTP) { smtp(reader, from) } else { (mailgun(reader, from.as_ref()), from) };
        Self { transport, from, reply_to }
    }
}

fn required(reader: &mut Reader<'_>, var: &Var) -> String {
    reader.optional(var).unwrap_or_else(|| {
        reader.fault(var, "is required unless in a dry run");
        String::new()
    })
}

fn mailgun(reader: &mut Reader<'_>, from: Option<&String>) -> Transport {
    let key = reader.secret(&MAILGUN_API_KEY).or_else(|| reader.secret(&MAILGUN_KEY));
    if key.is_none() {
        reader.fault(
            &MAILGUN_API_KEY,
            "is required unless in a dry run (or set EMAIL_SEND_USE_SMTP=true to send by SMTP instead)",
        );
    }
    let domain = required(reader, &MAILGUN_DOMAIN);
    if from.is_none() {
        reader.fault(&MAILGUN_FROM, "is required unless in a dry run");
    }
    let url = reader.text(&MAILGUN_URL);
    match (parse_http_url(&url), key) {
        (Ok(url), Some(key)) => Transport::Mailgun { url, domain, key },
        (Err(message), _) => {
            reader.fault(&MAILGUN_URL, message);
            Transport::DryRun
        }
        // Never used: the fault is noted above.
        (Ok(_), None) => Transport::DryRun,
    }
}

fn smtp(reader: &mut Reader<'_>, mailgun_from: Option<String>) -> (Transport, Option<String>) {
    let host = required(reader, &SMTP_HOST);
    let security = security(reader);
    let port = match reader.optional(&SMTP_PORT) {
        Some(_) => reader.number(&SMTP_PORT),
        None if security == Security::Tls => 465,
        None => 587,
    };
    let (user, password) = (reader.optional(&SMTP_USER), reader.secret(&SMTP_PASS));
    let credentials = match (user, password) {
        (Some(user), Some(password)) => Some((user, password)),
        (Some(_), None) => {
            reader.fault(&SMTP_PASS, "is required with SMTP_USER");
            None
        }
        (None, Some(_)) => {
            reader.fault(&SMTP_USER, "is required with SMTP_PASS");
            None
        }
        (None, None) => None,
    };
    let from = reader.optional(&SMTP_FROM).or(mailgun_from);
    if from.is_none() {
        reader.fault(&SMTP_FROM, "is required unless in a dry run");
    }
    (Transport::Smtp { host, port, credentials, security }, from)
}

fn security(reader: &mut Reader<'_>) -> Security {
    if reader.text(&SMTP_SECURE).trim().eq_ignore_ascii_case("starttls") {
        Security::StartTls
    } else if reader.flag(&SMTP_SECURE) {
        Security::Tls
    } else {
        Security::Opportunistic
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(pairs: &[(&'static str, &'static str)], dry_run: bool) -> Result<Config, Vec<&'static str>> {
        let env: BTreeMap<&str, &str> = pairs.iter().copied().collect();
        let mut reader = Reader::new(&env);
        let config = Config::read(&mut reader, dry_run);
        reader.finish(config).map_err(|error| error.faults.iter().map(|fault| fault.name).collect())
    }

    #[test]
    fn a_dry_run_needs_nothing_and_looks_at_nothing() {
        let config = read(&[("EMAIL_SEND_USE_SMTP", "perhaps"), ("MAILGUN_URL", "no url")], true);
        assert_eq!(config.map(|config| config.transport), Ok(Transport::DryRun));
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        assert_eq!(read(&[], false), Err(vec!["MAILGUN_API_KEY", "MAILGUN_DOMAIN", "MAILGUN_FROM"]));
        assert_eq!(
            read(&[("MAILGUN_URL", "x")], false),
            Err(vec!["MAILGUN_API_KEY", "MAILGUN_DOMAIN", "MAILGUN_FROM", "MAILGUN_URL"])
        );
        let smtp = [("EMAIL_SEND_USE_SMTP", "1"), ("SMTP_PORT", "0x19"), ("SMTP_USER", "u"), ("SMTP_SECURE", "ssl")];
        assert_eq!(read(&smtp, false), Err(vec!["SMTP_HOST", "SMTP_SECURE", "SMTP_PORT", "SMTP_PASS", "SMTP_FROM"]));
    }

    #[test]
    fn the_older_name_of_the_key_is_read_when_the_newer_is_unset() {
        let key = |pairs: &[(&'static str, &'static str)]| {
            let mut all = vec![("MAILGUN_DOMAIN", "mg.example.com"), ("MAILGUN_FROM", "a@example.com")];
            all.extend_from_slice(pairs);
            match read(&all, false).unwrap().transport {
                Transport::Mailgun { key, url, .. } => (key.expose().to_owned(), url.to_string()),
                other => panic!("{other:?}"),
            }
        };
        let url = "https://api.mailgun.net/".to_owned();
        assert_eq!(key(&[("MAILGUN_KEY", "old")]), ("old".to_owned(), url.clone()));
        assert_eq!(key(&[("MAILGUN_KEY", "old"), ("MAILGUN_API_KEY", "new")]), ("new".to_owned(), url));
    }

    #[test]
    fn the_port_follows_the_security_unless_it_is_set() {
        let port = |pairs: &[(&'static str, &'static str)]| {
            let mut all =
                vec![("EMAIL_SEND_USE_SMTP", "yes"), ("SMTP_HOST", "mail"), ("MAILGUN_FROM", "a@example.com")];
            all.extend_from_slice(pairs);
            match read(&all, false).unwrap().transport {
                Transport::Smtp { port, security, .. } => (port, security),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(port(&[]), (587, Security::Opportunistic));
        assert_eq!(port(&[("SMTP_SECURE", "true")]), (465, Security::Tls));
        assert_eq!(port(&[("SMTP_SECURE", "StartTLS")]), (587, Security::StartTls));
        assert_eq!(port(&[("SMTP_SECURE", "TRUE"), ("SMTP_PORT", "2525")]), (2525, Security::Tls));
    }
}
