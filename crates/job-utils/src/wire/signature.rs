//! The query of a callback URL: which claim a callback is for, what follows when the callback tells of a failure, and a
//! signature that shows that a worker gave it out.
//!
//! ```text
//! X-Callback-Url: http://jobs:8080/callback?epoch=4611686018427387904&signature=<64 hex digits>
//! X-Callback-Url: http://jobs:8080/callback?epoch=4611686018427387904&last=1&signature=<64 hex digits>
//! X-Callback-Url: http://jobs:8080/callback?epoch=4611686018427387904&retry_ms=1500&signature=<64 hex digits>
//! ```
//!
//! `last` and `retry_ms` are there when the worker has a retry policy for the job's task: the callback server does not
//! know it.
//!
//! Functions echo the query as it is. The signature is HMAC-SHA256 over job id, worker id, epoch and what follows a
//! failure; until when a callback may come is not in it, since the function can have that extended.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use url::form_urlencoded;

use crate::outcome::AfterFailure;
use crate::secret::Secret;
use crate::wire::callback::PATH;

const EPOCH: &str = "epoch";
const LAST: &str = "last";
const RETRY_MS: &str = "retry_ms";
const SIGNATURE: &str = "signature";

/// Bytes of a signature.
const LENGTH: usize = 32;

/// The secrets of JOBS_CALLBACK_SECRET: the first signs, all of them verify. While a secret is replaced there are two.
#[derive(Clone)]
pub struct CallbackSecrets {
    keys: Vec<Hmac<Sha256>>,
    short: bool,
}

/// Shorter secrets can be guessed.
const SECRET_LENGTH: usize = 16;

/// Shows how many there are.
impl std::fmt::Debug for CallbackSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CallbackSecrets({})", self.keys.len())
    }
}

impl CallbackSecrets {
    /// [`CallbackSecrets::parse`] of a text: one secret, or `new,old` while it is replaced. The worker that signs and
    /// the callback server that verifies get the same.
    pub fn new(list: impl Into<String>) -> Option<Self> {
        Self::parse(&Secret::new(list))
    }

    /// Secrets between commas; None when there is none.
    pub fn parse(list: &Secret) -> Option<Self> {
        let secrets = list.expose().split(',').map(str::trim).filter(|secret| !secret.is_empty());
        let short = secrets.clone().any(|secret| secret.len() < SECRET_LENGTH);
        // A key of any length will do.
        let keys: Vec<_> = secrets.filter_map(|secret| Hmac::new_from_slice(secret.as_bytes()).ok()).collect();
        (!keys.is_empty()).then_some(Self { keys, short })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// Whether one of them is so short that it can be guessed.
    pub fn is_short(&self) -> bool {
        self.short
    }

    fn sign(&self, job_id: i64, worker_id: &str, epoch: i64, after: AfterFailure) -> Option<[u8; LENGTH]> {
        let key = self.keys.first()?;
        Some(signed(key, job_id, worker_id, epoch, after).finalize().into_bytes().into())
    }

    /// Whether one of the secrets has signed this claim; takes as long for any wrong signature.
    pub fn verify(&self, job_id: i64, worker_id: &str, claim: &CallbackClaim) -> bool {
        let (Some(epoch), Some(signature)) = (claim.epoch, &claim.signature) else { return false };
        let verifies = |key| signed(key, job_id, worker_id, epoch, claim.after_failure).verify_slice(signature).is_ok();
        self.keys.iter().filter(|key| verifies(key)).count() > 0
    }
}

fn signed(key: &Hmac<Sha256>, job_id: i64, worker_id: &str, epoch: i64, after: AfterFailure) -> Hmac<Sha256> {
    let mut mac = key.clone();
    mac.update(&job_id.to_be_bytes());
    mac.update(&epoch.to_be_bytes());
    mac.update(worker_id.as_bytes());
    // No worker id has a NUL in it, so none of these texts is part of one.
    match after {
        AfterFailure::Usual => {}
        AfterFailure::Retry(wait) => {
            mac.update(b"\0retry_ms=");
            mac.update(&milliseconds(wait).to_be_bytes());
        }
        AfterFailure::Last => mac.update(b"\0last"),
    }
    mac
}

/// A wait as it stands in a URL.
fn milliseconds(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}

/// A short name for a text that is not to be shown: the same for the same text, on any machine.
///
/// ```
/// use job_utils::wire::signature::fingerprint;
/// assert_eq!(fingerprint("postgres:5432/shop"), "8d9707ca094e1308");
/// ```
pub fn fingerprint(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Writes callback URLs.
#[derive(Debug, Clone)]
pub struct CallbackUrls {
    /// Up to the epoch's number.
    prefix: String,
    secrets: Option<CallbackSecrets>,
}

impl CallbackUrls {
    /// `url` may have a query of its own.
    pub fn new(url: &url::Url, secrets: Option<CallbackSecrets>) -> Self {
        let mut url = url.clone();
        url.set_fragment(None);
        let separator = if url.query().is_some() { '&' } else { '?' };
        Self { prefix: format!("{url}{separator}{EPOCH}="), secrets }
    }

    /// The URL for `X-Callback-Url` of one claim, and of what follows when the attempt fails.
    ///
    /// ```
    /// use job_utils::outcome::AfterFailure;
    /// use job_utils::wire::signature::CallbackUrls;
    /// let urls = CallbackUrls::new(&"http://jobs:8080/callback".parse().unwrap(), None);
    /// assert_eq!(urls.of(42, "worker-0", 7, AfterFailure::Usual), "http://jobs:8080/callback?epoch=7");
    /// assert_eq!(urls.of(42, "worker-0", 7, AfterFailure::Last), "http://jobs:8080/callback?epoch=7&last=1");
    /// ```
    pub fn of(&self, job_id: i64, worker_id: &str, epoch: i64, after: AfterFailure) -> String {
        let mut url = String::with_capacity(self.prefix.len() + 60 + SIGNATURE.len() + 2 + 2 * LENGTH);
        url.push_str(&self.prefix);
        url.push_str(&epoch.to_string());
        let mut push = |name: &str, value: &str| {
            for part in ["&", name, "=", value] {
                url.push_str(part);
            }
        };
        match after {
            AfterFailure::Usual => {}
            AfterFailure::Retry(wait) => push(RETRY_MS, &milliseconds(wait).to_string()),
            AfterFailure::Last => push(LAST, "1"),
        }
        if let Some(signature) = self.secrets.as_ref().and_then(|secrets| secrets.sign(job_id, worker_id, epoch, after))
        {
            push(SIGNATURE, &hex(&signature));
        }
        url
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits = |byte: &u8| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
    bytes.iter().flat_map(digits).map(char::from).collect()
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// What a callback's query says of the claim it is for.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct CallbackClaim {
    /// None: the callback does not say, as under the original's worker.
    pub epoch: Option<i64>,
    /// What follows when the attempt has failed, by the worker's policy; the usual where the query says nothing.
    pub after_failure: AfterFailure,
    signature: Option<Vec<u8>>,
}

/// Without the signature, which is as good as a password.
impl std::fmt::Debug for CallbackClaim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallbackClaim")
            .field("epoch", &self.epoch)
            .field("after_failure", &self.after_failure)
            .finish_non_exhaustive()
    }
}

/// An epoch that no worker gave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("epoch in the query is not a decimal number: post to X-Callback-Url as it is")]
pub struct BadEpoch;

impl CallbackClaim {
    /// Reads the query of a callback. What is none of our values counts as absent, but for the epoch: a callback URL
    /// may have a query of its own. So does a path behind a value: functions made from the original's Python template
    /// append `/callback` to the whole URL.
    ///
    /// # Errors
    /// The epoch is not a number.
    pub fn read(query: &str) -> Result<Self, BadEpoch> {
        let mut claim = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let value = without_appended_path(&value);
            match &*name {
                EPOCH => {
                    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
                    claim.epoch = Some(digits.then(|| value.parse().ok()).flatten().ok_or(BadEpoch)?);
                }
                LAST if value == "1" => claim.after_failure = AfterFailure::Last,
                RETRY_MS if claim.after_failure != AfterFailure::Last => {
                    let wait = value.parse().ok().map(Duration::from_millis);
                    claim.after_failure = wait.map(AfterFailure::Retry).unwrap_or_default();
                }
                SIGNATURE => claim.signature = unhex(value),
                _ => {}
            }
        }
        Ok(claim)
    }
}

/// A value without the `/callback` that was appended to it, however often.
fn without_appended_path(value: &str) -> &str {
    let mut value = value.trim_end_matches('/');
    while let Some((before, path)) = value.len().checked_sub(PATH.len()).and_then(|at| value.split_at_checked(at))
        && path.eq_ignore_ascii_case(PATH)
    {
        value = before.trim_end_matches('/');
    }
    value
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() || pairs.len() != LENGTH {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(list: &str) -> Option<CallbackSecrets> {
        CallbackSecrets::parse(&Secret::new(list))
    }

    const USUAL: AfterFailure = AfterFailure::Usual;

    fn claim(url: &str) -> CallbackClaim {
        CallbackClaim::read(url.split_once('?').unwrap().1).unwrap()
    }

    #[test]
    fn a_signature_holds_for_its_job_worker_and_epoch_alone() {
        let signing = secrets("old").unwrap();
        let urls = CallbackUrls::new(&"http://jobs/callback?tenant=a".parse().unwrap(), Some(signing.clone()));
        let url = urls.of(42, "worker-0", 7, USUAL);
        assert!(url.starts_with("http://jobs/callback?tenant=a&epoch=7&signature="), "{url}");
        let given = claim(&url);
        assert!(signing.verify(42, "worker-0", &given));
        assert!(!signing.verify(43, "worker-0", &given));
        assert!(!signing.verify(42, "worker-1", &given));
        assert!(!signing.verify(42, "worker-0", &CallbackClaim { epoch: Some(8), ..given.clone() }));
        assert!(!signing.verify(42, "worker-0", &CallbackClaim { epoch: None, ..given.clone() }));
        assert!(!signing.verify(42, "worker-0", &claim("?epoch=7")));
        assert!(!secrets("new").unwrap().verify(42, "worker-0", &given));
        // While the secret is replaced, both are known.
        assert!(secrets("new, old").unwrap().verify(42, "worker-0", &given));
        let new = CallbackUrls::new(&"http://jobs".parse().unwrap(), secrets("new,old"));
        assert_ne!(new.of(42, "worker-0", 7, USUAL), url);
    }

    #[test]
    fn what_follows_a_failure_is_signed_and_can_be_neither_changed_nor_left_out_nor_added() {
        let signing = secrets("secret").unwrap();
        let urls = CallbackUrls::new(&"http://jobs/callback".parse().unwrap(), Some(signing.clone()));
        let verifies = |url: &str| signing.verify(42, "worker-0", &claim(url));
        let retry = |ms| AfterFailure::Retry(Duration::from_millis(ms));
        for (after, parameter, others) in [
            (USUAL, "", ["&last=1", "&retry_ms=1"]),
            (AfterFailure::Last, "&last=1", ["", "&retry_ms=0"]),
            (retry(1500), "&retry_ms=1500", ["", "&retry_ms=1501"]),
            (retry(0), "&retry_ms=0", ["", "&last=1"]),
            (AfterFailure::Retry(Duration::MAX), "&retry_ms=18446744073709551615", ["", "&retry_ms=1"]),
        ] {
            let url = urls.of(42, "worker-0", 7, after);
            let as_given = format!("epoch=7{parameter}&signature=");
            assert!(url.contains(&as_given) && verifies(&url), "{url}");
            assert!(verifies(&format!("{url}/callback")), "{url}");
            for other in others {
                let changed = url.replace(&as_given, &format!("epoch=7{other}&signature="));
                assert!(!verifies(&changed), "{changed}");
            }
            for added in ["&last=1", "&retry_ms=2"].iter().filter(|_| after != AfterFailure::Last) {
                assert!(!verifies(&format!("{url}{added}")), "{url}{added}");
            }
        }
    }

    #[test]
    fn what_follows_a_failure_is_read_with_a_path_behind_it_and_other_values_are_none() {
        let read = |query: &str| CallbackClaim::read(query).unwrap().after_failure;
        let second = AfterFailure::Retry(Duration::from_secs(1));
        for (query, after) in [
            ("epoch=7&last=1/callback", AfterFailure::Last),
            ("epoch=7&last=1&retry_ms=1000", AfterFailure::Last),
            ("epoch=7&retry_ms=1000&last=1", AfterFailure::Last),
            ("epoch=7&retry_ms=1000/callback/", second),
            ("last=now&epoch=7", USUAL),
            ("epoch=7&last=0&retry_ms=", USUAL),
            ("epoch=7&retry_ms=-1", USUAL),
            ("epoch=7&retry_ms=18446744073709551616", USUAL),
        ] {
            assert_eq!(read(query), after, "{query}");
        }
    }

    #[test]
    fn a_query_is_read_whatever_is_in_it() {
        assert_eq!(CallbackClaim::read(""), Ok(CallbackClaim::default()));
        assert_eq!(CallbackClaim::read("a=b&epoch=9223372036854775807&x").unwrap().epoch, Some(i64::MAX));
        for bad in ["epoch=", "epoch=-1", "epoch=9223372036854775808", "epoch=1x", "epoch=%31+"] {
            assert_eq!(CallbackClaim::read(bad), Err(BadEpoch), "{bad}");
        }
        let zeros = "0".repeat(64);
        for bad in ["signature=", "signature=zz", &format!("signature={zeros}0"), &format!("signature=é{zeros}")] {
            assert_eq!(CallbackClaim::read(bad).unwrap().signature, None, "{bad}");
        }
        assert_eq!(CallbackClaim::read(&format!("signature={zeros}")).unwrap().signature, Some(vec![0; 32]));
    }

    #[test]
    fn a_path_that_was_appended_to_the_whole_url_is_not_read() {
        let signing = secrets("secret").unwrap();
        let url = CallbackUrls::new(&"http://jobs/callback".parse().unwrap(), Some(signing.clone()));
        let url = url.of(42, "worker-0", 7, USUAL);
        for appended in ["/callback", "/callback/", "/Callback", "%2Fcallback", "/callback/callback"] {
            assert!(signing.verify(42, "worker-0", &claim(&format!("{url}{appended}"))), "{appended}");
            assert_eq!(claim(&format!("?epoch=7{appended}")).epoch, Some(7), "{appended}");
        }
        for bad in ["epoch=7/other", "epoch=7callback", "epoch=/callback", "epoch=7/callback/8"] {
            assert_eq!(CallbackClaim::read(bad), Err(BadEpoch), "{bad}");
        }
    }

    #[test]
    fn nothing_shows_a_secret_or_a_signature() {
        let secrets = secrets("hunter2").unwrap();
        let url = CallbackUrls::new(&"http://jobs".parse().unwrap(), Some(secrets.clone()));
        let url = url.of(1, "worker-0", 2, USUAL);
        let shown = format!("{secrets:?} {:?}", claim(&url));
        assert_eq!(shown, "CallbackSecrets(1) CallbackClaim { epoch: Some(2), after_failure: Usual, .. }");
    }

    #[test]
    fn secrets_are_counted_and_measured() {
        assert!(secrets(" , ").is_none());
        let two = secrets("a, 0123456789abcdef").unwrap();
        assert_eq!((two.count(), two.is_short()), (2, true));
        assert!(!secrets("0123456789abcdef").unwrap().is_short());
    }
}
