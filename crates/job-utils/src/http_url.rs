//! URLs that people write: neither they nor the errors about them show a secret.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use url::Url;

/// An http or https URL with a host. User, password, query and fragment may be secret, and are not in its Debug.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpUrl(pub(crate) Url);

impl Deref for HttpUrl {
    type Target = Url;

    fn deref(&self) -> &Url {
        &self.0
    }
}

impl From<HttpUrl> for Url {
    fn from(url: HttpUrl) -> Self {
        url.0
    }
}

impl FromStr for HttpUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_http_url(text)
    }
}

impl fmt::Debug for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HttpUrl").field(&shown(self)).finish()
    }
}

/// A URL for messages: without user, password, query and fragment, which may hold secrets.
pub fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

/// Parses an absolute http or https URL with a host; the error says what to write, and shows neither password nor
/// query.
pub fn parse_http_url(value: &str) -> Result<HttpUrl, String> {
    let shown = without_secrets(value);
    let url = Url::parse(value)
        .map_err(|error| format!("{shown:?} is not a URL ({error}); write it as http://host:port/path"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(format!("{shown:?} is not an http or https URL; write it as http://host:port/path"));
    }
    Ok(HttpUrl(url))
}

/// Something like a URL without what may be secret in it: user and password, query, fragment.
fn without_secrets(value: &str) -> String {
    let is_scheme = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    // In a URL without a scheme the first :// may be that of another URL in its query.
    let (scheme, rest) = value.split_once("://").filter(|(scheme, _)| is_scheme(scheme)).unwrap_or(("", value));
    let place = match rest.rsplit_once('@') {
        // A password with a question mark in it, or a query with an @: there is no telling.
        Some((user, _)) if user.contains(['?', '#']) => "…",
        Some((_, place)) => place,
        None => rest,
    };
    let place = place.split(['?', '#']).next().unwrap_or_default();
    if scheme.is_empty() { place.to_owned() } else { format!("{scheme}://{place}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_secrets() {
        let url: Url = "http://user:secret@host:8080/task?token=secret#secret".parse().unwrap();
        assert_eq!(shown(&url), "http://host:8080/task");
        assert_eq!(format!("{:?}", HttpUrl(url)), r#"HttpUrl("http://host:8080/task")"#);
    }

    #[test]
    fn a_refused_url_shows_no_secret() {
        for bad in [
            "ftp://user:hunter2@gateway/x",
            "http://?token=hunter2",
            "user:hunter2@gateway",
            "ftp://h/#hunter2",
            "user:hunter2@gateway/?to=http://elsewhere",
            "gateway/?token=hunter2&to=http://elsewhere",
            "gateway/?email=a@b.example&token=hunter2",
            "http://user:hunter2?hunter2@gateway",
        ] {
            let message = parse_http_url(bad).unwrap_err();
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn a_url_shows_no_secret() {
        let url = parse_http_url("https://user:hunter2@host:8443/path?token=hunter2#hunter2").unwrap();
        assert_eq!(format!("{url:?}"), r#"HttpUrl("https://host:8443/path")"#);
    }
}
