//! Which transport, and its settings.

mod variables;

use job_utils::config::{HttpUrl, Reader, Secret, Var, parse_http_url};

pub use variables::*;

use crate::address::{Redirect, list, one};

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
    Smtp(Smtp),
}

/// An SMTP server and how to talk to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Smtp {
    /// Its name or address.
    pub host: String,
    /// The TCP port, 465 for implicit TLS and else 587 unless set.
    pub port: u16,
    /// User and password, if it wants them.
    pub credentials: Option<(String, Secret)>,
    /// How the connection is protected.
    pub security: Security,
    /// Whether its certificate is checked.
    pub verify: bool,
    /// The name to greet it with; None means the machine's.
    pub name: Option<String>,
}

/// Where the senders of messages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Senders {
    /// No message names one, so the configuration must.
    Configured,
    /// Messages may name theirs. One that does not, where the configuration does not either, is not sent.
    OfMessages,
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
    /// The address that every message goes to, with its recipient in the local part, instead of to its recipient.
    pub redirect_to: Option<String>,
}

impl Config {
    /// Reads the settings that the chosen transport needs; every fault stays in `reader`. A dry run needs none.
    pub fn read(reader: &mut Reader<'_>, dry_run: bool, senders: Senders) -> Self {
        if dry_run {
            let (from, reply_to) = (reader.optional(&MAILGUN_FROM), reader.optional(&MAILGUN_REPLY));
            return Self { transport: Transport::DryRun, from, reply_to, redirect_to: None };
        }
        let by_smtp = reader.flag(&EMAIL_SEND_USE_SMTP);
        let transport = if by_smtp { smtp(reader) } else { mailgun(reader) };
        let (own_from, own_reply) =
            if by_smtp { (&SMTP_FROM, &SMTP_REPLY_TO) } else { (&MAILGUN_FROM, &MAILGUN_REPLY) };
        let from = first(reader, &[own_from, &MAILGUN_FROM], is_mailbox, NOT_A_MAILBOX);
        if from.is_none() && senders == Senders::Configured {
            reader.fault(own_from, "is required unless in a dry run");
        }
        let reply_to = first(reader, &[own_reply, &MAILGUN_REPLY], is_list, NOT_A_LIST);
        let redirect_to = first(reader, &[&MAILGUN_DEV_EMAIL], is_target, NOT_A_TARGET);
        if redirect_to.is_some() {
            reader.warn(&MAILGUN_DEV_EMAIL, "is set: every message goes there, and none to its recipient");
        }
        Self { transport, from, reply_to, redirect_to }
    }
}

/// Whether to send nothing: what the first of a function's own variables says that is set, else SIMPLE_EMAIL_DRY_RUN.
pub fn dry_run(reader: &mut Reader<'_>, own: &[&Var]) -> bool {
    let set = own.iter().find(|var| reader.optional(var).is_some());
    reader.flag(set.copied().unwrap_or(&SIMPLE_EMAIL_DRY_RUN))
}

const NOT_A_MAILBOX: &str = "is not one e-mail address, such as no-reply@example.com or Example <no-reply@example.com>; a \
                             name with a comma, a dot or other signs needs quotes: \"Acme, Inc.\" <no-reply@example.com>";
const NOT_A_LIST: &str = "is not an e-mail address, or several between commas; a name with a comma needs quotes: \
                          \"Acme, Inc.\" <help@example.com>";
const NOT_A_TARGET: &str = "is not one e-mail address, such as dev@example.com";

fn is_mailbox(text: &str) -> bool {
    one(text, "from").is_ok()
}

fn is_list(text: &str) -> bool {
    list(text, "replyTo").is_ok()
}

fn is_target(text: &str) -> bool {
    Redirect::new(text, "to").is_ok()
}

/// The first variable that is set, when it holds what it has to. The value is not shown: addresses stay out of logs.
fn first(reader: &mut Reader<'_>, vars: &[&Var], holds: fn(&str) -> bool, otherwise: &str) -> Option<String> {
    let (var, value) = vars.iter().find_map(|var| Some((var, reader.optional(var)?)))?;
    if !holds(&value) {
        reader.fault(var, otherwise);
    }
    Some(value)
}

fn required(reader: &mut Reader<'_>, var: &Var) -> String {
    reader.optional(var).unwrap_or_else(|| {
        reader.fault(var, "is required unless in a dry run");
        String::new()
    })
}

fn mailgun(reader: &mut Reader<'_>) -> Transport {
    let key = reader.secret(&MAILGUN_API_KEY).or_else(|| reader.secret(&MAILGUN_KEY));
    if key.is_none() {
        reader.fault(
            &MAILGUN_API_KEY,
            "is required unless in a dry run (or set EMAIL_SEND_USE_SMTP=true to send by SMTP instead)",
        );
    }
    let domain = required(reader, &MAILGUN_DOMAIN);
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

fn smtp(reader: &mut Reader<'_>) -> Transport {
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
    let verify = reader.flag(&SMTP_TLS_REJECT_UNAUTHORIZED);
    if !verify {
        reader.warn(&SMTP_TLS_REJECT_UNAUTHORIZED, "is false: the SMTP server's certificate is not checked");
    }
    let name = reader.optional(&SMTP_NAME);
    // It stands in a line of its own that the server reads.
    let is_name = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || "-._:[]".contains(c));
    if name.as_deref().is_some_and(|name| !is_name(name)) {
        reader.fault(&SMTP_NAME, "is not a host name such as mail.example.com, or an address such as [192.0.2.1]");
    }
    for var in WITHOUT_EFFECT {
        if reader.optional(var).is_some() {
            reader.warn(
                var,
                "has no effect here: each message has a connection of its own, and RUST_LOG says what is logged",
            );
        }
    }
    Transport::Smtp(Smtp { host, port, credentials, security, verify, name })
}

fn security(reader: &mut Reader<'_>) -> Security {
    let required = reader.flag(&SMTP_REQUIRE_TLS);
    if reader.text(&SMTP_SECURE).trim().eq_ignore_ascii_case("starttls") {
        Security::StartTls
    } else if reader.flag(&SMTP_SECURE) {
        Security::Tls
    } else if required {
        Security::StartTls
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
        let config = Config::read(&mut reader, dry_run, Senders::Configured);
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
            Err(vec!["MAILGUN_API_KEY", "MAILGUN_DOMAIN", "MAILGUN_URL", "MAILGUN_FROM"])
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
                Transport::Smtp(Smtp { port, security, .. }) => (port, security),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(port(&[]), (587, Security::Opportunistic));
        assert_eq!(port(&[("SMTP_SECURE", "true")]), (465, Security::Tls));
        assert_eq!(port(&[("SMTP_SECURE", "StartTLS")]), (587, Security::StartTls));
        assert_eq!(port(&[("SMTP_SECURE", "TRUE"), ("SMTP_PORT", "2525")]), (2525, Security::Tls));
        assert_eq!(port(&[("SMTP_REQUIRE_TLS", "true")]), (587, Security::StartTls));
        assert_eq!(port(&[("SMTP_REQUIRE_TLS", "true"), ("SMTP_SECURE", "true")]), (465, Security::Tls));
    }

    const MAILGUN: [(&str, &str); 2] = [("MAILGUN_API_KEY", "k"), ("MAILGUN_DOMAIN", "mg.example.com")];
    const SMTP: [(&str, &str); 2] = [("EMAIL_SEND_USE_SMTP", "true"), ("SMTP_HOST", "mail")];

    #[test]
    fn an_address_that_no_mail_can_come_from_is_refused_by_its_variables_name() {
        let with = |base: &[(&'static str, &'static str)], more: &[(&'static str, &'static str)]| {
            read(&[base, more].concat(), false).err()
        };
        let bad = "Acme, Inc. <x@y.com>";
        assert_eq!(with(&MAILGUN, &[("MAILGUN_FROM", bad)]), Some(vec!["MAILGUN_FROM"]));
        assert_eq!(with(&MAILGUN, &[("MAILGUN_FROM", "a@b.co, c@d.org")]), Some(vec!["MAILGUN_FROM"]));
        assert_eq!(with(&MAILGUN, &[("MAILGUN_FROM", "\"Acme, Inc.\" <x@y.com>")]), None);
        assert_eq!(with(&SMTP, &[("MAILGUN_FROM", bad)]), Some(vec!["MAILGUN_FROM"]));
        assert_eq!(
            with(&SMTP, &[("SMTP_FROM", bad), ("SMTP_REPLY_TO", "x"), ("MAILGUN_DEV_EMAIL", "a@b.co,c@d.org")]),
            Some(vec!["SMTP_FROM", "SMTP_REPLY_TO", "MAILGUN_DEV_EMAIL"])
        );
        let from = ("MAILGUN_FROM", "x@y.com");
        assert_eq!(with(&MAILGUN, &[from, ("MAILGUN_REPLY", bad)]), Some(vec!["MAILGUN_REPLY"]));
        assert_eq!(with(&SMTP, &[from, ("SMTP_NAME", "a\r\nMAIL FROM:<x@y>")]), Some(vec!["SMTP_NAME"]));
        assert_eq!(with(&SMTP, &[from, ("SMTP_REQUIRE_TLS", "perhaps")]), Some(vec!["SMTP_REQUIRE_TLS"]));
        // The seed's own addresses are placeholders.
        let dry = read(&[("MAILGUN_FROM", "[email protected]"), ("MAILGUN_DEV_EMAIL", "[email protected]")], true);
        assert_eq!(dry.map(|config| config.redirect_to), Ok(None));
    }

    #[test]
    fn smtp_has_a_reply_address_of_its_own_and_what_the_original_reads_is_honoured() {
        let more = [
            ("SMTP_FROM", "a@example.com"),
            ("SMTP_REPLY_TO", "desk@example.com"),
            ("MAILGUN_REPLY", "help@example.com"),
            ("SMTP_TLS_REJECT_UNAUTHORIZED", "false"),
            ("SMTP_NAME", "mail.example.com"),
            ("SMTP_POOL", "true"),
        ];
        let config = read(&[&SMTP[..], &more].concat(), false).unwrap();
        assert_eq!(config.reply_to.as_deref(), Some("desk@example.com"));
        let Transport::Smtp(smtp) = config.transport else { panic!("not SMTP") };
        assert_eq!((smtp.verify, smtp.name.as_deref()), (false, Some("mail.example.com")));
    }

    #[test]
    fn messages_may_bring_their_own_senders() {
        let env: BTreeMap<&str, &str> = MAILGUN.into();
        let mut reader = Reader::new(&env);
        let config = Config::read(&mut reader, false, Senders::OfMessages);
        assert_eq!(reader.finish(config).map(|config| config.from), Ok(None));
    }

    #[test]
    fn the_general_dry_run_counts_where_a_functions_own_is_unset() {
        const OWN: Var = Var { name: "OWN", default: "false", used_by: "", about: "" };
        let dry = |pairs: &[(&'static str, &'static str)]| {
            let env: BTreeMap<&str, &str> = pairs.iter().copied().collect();
            dry_run(&mut Reader::new(&env), &[&OWN])
        };
        assert!(!dry(&[]) && dry(&[("SIMPLE_EMAIL_DRY_RUN", "true")]) && dry(&[("OWN", "1")]));
        assert!(!dry(&[("SIMPLE_EMAIL_DRY_RUN", "true"), ("OWN", "false")]));
    }
}
