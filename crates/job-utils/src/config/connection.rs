//! Connection strings: what the Postgres client does not understand of them, taken out or put in.

use std::path::PathBuf;

/// A connection string without the TLS parameters that the Postgres client does not know.
pub(super) struct UrlParts {
    pub(super) rest: String,
    pub(super) ssl_mode: Option<String>,
    pub(super) ssl_root_cert: Option<PathBuf>,
}

impl UrlParts {
    pub(super) fn split(text: &str) -> Self {
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
