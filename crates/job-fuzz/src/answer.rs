//! Target `answer`: what a worker makes of a function's answer.
//!
//! The input is an answer without its `HTTP/1.1`: the status, headers, an empty line, the body. What a fuzzer could not
//! make of it is made here: the same body compressed, with a byte order mark, with many headers, and cut off.

use std::time::{Duration, SystemTime};

use http::header::{CONTENT_ENCODING, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue};
use job_utils::outcome::{MESSAGE_LIMIT, Outcome, storable};
use job_utils::wire::dispatch::{Answer, Received, read_answer};
use job_utils::wire::encoding::{Coding, Decoded, decode, text};
use job_utils::wire::headers::{X_JOB_ERROR, X_JOB_RETRY, flag};
use serde_json::Value;
use url::{Position, Url};

use crate::message::{bare, first_line, gzip, marked, message, takes_mark, with_many, zlib};

/// What secrets are made of here.
const MARKER: &str = "hunter2";

/// What was asked; a user, a password and a query are nobody else's business.
const ASKED: &str = "http://hunter2:hunter2@fn:8080/base/task?token=hunter2";

/// How much of a decoded body is looked at, in bytes; the worker has the same limit.
const DECODED: usize = 1 << 20;

/// Waits that an answer can bring about.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Reads the input as an answer.
pub fn answer(input: &[u8]) {
    let Some(sent) = Sent::of(input) else { return };
    for completes in [false, true] {
        let read = sent.read(completes, false);
        sent.check(completes, &read);
        sent.expect(completes, &read);
        sent.check(completes, &sent.read(completes, true));
        if !sent.headers.contains_key(CONTENT_ENCODING) {
            sent.same_however_sent(completes, &read);
        }
    }
}

/// An answer as it was sent.
struct Sent<'a> {
    asked: Url,
    status: u16,
    headers: HeaderMap,
    body: &'a [u8],
}

impl<'a> Sent<'a> {
    /// None when it could not be sent over HTTP.
    fn of(input: &'a [u8]) -> Option<Self> {
        let (status, rest) = first_line(input);
        let status = str::from_utf8(status.trim_ascii()).ok()?.parse().ok()?;
        let (headers, body) = message(rest)?;
        // Those below are never the last answer to a request.
        let asked = Url::parse(ASKED).ok()?;
        (200..1000).contains(&status).then_some(Self { asked, status, headers, body })
    }

    fn read(&self, completes: bool, cut: bool) -> Answer {
        read(&self.asked, self.status, &self.headers, self.body, completes, cut)
    }

    fn is_success(&self) -> bool {
        (200..300).contains(&self.status) && flag(&self.headers, X_JOB_ERROR) != Some(true)
    }

    /// The body without its encoding; None when that is not understood.
    fn decoded(&self) -> Option<Decoded<'a>> {
        decode(self.body, false, Coding::of(&self.headers).ok()?, DECODED).ok()
    }

    /// Whether the body's text, as far as it can be decoded, has this in it.
    fn has(&self, word: &str) -> bool {
        let coding = Coding::of(&self.headers).ok();
        let decoded = coding.and_then(|coding| decode(self.body, true, coding, DECODED).ok());
        decoded.is_some_and(|decoded| text(&decoded.bytes).contains(word))
    }

    /// What holds for every answer, also for one whose end is missing.
    fn check(&self, completes: bool, answer: &Answer) {
        match answer {
            Answer::Ended(Outcome::Complete) => {
                assert!(self.is_success(), "a failure is taken for a completion");
                let done = completes && self.status != 202;
                assert!(done || self.has("complete") || self.has("\\u"), "nothing says that the job is done");
            }
            Answer::Accepted => {
                assert!(self.is_success(), "a failure is taken for an acceptance");
                assert!(!completes || self.status == 202, "an acceptance where the status completes");
            }
            Answer::Ended(Outcome::Snooze { after, .. } | Outcome::Retry { after: Some(after), .. }) => {
                let snoozes = matches!(answer, Answer::Ended(Outcome::Snooze { .. }));
                assert_eq!(self.status, if snoozes { 429 } else { 503 }, "whether the attempt is used up");
                assert!(self.headers.contains_key(RETRY_AFTER), "nothing says when to ask again");
                assert!((SHORTEST_WAIT..=LONGEST_WAIT).contains(after), "a wait of {after:?}");
            }
            Answer::Ended(Outcome::Retry { after: None, .. } | Outcome::Discard { .. } | Outcome::Release { .. }) => {
                assert!(!matches!(answer, Answer::Ended(Outcome::Release { .. })), "only a worker releases a job");
            }
        }
        if let Some(message) = failure_of(answer) {
            assert!(!message.is_empty(), "a failure without words");
            assert!(!message.contains('\0'), "Postgres cannot store a NUL");
            assert!(message.len() <= MESSAGE_LIMIT, "a message of {} bytes", message.len());
            assert!(!message.contains(MARKER) || self.shows_marker(), "a secret is in {message:?}");
        }
    }

    /// What the answer means, where that is beyond doubt.
    fn expect(&self, completes: bool, answer: &Answer) {
        let Some(decoded) = self.decoded() else {
            // The status says it all, or it is a failure.
            let known = self.is_success() && (completes || self.status == 202);
            assert!(
                known || !matches!(answer, Answer::Ended(Outcome::Complete) | Answer::Accepted),
                "taken without being understood"
            );
            return;
        };
        // What is larger is read as far as it goes.
        if decoded.cut {
            return;
        }
        let text = text(&decoded.bytes);
        let text = text.trim_ascii_start();
        let body: Value = match serde_json::from_str(text) {
            Ok(body) => body,
            // Other readers know no half of a surrogate pair and no number beyond a double.
            Err(_) if text.starts_with('{') => return,
            Err(_) => Value::Null,
        };
        let said = |name: &str| body.get(name).filter(|value| !value.is_null() && **value != "");
        let failure = said("error").or_else(|| said("message"));
        let complete = body.get("complete") == Some(&Value::Bool(true));
        let no_retry =
            body.get("retry") == Some(&Value::Bool(false)) || flag(&self.headers, X_JOB_RETRY) == Some(false);
        if self.is_success() && !(no_retry && !complete && failure.is_some()) {
            let done = complete || completes && self.status != 202;
            assert_eq!(*answer, if done { Answer::Ended(Outcome::Complete) } else { Answer::Accepted });
            return;
        }
        let message = failure_of(answer);
        assert!(message.is_some(), "a failure is taken for {answer:?}");
        let (message, last) = (message.unwrap_or_default(), matches!(answer, Answer::Ended(Outcome::Discard { .. })));
        assert_eq!(last, no_retry, "whether another attempt follows");
        match failure {
            Some(Value::String(text)) => assert_eq!(message, storable(text)),
            // How JSON is written as text is a matter of taste.
            Some(_) => {}
            None => assert!(message.starts_with(&format!("HTTP {}", self.status)), "{message:?}"),
        }
    }

    /// An answer means the same when its body is compressed, begins with a byte order mark, or has many headers before
    /// it.
    fn same_however_sent(&self, completes: bool, plain: &Answer) {
        let again = |headers: &HeaderMap, body: &[u8]| read(&self.asked, self.status, headers, body, completes, false);
        for (name, encoded) in [
            ("gzip", gzip(self.body)),
            ("X-Gzip", gzip(self.body)),
            ("deflate", zlib(self.body)),
            ("Deflate", bare(self.body)),
        ] {
            let mut headers = self.headers.clone();
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name));
            assert_eq!(again(&headers, &encoded), *plain, "{name}");
        }
        if takes_mark(self.body) {
            assert_eq!(again(&self.headers, &marked(self.body)), *plain, "with a byte order mark");
        }
        assert_eq!(again(&with_many(&self.headers), self.body), *plain, "with many headers");
    }

    /// Whether the function itself shows what looks like a secret: in its body, or in the part of a Location that is
    /// told.
    fn shows_marker(&self) -> bool {
        let location = self.headers.get(LOCATION).and_then(|location| location.to_str().ok());
        let location = location.and_then(|location| self.asked.join(location).ok());
        let told = location.is_some_and(|url| {
            url.scheme().contains(MARKER) || url[Position::BeforeHost..Position::AfterPath].contains(MARKER)
        });
        let encoding = self.headers.get_all(CONTENT_ENCODING).iter().any(|value| contains(value.as_bytes()));
        encoding || told || contains(self.body) || self.has(MARKER)
    }
}

fn contains(bytes: &[u8]) -> bool {
    String::from_utf8_lossy(bytes).contains(MARKER)
}

/// What goes into `last_error`.
fn failure_of(answer: &Answer) -> Option<&str> {
    match answer {
        Answer::Accepted => None,
        Answer::Ended(outcome) => outcome.error(),
    }
}

fn read(asked: &Url, status: u16, headers: &HeaderMap, body: &[u8], completes: bool, cut: bool) -> Answer {
    let received = Received::new(status, headers, body, cut);
    // 1994-11-06 08:49:37, so that what is read does not depend on the day.
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    read_answer(&received, asked, completes, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What holds of an answer to a function that has answered 500.
    fn told(input: &[u8], answer: &Answer) {
        let sent = Sent::of(input).unwrap();
        sent.check(false, answer);
        sent.expect(false, answer);
    }

    #[test]
    fn what_is_read_as_sent_passes() {
        told(b"200\n\n{\"complete\":true}", &Answer::Ended(Outcome::Complete));
        told(b"500\n\n{\"error\":\"a\"}", &Answer::Ended(Outcome::retry("a")));
    }

    #[test]
    #[should_panic(expected = "taken for an acceptance")]
    fn a_failure_that_is_read_as_an_acceptance_is_told() {
        told(b"500\n\n", &Answer::Accepted);
    }

    #[test]
    #[should_panic(expected = "without being understood")]
    fn an_acceptance_that_was_not_understood_is_told() {
        told(b"200\nContent-Encoding: br\n\nx", &Answer::Accepted);
    }

    #[test]
    #[should_panic(expected = "left: Accepted")]
    fn a_completion_that_is_read_as_an_acceptance_is_told() {
        told(b"200\n\n{\"complete\":true}", &Answer::Accepted);
    }

    #[test]
    #[should_panic(expected = "a secret is in")]
    fn a_secret_of_a_location_is_told() {
        told(b"302\nLocation: http://x/?hunter2\n\n", &Answer::Ended(Outcome::retry("HTTP 302 http://x/?hunter2")));
    }
}
