//! Secrets: what the worker knows and no message may show.

use std::cmp::Reverse;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::percent_decode_str;
use url::Url;

/// What is shorter than this hides nothing, and would blank out harmless words.
const SHORTEST: usize = 4;

/// What a signature follows in the query of a callback URL.
const SIGNATURE: &str = "signature=";

/// User and password of a URL, as a header of basic authentication has them after the word Basic.
pub(crate) fn credentials(url: &Url) -> Option<String> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decoded = |text| percent_decode_str(text).collect::<Vec<u8>>();
    let pair = [decoded(url.username()), decoded(url.password().unwrap_or_default())].join(&b':');
    Some(BASE64_STANDARD.encode(pair))
}

/// Texts that a function was sent and may repeat in its answer, as debug pages of web frameworks do.
#[derive(Clone, Default)]
pub(crate) struct Secrets(Vec<String>);

impl Secrets {
    /// The secrets of URLs: passwords in every form in which they are sent, and queries.
    pub(crate) fn of<'a>(urls: impl IntoIterator<Item = &'a Url>) -> Self {
        let mut secrets = Vec::new();
        for url in urls {
            let password = url.password().unwrap_or_default();
            secrets.push(percent_decode_str(password).decode_utf8_lossy().into_owned());
            secrets.push(password.to_owned());
            secrets.extend(credentials(url));
            secrets.extend(url.query().map(str::to_owned));
        }
        secrets.retain(|secret| secret.len() >= SHORTEST);
        // One may be part of another, as a password of a query.
        secrets.sort_by_key(|secret| Reverse(secret.len()));
        secrets.dedup();
        Self(secrets)
    }

    /// The text without the secrets.
    pub(crate) fn hidden(&self, text: String) -> String {
        let hide = |text: String, secret: &String| {
            if text.contains(secret.as_str()) { text.replace(secret.as_str(), "…") } else { text }
        };
        without_signatures(self.0.iter().fold(text, hide))
    }
}

/// The text without signatures of callback URLs, which are new for each attempt.
fn without_signatures(text: String) -> String {
    let mut parts = text.split(SIGNATURE);
    let Some(first) = parts.next().filter(|first| first.len() < text.len()) else { return text };
    let unsigned = |part: &str| {
        let digits = part.bytes().take_while(u8::is_ascii_hexdigit).count();
        format!("{SIGNATURE}{}{}", if digits > 0 { "…" } else { "" }, &part[digits..])
    };
    parts.fold(first.to_owned(), |text, part| text + &unsigned(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_function_repeats_of_a_urls_secrets_is_hidden() {
        let url: Url = "http://user:p%40ss@host/task?token=abc".parse().unwrap();
        let secrets = Secrets::of([&url]);
        let text = "Authorization: Basic dXNlcjpwQHNz, p@ss, p%40ss, /task?token=abc of user";
        assert_eq!(secrets.hidden(text.to_owned()), "Authorization: Basic …, …, …, /task?… of user");
        let signed = "/callback?epoch=1&signature=0123456789abcdef, signature=, signature=f0";
        let told = "/callback?epoch=1&signature=…, signature=, signature=…";
        assert_eq!(secrets.hidden(signed.to_owned()), told);
        let plain: Url = "http://user:pw@host/task?a=b".parse().unwrap();
        // Too short to be secret, but for the pair.
        assert_eq!(Secrets::of([&plain]).hidden("pw dXNlcjpwdw== a=b".to_owned()), "pw … a=b");
    }
}
