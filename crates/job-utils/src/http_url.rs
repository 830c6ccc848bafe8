//! URLs that people write, read with errors that show no secret.

use url::Url;

/// Parses an absolute http or https URL with a host; the error says what to write, and shows neither password nor query.
pub fn parse_http_url(value: &str) -> Result<Url, String> {
    let shown = without_secrets(value);
    let url = Url::parse(value)
        .map_err(|error| format!("{shown:?} is not a URL ({error}); write it as http://host:port/path"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(format!("{shown:?} is not an http or https URL; write it as http://host:port/path"));
    }
    Ok(url)
}

/// Something like a URL without what may be secret in it: user and password, query, fragment.
fn without_secrets(value: &str) -> String {
    let (scheme, rest) = value.split_once("://").map_or(("", value), |(scheme, rest)| (scheme, rest));
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    let place = place.split(['?', '#']).next().unwrap_or_default();
    if scheme.is_empty() { place.to_owned() } else { format!("{scheme}://{place}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_url_shows_no_secret() {
        for bad in ["ftp://user:hunter2@gateway/x", "http://?token=hunter2", "user:hunter2@gateway", "ftp://h/#hunter2"]
        {
            let message = parse_http_url(bad).unwrap_err();
            assert!(!message.contains("hunter2"), "{message}");
        }
    }
}
