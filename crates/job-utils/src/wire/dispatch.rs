//! The dispatch: a worker's POST of a job's payload to a function, and what the answer means.
//!
//! | answer | meaning |
//! |---|---|
//! | 2xx with `{"complete": true, …}` | [`Answer::Complete`] |
//! | `X-Job-Error: true`, or a status that is not 2xx | [`Answer::Fail`] |
//! | any other 2xx | [`Answer::Accept`]: a callback will say how the job ended |

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::Value;
use url::Url;

use crate::wire::callback::{error_of, storable};

/// Characters that would end or change a path. `:` stays readable; `%` and `\` are here because URL parsers read
/// `%2e` as a dot and `\` as a slash.
const SEGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');
const WHOLE: &AsciiSet = &SEGMENT.add(b'/');

/// How much of an unexpected body goes into `last_error`, in characters.
const EXCERPT: usize = 300;

/// A task identifier that no URL path can carry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the task identifier {0:?} cannot be a URL path: rename the task or give it a URL in INTERNAL_GATEWAY_DEVELOPMENT_MAP"
)]
pub struct NoPath(pub String);

/// The URL of a task's function: the gateway, one slash, the task identifier. The identifier cannot leave its path:
/// `?`, `#`, `%` and `\` are encoded, and so are its slashes unless it is a plain relative path.
///
/// ```
/// use job_utils::wire::dispatch::function_url;
/// let gateway = "http://gateway:8080/".parse().unwrap();
/// let url = |task| function_url(&gateway, task).map(String::from);
/// assert_eq!(url("email:send_verification_link").unwrap(), "http://gateway:8080/email:send_verification_link");
/// assert_eq!(url("../x").unwrap(), "http://gateway:8080/..%2Fx");
/// assert_eq!(url("//evil/").unwrap(), "http://gateway:8080/%2F%2Fevil%2F");
/// assert!(url("..").is_err());
/// ```
pub fn function_url(gateway: &Url, task: &str) -> Result<Url, NoPath> {
    let plain = task.split('/').all(|segment| !matches!(segment, "" | "." | ".."));
    // A lone dot segment is resolved by URL parsers however it is encoded.
    if matches!(task, "" | "." | "..") {
        return Err(NoPath(task.to_owned()));
    }
    let encoded = utf8_percent_encode(task, if plain { SEGMENT } else { WHOLE }).to_string();
    let base = gateway.path().trim_end_matches('/');
    let mut url = gateway.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.set_path(&format!("{base}/{encoded}"));
    Ok(url)
}

/// What a function's answer means for the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Complete,
    /// The attempt failed, with this message for `last_error`.
    Fail(String),
    /// The function will call back.
    Accept,
}

/// Reads an answer: its status, whether `X-Job-Error` is `true`, and the (possibly cut) body. With
/// `complete_on_2xx` every 2xx but 202 is a completion, for plain functions that never call back.
pub fn read_answer(status: u16, job_error: bool, body: &[u8], complete_on_2xx: bool) -> Answer {
    let success = (200..300).contains(&status);
    if success && !job_error {
        if complete_on_2xx && status != 202 {
            return Answer::Complete;
        }
        let complete = json(body).is_some_and(|value| value.get("complete") == Some(&Value::Bool(true)));
        return if complete { Answer::Complete } else { Answer::Accept };
    }
    if let Some(message) = json(body).as_ref().and_then(error_of) {
        return Answer::Fail(message);
    }
    let text = String::from_utf8_lossy(body);
    let excerpt: String = text.trim().chars().take(EXCERPT).collect();
    let separator = if excerpt.is_empty() { "" } else { ": " };
    Answer::Fail(storable(&format!("HTTP {status}{separator}{excerpt}")))
}

/// Parses only what looks like an object: most answers of functions that call back are short texts.
fn json(body: &[u8]) -> Option<Value> {
    body.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(body).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_identifier_stays_in_its_own_path() {
        let gateway: Url = "http://gateway:8080/base/".parse().unwrap();
        for (task, path) in [
            ("send", "/base/send"),
            ("a/b", "/base/a/b"),
            ("a?b", "/base/a%3Fb"),
            ("a#b", "/base/a%23b"),
            ("../x", "/base/..%2Fx"),
            ("a/../x", "/base/a%2F..%2Fx"),
            ("%2e%2e", "/base/%252e%252e"),
            ("%2e%2e/x", "/base/%252e%252e/x"),
            ("..\\x", "/base/..%5Cx"),
            ("//evil/", "/base/%2F%2Fevil%2F"),
            ("http://evil/", "/base/http:%2F%2Fevil%2F"),
            ("größe", "/base/gr%C3%B6%C3%9Fe"),
            ("@evil", "/base/@evil"),
            ("a\nb", "/base/a%0Ab"),
        ] {
            let url = function_url(&gateway, task).unwrap();
            assert_eq!((url.path(), url.host_str(), url.query()), (path, Some("gateway"), None), "{task}");
        }
        assert_eq!(function_url(&gateway, ".."), Err(NoPath("..".into())));
    }

    #[test]
    fn answers_mean_what_the_contract_says() {
        let read = |status, error, body: &str| read_answer(status, error, body.as_bytes(), false);
        assert_eq!(read(200, false, r#"{"complete": true, "id": 1}"#), Answer::Complete);
        assert_eq!(read(200, false, r#"{"complete": "true"}"#), Answer::Accept);
        assert_eq!(read(204, false, ""), Answer::Accept);
        assert_eq!(read(200, true, r#"{"message": "boom"}"#), Answer::Fail("boom".into()));
        assert_eq!(read(200, true, r#"{"complete": true}"#), Answer::Fail("HTTP 200: {\"complete\": true}".into()));
        assert_eq!(read(400, false, r#"{"error": "Missing"}"#), Answer::Fail("Missing".into()));
        assert_eq!(read(500, false, ""), Answer::Fail("HTTP 500".into()));
        assert_eq!(read(302, false, "moved"), Answer::Fail("HTTP 302: moved".into()));
        assert_eq!(read_answer(200, false, b"ok", true), Answer::Complete);
        assert_eq!(read_answer(202, false, b"ok", true), Answer::Accept);
    }
}
