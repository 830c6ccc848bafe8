//! What is wrong with a DATABASE_URL that the client cannot read: which part of it, and never what it says. A password
//! with a character that should have been written as a % code shifts the borders between the parts, so that any of them
//! may hold a piece of it.

use tokio_postgres::Config;

use crate::config::libpq;

const FORM: &str = "write postgres://user:password@host:port/database, with % codes for special characters";

/// Reads a connection string; the error is for people.
pub(crate) fn parse(url: &str) -> Result<Config, String> {
    url.parse().map_err(|_| format!("cannot be read: {}; {FORM}", fault(url)))
}

fn fault(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return if url.contains('=') { of_pairs(url) } else { "it is no URL".to_owned() };
    };
    if !matches!(scheme, "postgres" | "postgresql") {
        return "it does not begin with postgres:// or postgresql://".to_owned();
    }
    // As the client divides it: the first @ ends the password.
    let rest = rest.split_once('@').map_or(rest, |(_, rest)| rest);
    if rest.contains('@') {
        return "it has an @ too many, perhaps in the password".to_owned();
    }
    let (base, query) = rest.split_once('?').unwrap_or((rest, ""));
    let hosts = base.split_once('/').map_or(base, |(hosts, _)| hosts);
    if hosts.split(',').any(|host| port_of(host).is_some_and(|port| port.parse::<u16>().is_err())) {
        return "its port is not a number from 1 to 65535".to_owned();
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        if let Some(fault) = of_parameter(name, pair) {
            return fault;
        }
    }
    "a part of it has characters that cannot be there".to_owned()
}

/// What follows a host's colon; the colons of an IPv6 address are inside its brackets.
fn port_of(host: &str) -> Option<&str> {
    let bare = host.rsplit_once(']').map_or(host, |(_, after)| after);
    bare.split_once(':').map(|(_, port)| port)
}

fn of_parameter(name: &str, pair: &str) -> Option<String> {
    match libpq::of_client(name) {
        // Alone with a host it must be readable.
        Some(known) => format!("postgres://host/?{pair}")
            .parse::<Config>()
            .is_err()
            .then(|| format!("its parameter {known} has a value that cannot be used")),
        None => Some("it has a parameter that is not known".to_owned()),
    }
}

/// `name=value` pairs between spaces.
fn of_pairs(text: &str) -> String {
    for pair in text.split_whitespace() {
        let Some((name, _)) = pair.split_once('=') else {
            return "it is neither a URL nor name=value pairs".to_owned();
        };
        match libpq::of_client(name) {
            Some(known) if pair.parse::<Config>().is_err() => {
                return format!("its parameter {known} has a value that cannot be used");
            }
            Some(_) => {}
            None => return "it has a parameter that is not known".to_owned(),
        }
    }
    "a value in it cannot be used".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_names_the_part_and_never_shows_the_password() {
        for (url, part) in [
            ("postgres://u:hunter2@host:54x2/db", "its port"),
            ("postgres://u:hunter2@host:70000/db", "its port"),
            ("postgres://u:hunter2@one,[::1]:x/db", "its port"),
            ("postgres://u:hunter2@host/db?connect_timeout=soon", "its parameter connect_timeout"),
            ("postgres://u:hunter2@host/db?target_session_attrs=hunter2", "its parameter target_session_attrs"),
            ("postgres://u:hunter2@host/db?nonsense=hunter2", "a parameter that is not known"),
            ("postgres://u:hunt@er2@host:x/db", "an @ too many"),
            ("postgres://u:hunt@er2:0:1@host/db", "an @ too many"),
            ("postgres://u:hunt@er2/db?hunter2=@host", "an @ too many"),
            ("mysql://u:hunter2@host/db", "does not begin with postgres://"),
            ("host=h password=hunter2 port=x", "its parameter port"),
            ("hunter2", "it is no URL"),
        ] {
            let message = parse(url).map(|_| ()).unwrap_err();
            assert!(message.contains(part), "{url}: {message}");
            for piece in ["hunt", "er2", "x/db"] {
                assert!(!message.contains(piece), "{url}: {message}");
            }
        }
        assert!(parse("postgres://u:p%40ss@[::1]:5432,other/db?connect_timeout=3").is_ok());
    }
}
