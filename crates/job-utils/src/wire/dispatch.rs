//! The dispatch: a worker's POST of a job's payload to a function, and what the answer means.
//!
//! | answer | meaning |
//! |---|---|
//! | 2xx with `{"complete": true, …}` | [`Outcome::Complete`] |
//! | a failure, and `X-Job-Retry: false` or `{"error": …, "retry": false}` | [`Outcome::Discard`] |
//! | 429 with `Retry-After` | [`Outcome::Snooze`] for so long |
//! | 503 with `Retry-After` | [`Outcome::Retry`] after so long at least |
//! | `X-Job-Error: true`, or any other status that is not 2xx | [`Outcome::Retry`] |
//! | 2xx but 202 with a body that cannot be decoded | [`Outcome::Retry`] |
//! | any other 2xx | [`Answer::Accepted`]: a callback will say how the job ended |

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{DATE, HeaderName, LOCATION, RETRY_AFTER};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use url::Url;

use crate::http_url::shown;
use crate::outcome::{Outcome, storable};
use crate::wire::body::Body;
use crate::wire::encoding::{Coding, Decoded, Undecodable, decode, text};
use crate::wire::headers::{X_JOB_ERROR, X_JOB_ID, X_JOB_RETRY, flag};

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

/// How much of a body is looked at, in bytes, once it is decoded; more than any answer that means something.
const DECODED: usize = 1 << 20;

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
    /// The function has the job, and will call back.
    Accepted,
    /// The attempt has ended. The wait of an [`Outcome::Retry`] is the least that the function asks for: whoever knows
    /// the task's retry policy makes it longer where that says so.
    Ended(Outcome),
}

/// An answer as it was received, its body without its encoding.
#[derive(Debug, Clone)]
pub struct Received<'a> {
    status: u16,
    headers: &'a HeaderMap,
    body: Result<Decoded<'a>, Undecodable>,
}

impl<'a> Received<'a> {
    /// An answer with this body, of which the rest may be missing: then it is `cut`.
    pub fn new(status: u16, headers: &'a HeaderMap, body: &'a [u8], cut: bool) -> Self {
        let body = Coding::of(headers).and_then(|coding| decode(body, cut, coding, DECODED));
        Self { status, headers, body }
    }

    /// The HTTP status, 100 to 999.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether only the beginning of the body is there to be read.
    pub fn is_cut(&self) -> bool {
        self.body.as_ref().is_ok_and(|body| body.cut)
    }

    /// Whether the function names the job in its answer, as those do that know the contract and call back.
    pub fn names_job(&self) -> bool {
        self.headers.contains_key(X_JOB_ID)
    }

    /// What went wrong, where the body does not say it: the status and the beginning of the body, and what was asked.
    fn described(&self, url: &Url, problem: &str) -> String {
        let separator = if problem.is_empty() { "" } else { ": " };
        let target = match self.headers.get(LOCATION).filter(|_| (300..400).contains(&self.status)) {
            // It may be relative. What is in its query may be secret.
            Some(location) => match location.to_str().ok().and_then(|location| url.join(location).ok()) {
                Some(location) => format!(", Location: {}; redirects are not followed", shown(&location)),
                None => ", with a Location that is no URL".to_owned(),
            },
            None => String::new(),
        };
        format!("HTTP {}{separator}{problem} (POST {}{target})", self.status, shown(url))
    }
}

/// Reads the answer to a POST to `url`. With `complete_on_2xx` every 2xx but 202 is a completion, for plain functions
/// that never call back.
///
/// A body that is encoded in a way that is not understood may say anything, so a success with such a body is a failure.
/// Only where the status says it all, with 202 or `complete_on_2xx`, nothing depends on the body.
///
/// A wait that the answer asks for is kept to when the status is 429 or 503. A 503 uses up the attempt: something is
/// out of order, and that has to end some day. A 429 does not: the function works, and the job was never looked at.
/// Without a usable `Retry-After` both are ordinary failures, the 429 as well. If it did not count, nothing would tell
/// when to ask again or when to stop: e^attempts seconds between attempts only grow with the attempts, and a function
/// that is overloaded would be asked every few seconds for ever. The usual 25 attempts last four days.
pub fn read_answer(answer: &Received<'_>, url: &Url, complete_on_2xx: bool, now: SystemTime) -> Answer {
    let Received { status, headers, body, .. } = answer;
    let (text, said) = match body {
        Ok(body) => {
            let text = text(&body.bytes);
            let said = said(&text, body.cut);
            (Ok(text), said)
        }
        Err(error) => (Err(error), Body::default()),
    };
    let no_retry = said.no_retry || flag(headers, X_JOB_RETRY) == Some(false);
    let success = (200..300).contains(status) && flag(headers, X_JOB_ERROR) != Some(true);
    // Who says that another attempt would fail means that this one did.
    if success && !(no_retry && !said.complete && said.has_failed()) {
        return match text {
            _ if said.complete || (complete_on_2xx && *status != 202) => Answer::Ended(Outcome::Complete),
            Err(error) if *status != 202 => {
                let error = storable(&answer.described(url, &error.to_string()));
                Answer::Ended(Outcome::Retry { error, after: None })
            }
            _ => Answer::Accepted,
        };
    }
    // A body that is cut is not known to be what it looks like.
    let error = if answer.is_cut() { None } else { said.failure() }.unwrap_or_else(|| {
        let problem = match text {
            Ok(text) => text.trim().chars().take(EXCERPT).collect(),
            Err(error) => error.to_string(),
        };
        storable(&answer.described(url, &problem))
    });
    Answer::Ended(match (status, asked_wait(headers, now)) {
        _ if no_retry => Outcome::Discard { error },
        (429, Some(after)) => Outcome::Snooze { after, error: Some(error) },
        (503, after) => Outcome::Retry { error, after },
        _ => Outcome::Retry { error, after: None },
    })
}

/// How long an answer asks to wait.
fn asked_wait(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    retry_after(text(RETRY_AFTER)?, text(DATE), now)
}

/// What a body says. Of one that is cut, only the beginning can say something; most answers of functions that call back
/// are short texts, and are not looked into.
fn said(text: &str, cut: bool) -> Body {
    match text.trim_ascii_start().starts_with('{') {
        true if cut => Body::beginning(text.as_bytes()),
        true => Body::parse(text.as_bytes()).unwrap_or_default(),
        false => Body::default(),
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

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    /// An answer of a task at http://fn/task, and whether its status completes.
    fn answer(status: u16, pairs: &[(&'static str, &'static str)], body: &[u8], complete_on_2xx: bool) -> Answer {
        let url = "http://user:password@fn/task?token=secret".parse().unwrap();
        let headers = headers(pairs);
        read_answer(&Received::new(status, &headers, body, false), &url, complete_on_2xx, SystemTime::now())
    }

    fn plain(status: u16, body: &str) -> Answer {
        answer(status, &[], body.as_bytes(), false)
    }

    const DONE: Answer = Answer::Ended(Outcome::Complete);

    fn fail(error: &str) -> Answer {
        Answer::Ended(Outcome::retry(error))
    }

    #[test]
    fn answers_mean_what_the_contract_says() {
        let thrown = |body: &str| answer(200, &[("x-job-error", "true")], body.as_bytes(), false);
        assert_eq!(plain(200, r#"{"complete": true, "id": 1}"#), DONE);
        assert_eq!(plain(200, r#"{"complete": "true"}"#), Answer::Accepted);
        assert_eq!(plain(204, ""), Answer::Accepted);
        assert_eq!(thrown(r#"{"message": "boom"}"#), fail("boom"));
        assert_eq!(thrown(r#"{"complete": true}"#), fail(r#"HTTP 200: {"complete": true} (POST http://fn/task)"#));
        assert_eq!(plain(400, r#"{"error": "Missing"}"#), fail("Missing"));
        assert_eq!(plain(500, ""), fail("HTTP 500 (POST http://fn/task)"));
        assert_eq!(answer(200, &[], b"ok", true), DONE);
        assert_eq!(answer(202, &[], b"ok", true), Answer::Accepted);
    }

    #[test]
    fn a_redirect_names_where_it_leads() {
        let redirect = |location| answer(302, &[("location", location)], b"moved", false);
        let told = |place: &str| fail(&format!("HTTP 302: moved (POST http://fn/task, {place})"));
        let to = |place: &str| told(&format!("Location: {place}; redirects are not followed"));
        assert_eq!(redirect("https://user:pw@other/task/?token=secret#x"), to("https://other/task/"));
        assert_eq!(redirect("/login"), to("http://fn/login"));
        assert_eq!(redirect("http://[/"), told("with a Location that is no URL"));
        assert_eq!(answer(500, &[("location", "/x")], b"", false), plain(500, ""));
    }

    #[test]
    fn an_answer_is_understood_however_it_is_encoded_and_is_no_acceptance_when_it_is_not() {
        const BODY: &[u8] = br#"{"complete": true}"#;
        let gzip = {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            std::io::Write::write_all(&mut encoder, BODY).unwrap();
            encoder.finish().unwrap()
        };
        let encoded =
            |status, coding: &'static str, body: &[u8]| answer(status, &[("content-encoding", coding)], body, false);
        assert_eq!(answer(200, &[], &[b"\xef\xbb\xbf", BODY].concat(), false), DONE);
        assert_eq!(answer(200, &[], b"{\"complete\": true, \"name\": \"Jos\xe9\"}", false), DONE);
        assert_eq!(encoded(200, "gzip", &gzip), DONE);
        assert_eq!(encoded(200, "gzip", b""), Answer::Accepted);
        assert_eq!(encoded(500, "gzip", &gzip), fail(r#"HTTP 500: {"complete": true} (POST http://fn/task)"#));
        let unread = |status, coding, body: &[u8], told: &str| match encoded(status, coding, body) {
            Answer::Ended(Outcome::Retry { error, after: None }) => {
                assert!(error.starts_with(told) && error.ends_with("fn/task)"), "{error}");
            }
            other => panic!("{coding}: {other:?}"),
        };
        unread(200, "br", BODY, "HTTP 200: its Content-Encoding is \"br\"; identity, gzip and deflate are understood");
        unread(200, "gzip", &gzip[..gzip.len() - 1], "HTTP 200: its Content-Encoding is gzip, and it is broken: ");
        unread(200, "gzip", BODY, "HTTP 200: its Content-Encoding is gzip, and it is broken: ");
        unread(204, "zstd", b"x", "HTTP 204: its Content-Encoding is \"zstd\"");
        unread(500, "br", BODY, "HTTP 500: its Content-Encoding is \"br\"");
        // The status says all that matters.
        assert_eq!(encoded(202, "br", BODY), Answer::Accepted);
        assert_eq!(answer(200, &[("content-encoding", "br")], BODY, true), DONE);
    }

    #[test]
    fn a_function_can_say_that_trying_again_is_useless() {
        let last = |error: &str| Answer::Ended(Outcome::discard(error));
        let header = |status, value: &'static str, body: &[u8]| answer(status, &[("x-job-retry", value)], body, false);
        assert_eq!(plain(400, r#"{"error": "no such user", "retry": false}"#), last("no such user"));
        assert_eq!(plain(200, r#"{"error": "no such user", "retry": false}"#), last("no such user"));
        assert_eq!(header(422, "False", b"bad"), last("HTTP 422: bad (POST http://fn/task)"));
        assert_eq!(header(500, "0", br#"{"message": "gone"}"#), last("gone"));
        let both = [("x-job-error", "true"), ("x-job-retry", "false"), ("retry-after", "5")];
        assert_eq!(answer(503, &both, br#"{"error": "gone"}"#, false), last("gone"));
        assert_eq!(answer(200, &[], br#"{"error": "gone", "retry": false}"#, true), last("gone"));
        // Everything else says nothing of the kind.
        for body in [r#"{"error": "a", "retry": true}"#, r#"{"error": "a", "retry": null}"#, r#"{"error": "a"}"#] {
            assert_eq!(plain(500, body), fail("a"), "{body}");
            assert_eq!(plain(200, body), Answer::Accepted, "{body}");
        }
        assert_eq!(header(500, "", br#"{"error": "a"}"#), fail("a"));
        assert_eq!(header(200, "false", b"{}"), Answer::Accepted);
        assert_eq!(plain(200, r#"{"retry": false}"#), Answer::Accepted);
        assert_eq!(plain(200, r#"{"complete": true, "error": "a", "retry": false}"#), DONE);
    }

    #[test]
    fn a_429_that_says_when_to_ask_again_snoozes_the_job_and_a_503_retries_it_then() {
        let read = |status, body: &str| answer(status, &[("retry-after", "7")], body.as_bytes(), true);
        let seven = Duration::from_secs(7);
        let busy = Some("HTTP 429: slow down (POST http://fn/task)".to_owned());
        assert_eq!(read(429, "slow down"), Answer::Ended(Outcome::Snooze { after: seven, error: busy }));
        let restarting = Outcome::retry_after(seven, "restarting");
        assert_eq!(read(503, r#"{"error": "restarting"}"#), Answer::Ended(restarting));
        // Without a wait they are failures like any other; a wait alone means nothing.
        assert_eq!(plain(429, ""), fail("HTTP 429 (POST http://fn/task)"));
        assert_eq!(read(202, ""), Answer::Accepted);
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
        let url = "http://fn/task".parse().unwrap();
        let none = HeaderMap::new();
        let read = |status, body: &[u8]| {
            read_answer(&Received::new(status, &none, body, true), &url, false, SystemTime::now())
        };
        let rows = r#"{"id": 1, "complete": true, "rows": [1, 2, "#;
        assert_eq!(read(200, rows.as_bytes()), DONE);
        assert_eq!(plain(200, rows), Answer::Accepted, "all there is, and broken");
        // Half a surrogate pair in a name, and a cut in the middle of a character.
        assert_eq!(read(200, br#"{"\ud83d": 1, "complete": true, "x"#), DONE);
        assert_eq!(read(200, b"{\"complete\": true, \"\xc3"), DONE);
        for body in [
            r#"{"rows": [{"complete": true}, "#,
            r#"{"complete": true, "complete": false, "x"#,
            r#"{"complete": tru"#,
            r#"{"complete": "true", "#,
            r#"[{"complete": true}, "#,
            "xxx",
            "",
        ] {
            assert_eq!(read(200, body.as_bytes()), Answer::Accepted, "{body}");
        }
        let cut = r#"{"error": "a", "#;
        assert_eq!(read(500, cut.as_bytes()), fail(r#"HTTP 500: {"error": "a", (POST http://fn/task)"#));
        // A bomb is a body that is cut.
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut encoder, &vec![b' '; 8 << 20]).unwrap();
        let (bomb, gzip) = (encoder.finish().unwrap(), headers(&[("content-encoding", "gzip")]));
        let received = Received::new(200, &gzip, &bomb, false);
        assert!(received.is_cut());
        assert_eq!(read_answer(&received, &url, false, SystemTime::now()), Answer::Accepted);
    }
}
