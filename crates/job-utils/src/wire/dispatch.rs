//! The dispatch: a worker's POST of a job's payload to a function, and what the answer means.
//!
//! | answer | meaning |
//! |---|---|
//! | 2xx with `{"complete": true, …}` | [`Answer::Complete`] |
//! | 429 or 503 with `Retry-After` | [`Answer::Postpone`] |
//! | `X-Job-Error: true`, or any other status that is not 2xx | [`Answer::Fail`] |
//! | any other 2xx | [`Answer::Accept`]: a callback will say how the job ended |

use std::time::{Duration, SystemTime};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use url::Url;

use crate::wire::body::Body;
use crate::wire::callback::storable;

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

/// The shortest wait that `Retry-After` brings about: an answer of 0 must not make a job run in circles.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// The longest wait that `Retry-After` brings about. What asks for more is more likely broken than busy.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

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
    /// The function is not ready for the job and says when to ask again.
    Postpone {
        /// For `last_error`.
        message: String,
        /// How long to wait.
        after: Duration,
        /// Whether the attempt is used up.
        counts: bool,
    },
    /// The function will call back.
    Accept,
}

/// An answer as it was received.
#[derive(Debug, Clone, Copy, Default)]
pub struct Received<'a> {
    /// Its status.
    pub status: u16,
    /// Whether `X-Job-Error` is `true`.
    pub job_error: bool,
    /// What its `Retry-After` asks for, as [`retry_after`] reads it.
    pub retry_after: Option<Duration>,
    /// Its body, or the beginning of it.
    pub body: &'a [u8],
    /// Whether the body is longer than that.
    pub cut: bool,
}

/// Reads an answer. With `complete_on_2xx` every 2xx but 202 is a completion, for plain functions that never call back.
///
/// A wait that the answer asks for is kept to when the status is 429 or 503. A 503 uses up the attempt: something is out
/// of order, and that has to end some day. A 429 does not: the function works, and the job was never looked at. Without a
/// usable `Retry-After` both are ordinary failures, the 429 as well. If it did not count, nothing would tell when to ask
/// again or when to stop: e^attempts seconds between attempts only grow with the attempts, and a function that is
/// overloaded would be asked every few seconds for ever. The usual 25 attempts last four days.
pub fn read_answer(answer: &Received<'_>, complete_on_2xx: bool) -> Answer {
    let Received { status, job_error, retry_after, body, cut } = *answer;
    let success = (200..300).contains(&status);
    if success && !job_error {
        let complete = (complete_on_2xx && status != 202) || says_complete(body, cut);
        return if complete { Answer::Complete } else { Answer::Accept };
    }
    let message = json(body).and_then(Body::failure).unwrap_or_else(|| {
        let text = String::from_utf8_lossy(body);
        let excerpt: String = text.trim().chars().take(EXCERPT).collect();
        let separator = if excerpt.is_empty() { "" } else { ": " };
        storable(&format!("HTTP {status}{separator}{excerpt}"))
    });
    match (status, retry_after) {
        (429 | 503, Some(after)) => Answer::Postpone { message, after, counts: status != 429 },
        _ => Answer::Fail(message),
    }
}

/// How long an answer's `Retry-After` asks to wait: a number of seconds, or an HTTP date. A date is counted from the
/// answer's own `Date`, so that clocks that differ do no harm, and from `now` when there is none. At least a second, at
/// most a day; None when it is neither.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use job_utils::wire::dispatch::retry_after;
/// let now = SystemTime::now();
/// assert_eq!(retry_after("120", None, now), Some(Duration::from_secs(120)));
/// let (date, until) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:50:07 GMT");
/// assert_eq!(retry_after(until, Some(date), now), Some(Duration::from_secs(30)));
/// assert_eq!(retry_after("soon", None, now), None);
/// ```
pub fn retry_after(value: &str, date: Option<&str>, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let asked = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // What is too large for a number is longer than the longest wait.
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        let from = date.and_then(|date| httpdate::parse_http_date(date.trim()).ok()).unwrap_or(now);
        httpdate::parse_http_date(value).ok()?.duration_since(from).unwrap_or_default()
    };
    Some(asked.clamp(SHORTEST_WAIT, LONGEST_WAIT))
}

/// Whether a body is an object with `"complete": true`. Of a body that is cut, only the beginning can say so.
fn says_complete(body: &[u8], cut: bool) -> bool {
    if cut { Body::beginning(body).complete } else { json(body).is_some_and(|body| body.complete) }
}

/// Parses only what looks like an object: most answers of functions that call back are short texts.
fn json(body: &[u8]) -> Option<Body> {
    body.trim_ascii_start().starts_with(b"{").then(|| Body::parse(body).ok()).flatten()
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
        let read = |status, job_error, body: &str| read_answer(&received(status, job_error, body), false);
        assert_eq!(read(200, false, r#"{"complete": true, "id": 1}"#), Answer::Complete);
        assert_eq!(read(200, false, r#"{"complete": "true"}"#), Answer::Accept);
        assert_eq!(read(204, false, ""), Answer::Accept);
        assert_eq!(read(200, true, r#"{"message": "boom"}"#), Answer::Fail("boom".into()));
        assert_eq!(read(200, true, r#"{"complete": true}"#), Answer::Fail("HTTP 200: {\"complete\": true}".into()));
        assert_eq!(read(400, false, r#"{"error": "Missing"}"#), Answer::Fail("Missing".into()));
        assert_eq!(read(500, false, ""), Answer::Fail("HTTP 500".into()));
        assert_eq!(read(302, false, "moved"), Answer::Fail("HTTP 302: moved".into()));
        assert_eq!(read_answer(&received(200, false, "ok"), true), Answer::Complete);
        assert_eq!(read_answer(&received(202, false, "ok"), true), Answer::Accept);
    }

    fn received(status: u16, job_error: bool, body: &str) -> Received<'_> {
        Received { status, job_error, body: body.as_bytes(), ..Received::default() }
    }

    #[test]
    fn a_429_or_503_that_says_when_to_ask_again_postpones_the_job() {
        let wait = Duration::from_secs(7);
        let read =
            |status, body| read_answer(&Received { retry_after: Some(wait), ..received(status, false, body) }, true);
        let postpone = |message: &str, counts| Answer::Postpone { message: message.into(), after: wait, counts };
        assert_eq!(read(429, "slow down"), postpone("HTTP 429: slow down", false));
        assert_eq!(read(503, r#"{"error": "restarting"}"#), postpone("restarting", true));
        // Without a wait they are failures like any other; a wait alone means nothing.
        assert_eq!(read_answer(&received(429, false, ""), true), Answer::Fail("HTTP 429".into()));
        assert_eq!(read_answer(&received(503, false, ""), true), Answer::Fail("HTTP 503".into()));
        assert_eq!(read(500, ""), Answer::Fail("HTTP 500".into()));
        assert_eq!(read(302, ""), Answer::Fail("HTTP 302".into()));
        assert_eq!(read(202, ""), Answer::Accept);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_between_a_second_and_a_day() {
        // 1994-11-06 08:49:37
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let wait = |value| retry_after(value, None, now).map(|wait| wait.as_secs());
        for (value, seconds) in [
            ("1", 1),
            (" 120 ", 120),
            ("007", 7),
            ("0", 1),
            ("86400", 86400),
            ("86401", 86400),
            ("99999999999999999999999999", 86400),
            ("Sun, 06 Nov 1994 08:51:37 GMT", 120),
            // The two older forms.
            ("Sunday, 06-Nov-94 08:51:37 GMT", 120),
            ("Sun Nov  6 08:51:37 1994", 120),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 1),
            ("Sat, 05 Nov 1994 08:49:37 GMT", 1),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 86400),
        ] {
            assert_eq!(wait(value), Some(seconds), "{value}");
        }
        for bad in ["", " ", "soon", "-1", "+1", "1.5", "1s", "1, 2", "Sun, 06 Nov 1994", "1994-11-06T08:49:37Z", "١"]
        {
            assert_eq!(wait(bad), None, "{bad}");
        }
        // The function's clock is an hour ahead, or tells nothing.
        let by = |date| retry_after("Sun, 06 Nov 1994 09:50:07 GMT", Some(date), now).map(|wait| wait.as_secs());
        assert_eq!(by("Sun, 06 Nov 1994 09:49:37 GMT"), Some(30));
        assert_eq!(by("today"), Some(3630));
    }

    #[test]
    fn of_a_body_that_is_cut_the_beginning_counts() {
        let read =
            |status, body: &'static str, cut| read_answer(&Received { cut, ..received(status, false, body) }, false);
        let rows = r#"{"id": 1, "complete": true, "rows": [1, 2, "#;
        assert_eq!(read(200, rows, true), Answer::Complete);
        assert_eq!(read(200, rows, false), Answer::Accept, "all there is, and broken");
        // Half a surrogate pair in a name, and a cut in the middle of a character.
        assert_eq!(read(200, r#"{"\ud83d": 1, "complete": true, "x"#, true), Answer::Complete);
        let halved = b"{\"complete\": true, \"\xc3";
        assert_eq!(
            read_answer(&Received { cut: true, body: halved, ..received(200, false, "") }, false),
            Answer::Complete
        );
        for body in [
            r#"{"rows": [{"complete": true}, "#,
            r#"{"complete": true, "complete": false, "x"#,
            r#"{"complete": tru"#,
            r#"{"complete": "true", "#,
            r#"[{"complete": true}, "#,
            "xxx",
            "",
        ] {
            assert_eq!(read(200, body, true), Answer::Accept, "{body}");
        }
        assert_eq!(read(500, r#"{"error": "a", "#, true), Answer::Fail(r#"HTTP 500: {"error": "a","#.into()));
    }
}
