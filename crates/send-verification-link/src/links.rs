//! Links into a site.

use url::Url;

use crate::payload::{Kind, Payload};

/// A site whose address cannot be part of a link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the site's domain {0:?} is not a host name")]
pub struct NotAHost(String);

/// The address of a site: `https://[subdomain.]domain/`. A local site drops its subdomain, and with `local_app_port`
/// has http and that port.
///
/// ```
/// use send_verification_link::links::site_url;
/// assert_eq!(site_url(Some("app"), "example.com", Some(3000)).unwrap().as_str(), "https://app.example.com/");
/// assert_eq!(site_url(Some("app"), "localhost", Some(3000)).unwrap().as_str(), "http://localhost:3000/");
/// ```
pub fn site_url(subdomain: Option<&str>, domain: &str, local_app_port: Option<u16>) -> Result<Url, NotAHost> {
    let host = match subdomain {
        Some(subdomain) if !is_local(domain) => format!("{subdomain}.{domain}"),
        _ => domain.to_owned(),
    };
    let not_a_host = || NotAHost(host.clone());
    // A domain comes from a table: it must not bring a path, a user or a query of its own.
    if host.contains(['/', '\\', '?', '#', '@']) || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(not_a_host());
    }
    let port = local_app_port.filter(|_| is_local(&host));
    let scheme = if port.is_some() { "http" } else { "https" };
    let mut url = Url::parse(&format!("{scheme}://{host}/")).map_err(|_| not_a_host())?;
    if port.is_some() {
        url.set_port(port).map_err(|()| not_a_host())?;
    }
    Ok(url)
}

fn is_local(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let name = host.split(':').next().unwrap_or_default();
    host.starts_with("localhost") || host.starts_with("0.0.0.0") || name.ends_with(".localhost")
}

/// The link of an e-mail: a page of the site, with every value encoded.
pub fn link(site: &Url, payload: &Payload) -> Url {
    let (path, query) = match &payload.kind {
        Kind::Invite { invite_token, to_org, .. } => {
            let scope = if *to_org { "org" } else { "app" };
            ("/register", vec![("invite_token", invite_token.as_str()), ("email", &payload.email), ("type", scope)])
        }
        Kind::ForgotPassword { user_id, reset_token } => {
            ("/reset-password", vec![("role_id", user_id.as_str()), ("reset_token", reset_token)])
        }
        Kind::Verification { email_id, verification_token } => {
            ("/verify-email", vec![("email_id", email_id.as_str()), ("verification_token", verification_token)])
        }
    };
    let mut url = site.clone();
    url.set_path(path);
    url.query_pairs_mut().extend_pairs(query);
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_https_unless_it_is_local_and_a_port_is_set() {
        for (subdomain, domain, port, url) in [
            (None, "example.com", None, "https://example.com/"),
            (Some("app"), "example.com", None, "https://app.example.com/"),
            (Some("app"), "example.com", Some(3000), "https://app.example.com/"),
            (Some("app"), "localhost", None, "https://localhost/"),
            (Some("app"), "localhost", Some(3000), "http://localhost:3000/"),
            (None, "localhost:8080", Some(3000), "http://localhost:3000/"),
            (None, "localhost:8080", None, "https://localhost:8080/"),
            (Some("app"), "0.0.0.0", Some(3000), "http://0.0.0.0:3000/"),
            (None, "app.localhost", Some(3000), "http://app.localhost:3000/"),
            (None, "app.localhost:80", Some(3000), "http://app.localhost:3000/"),
            (Some("x"), "app.localhost", Some(3000), "http://app.localhost:3000/"),
            (None, "mylocalhost", Some(3000), "https://mylocalhost/"),
            (None, "localhost", Some(80), "http://localhost/"),
            (None, "bücher.example", None, "https://xn--bcher-kva.example/"),
        ] {
            assert_eq!(site_url(subdomain, domain, port).unwrap().as_str(), url, "{subdomain:?} {domain}");
        }
    }

    #[test]
    fn a_domain_cannot_bring_a_path_a_user_or_a_query() {
        for domain in ["evil.com/x", "evil.com?", "evil.com#", "user@evil.com", "evil.com\\x", "a b", "", "a\nb", "<b>"]
        {
            assert!(site_url(None, domain, None).is_err(), "{domain:?}");
        }
        assert!(site_url(Some("evil.com/"), "example.com", None).is_err());
    }

    #[test]
    fn every_value_of_a_link_is_encoded() {
        let site = site_url(None, "example.com", None).unwrap();
        let hostile = "a&type=org#<\"'> +ü/?%";
        let kind = Kind::Invite { invite_token: hostile.into(), sender_id: "s".into(), to_org: false };
        let url = link(&site, &Payload { email: "a+b@example.com".into(), kind });
        assert_eq!(
            url.as_str(),
            "https://example.com/register?invite_token=a%26type%3Dorg%23%3C%22%27%3E+%2B%C3%BC%2F%3F%25\
             &email=a%2Bb%40example.com&type=app"
        );
        let pairs: Vec<_> = url.query_pairs().into_owned().map(|(_, value)| value).collect();
        assert_eq!(pairs, [hostile, "a+b@example.com", "app"]);
    }
}
