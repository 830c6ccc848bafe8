//! Where a function may call back: whoever reaches it names a URL, and it would post there.

use job_utils::config::shared::INTERNAL_JOBS_CALLBACK_URL;
use job_utils::config::{Reader, Var, parse_http_url};
use job_utils::variables;
use url::{Origin, Url};

variables! {
    /// Origins to which functions may call back, between commas (`http://jobs-callback:8080`), or `*` for any; unset:
    /// that of INTERNAL_JOBS_CALLBACK_URL, and without that any, with a warning. A job with another X-Callback-Url is
    /// refused with 403.
    pub JOBS_CALLBACK_ORIGINS = "" for "functions";
}

/// The origins (scheme, host and port) of the callback servers that a function may post to.
///
/// ```
/// use job_fn::CallbackOrigins;
/// let origins = CallbackOrigins::of("http://jobs-callback:8080, https://jobs.example").unwrap();
/// assert!(origins.allow(&"https://jobs.example:443/callback?epoch=1".parse().unwrap()));
/// assert!(!origins.allow(&"http://169.254.169.254/".parse().unwrap()));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallbackOrigins(Option<Vec<Origin>>);

/// A callback URL that is not allowed. Of the URL only the origin is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "X-Callback-Url leads to {0}, and JOBS_CALLBACK_ORIGINS (or INTERNAL_JOBS_CALLBACK_URL) allows no callback there"
)]
pub(crate) struct NotAllowed(String);

impl CallbackOrigins {
    /// Any origin.
    pub const ANY: Self = Self(None);

    /// Origins between commas, each as a URL of which only scheme, host and port count; `*` for any.
    ///
    /// # Errors
    /// One of them is no http or https URL.
    pub fn of(list: &str) -> Result<Self, String> {
        let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        if entries.clone().any(|entry| entry == "*") {
            return Ok(Self::ANY);
        }
        let origin = |entry: &str| parse_http_url(entry).map(|url| url.origin());
        entries.map(origin).collect::<Result<_, _>>().map(|origins| Self(Some(origins)))
    }

    /// Whether a URL is of one of them.
    pub fn allow(&self, url: &Url) -> bool {
        self.0.as_ref().is_none_or(|origins| origins.contains(&url.origin()))
    }

    pub(crate) fn check(&self, url: &Url) -> Result<(), NotAllowed> {
        if self.allow(url) { Ok(()) } else { Err(NotAllowed(url.origin().ascii_serialization())) }
    }

    /// Reads JOBS_CALLBACK_ORIGINS, else INTERNAL_JOBS_CALLBACK_URL; None when neither is set.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let mut read = |var: &'static Var| {
            let origins = Self::of(&reader.optional(var)?);
            Some(origins.unwrap_or_else(|message| {
                reader.fault(var, message);
                Self(Some(Vec::new()))
            }))
        };
        read(&JOBS_CALLBACK_ORIGINS).or_else(|| read(&INTERNAL_JOBS_CALLBACK_URL))
    }
}
