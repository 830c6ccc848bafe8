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
        callback_url(&text).unwrap_or_else(|message| {
            reader.fault(var, message);
            #[allow(clippy::expect_used, reason = "a literal URL parses; the fault above keeps it from being used")]
            callback_url("http://jobs-callback").expect("literal")
        })
    }
}
