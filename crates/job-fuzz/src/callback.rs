//! Target `callback`: a request to the callback server, as far as it goes without the database.
//!
//! The input is a request without its first line: headers, an empty line, the body. The query is in a header of its
//! own, `Query`. What a fuzzer could not make of it is made here: the same body compressed, with a byte order mark,
//! with many headers.

use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use job_utils::outcome::Outcome;
use job_utils::wire::callback::{
    LONGEST_EXTENSION, Malformed, NamedAttempt, UNKNOWN_ERROR, is_json, read_attempt, read_extension, read_outcome,
};
use job_utils::wire::headers::{X_JOB_ERROR, X_JOB_ID, X_WORKER_ID};
use serde_json::Value;

use crate::message::{gzip, marked, message, takes_mark, with_many, zlib};

/// Reads the input as a callback.
pub fn callback(input: &[u8]) {
    // What is no header never gets past the HTTP library.
    let Some((headers, body)) = message(input) else { return };
    let taken = check(&headers, body, read(&headers, body));

    // Who reports a failure is in trouble already: a body is not refused because of what it reports.
    let mut turned = headers.clone();
    match failed(&headers) {
        true => turned.remove(X_JOB_ERROR),
        false => turned.insert(X_JOB_ERROR, HeaderValue::from_static("true")),
    };
    let turned_taken = check(&turned, body, read(&turned, body));
    let (success, failure) = if failed(&headers) { (turned_taken, taken) } else { (taken, turned_taken) };
    assert!(failure || !success, "a body is refused because the attempt failed");

    if let Ok(Some(extension)) = read_extension(&headers, body, false) {
        assert!(!extension.is_zero() && extension <= LONGEST_EXTENSION, "{extension:?} more for an attempt");
    }

    if !headers.contains_key(CONTENT_ENCODING) {
        same_however_sent(&headers, body);
        same_however_sent(&turned, body);
    }
}

/// A body means the same when it is compressed, begins with a byte order mark, or has many headers before it; and so
/// does the query when a function has appended a path to it.
fn same_however_sent(headers: &HeaderMap, body: &[u8]) {
    let told = |headers: &HeaderMap, body: &[u8]| read(headers, body).map(|read| read.map(|(_, outcome)| outcome)).ok();
    let plain = told(headers, body);
    for (name, encoded) in [("gzip", gzip(body)), ("X-Gzip", gzip(body)), ("deflate", zlib(body))] {
        let mut headers = headers.clone();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name));
        assert_eq!(told(&headers, &encoded), plain, "{name}");
    }
    if takes_mark(body) {
        assert_eq!(told(headers, &marked(body)), plain, "with a byte order mark");
    }
    assert_eq!(told(&with_many(headers), body), plain, "with many headers");

    let query = query(headers);
    if let Ok(Some(attempt)) = read_attempt(headers, query) {
        let appended = format!("{query}/callback");
        assert_eq!(read_attempt(headers, &appended).ok().flatten(), Some(attempt), "with a path behind {query:?}");
    }
}

fn query(headers: &HeaderMap) -> &str {
    headers.get("query").and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// What the server makes of a request.
type Read<'a> = Result<Option<(NamedAttempt<'a>, Outcome)>, Malformed>;

fn read<'a>(headers: &'a HeaderMap, body: &[u8]) -> Read<'a> {
    let Some(attempt) = read_attempt(headers, query(headers))? else { return Ok(None) };
    Ok(Some((attempt, read_outcome(headers, body, false)?)))
}

/// Compares what was read with the request; returns whether it was taken.
fn check(headers: &HeaderMap, body: &[u8], read: Read<'_>) -> bool {
    let (callback, outcome) = match read {
        Ok(Some(callback)) => callback,
        Ok(None) => {
            assert!(!headers.contains_key(X_JOB_ID), "a callback is taken for a health probe");
            return true;
        }
        Err(error) => {
            assert!(!error.to_string().is_empty(), "a refusal without a reason");
            assert!(
                !(failed(headers) && matches!(error, Malformed::BadBody(_))),
                "X-Job-Error alone ends an attempt, whatever the body is"
            );
            return false;
        }
    };
    let sent = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
    assert_eq!(sent(X_JOB_ID), Some(callback.job_id.as_bytes()), "another job");
    let digits = callback.job_id.trim_start_matches('0');
    let id = if digits.is_empty() { "0" } else { digits };
    assert_eq!(callback.id.to_string(), id, "another job");
    assert_eq!(sent(X_WORKER_ID), Some(callback.worker_id.as_bytes()), "another worker");
    assert!(callback.worker_id.chars().count() >= 4, "no worker has so short an id");
    assert!(callback.claim.epoch.is_none_or(|epoch| epoch >= 0), "no claim has a negative epoch");
    // Who says that another attempt would fail has failed.
    let last = matches!(outcome, Outcome::Discard { .. });
    assert!(failed(headers) || last || outcome == Outcome::Complete, "X-Job-Error alone says that an attempt failed");
    assert!(!failed(headers) || outcome != Outcome::Complete, "X-Job-Error alone says that an attempt failed");
    if let Some(message) = outcome.error() {
        assert!(!message.is_empty(), "a failure without words");
        assert!(!message.contains('\0'), "Postgres cannot store a NUL");
        if let Some(expected) = reported(headers, body) {
            assert_eq!(message, expected);
        }
    }
    true
}

fn failed(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(X_JOB_ERROR) else { return false };
    !matches!(&*value.as_bytes().trim_ascii().to_ascii_lowercase(), b"" | b"0" | b"false")
}

/// What the body reports, where that is beyond doubt.
fn reported(headers: &HeaderMap, body: &[u8]) -> Option<String> {
    if !headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(is_json) {
        return Some(UNKNOWN_ERROR.to_owned());
    }
    if headers.contains_key(CONTENT_ENCODING) {
        return None;
    }
    let body: Value = serde_json::from_slice(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)).ok()?;
    let said = |name: &str| body.get(name).filter(|value| !value.is_null() && *value != "");
    match said("error").or_else(|| said("message")) {
        None => Some(UNKNOWN_ERROR.to_owned()),
        Some(Value::String(text)) => Some(text.replace('\0', "\u{fffd}")),
        // How JSON is written as text is a matter of taste.
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(outcome: Outcome) -> bool {
        let (headers, body) =
            message(b"X-Job-Id: 7\nX-Worker-Id: worker-0\nX-Job-Error: true\n\n{\"error\":\"a\"}").unwrap();
        let (attempt, _) = read(&headers, body).unwrap().unwrap();
        check(&headers, body, Ok(Some((attempt, outcome))))
    }

    #[test]
    fn what_is_read_as_sent_passes() {
        // Without a content type the body says nothing.
        assert!(asked(Outcome::retry(UNKNOWN_ERROR)));
    }

    #[test]
    #[should_panic(expected = "X-Job-Error alone")]
    fn a_failure_that_is_read_as_a_success_is_told() {
        asked(Outcome::Complete);
    }

    #[test]
    #[should_panic(expected = "left: \"a\"")]
    fn another_message_is_told() {
        asked(Outcome::retry("a"));
    }
}
