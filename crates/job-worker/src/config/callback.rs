//! Where functions are told to report.

use job_utils::config::shared::INTERNAL_JOBS_CALLBACK_URL;
use job_utils::config::{HttpUrl, Reader};
use job_utils::variables;
use job_utils::wire::callback::callback_url;

variables! {
    /// Host in the callback URL when INTERNAL_JOBS_CALLBACK_URL is unset: `http://<host>:<port>/callback`.
    pub(super) JOBS_CALLBACK_HOST = "jobs-callback" for "worker, service";
}

/// How functions reach the callback server.
pub(crate) struct CallbackAddress;

impl CallbackAddress {
    /// The URL for `X-Callback-Url`.
    pub(crate) fn read_url(reader: &mut Reader<'_>, port: u16) -> HttpUrl {
        let (var, text) = match reader.optional(&INTERNAL_JOBS_CALLBACK_URL) {
            Some(url) => (&INTERNAL_JOBS_CALLBACK_URL, url),
            None => (&JOBS_CALLBACK_HOST, format!("http://{}:{port}", reader.text(&JOBS_CALLBACK_HOST))),
        };
        // A host with more behind it would make a URL, and another one than is meant.
        let url = if var.name == JOBS_CALLBACK_HOST.name && reader.text(var).contains(['/', '\\', '?', '#', '@']) {
            Err("is more than a host's name or address: INTERNAL_JOBS_CALLBACK_URL takes a whole URL".to_owned())
        } else {
            callback_url(&text)
        };
        url.unwrap_or_else(|message| {
            reader.fault(var, message);
            #[allow(clippy::expect_used, reason = "a literal URL parses; the fault above keeps it from being used")]
            callback_url("http://jobs-callback").expect("literal")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_host_with_more_behind_it_is_refused_and_not_shown() {
        let read = |host: &str| {
            let env = BTreeMap::from([("JOBS_CALLBACK_HOST", host)]);
            let mut reader = Reader::new(&env);
            let url = CallbackAddress::read_url(&mut reader, 80);
            reader.finish(url).map(|url| url.to_string()).map_err(|error| error.to_string())
        };
        assert_eq!(read("me").as_deref(), Ok("http://me/callback"));
        assert_eq!(read("[::1]").as_deref(), Ok("http://[::1]/callback"));
        for host in ["a/b?x=secret#", "a/", "a?secret", "a#secret", "u:secret@a", "a\\secret"] {
            let error = read(host).unwrap_err();
            assert!(error.contains("JOBS_CALLBACK_HOST: is more than a host's name"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
