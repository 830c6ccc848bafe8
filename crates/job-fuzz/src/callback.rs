//! Target `callback`: a request to the callback server, as far as it goes without the database.
//!
//! The input is a request without its first line: headers, an empty line, the body. The query is in a header of its own, `Query`.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use job_utils::wire::callback::{Attempt, Malformed, Outcome, UNKNOWN_ERROR, is_json, read_attempt, read_outcome};
use job_utils::wire::headers::{X_JOB_ERROR, X_JOB_ID, X_WORKER_ID};
use serde_json::Value;

/// Reads the input as a callback.
pub fn callback(input: &[u8]) {
    // What is no header never gets past the HTTP library.
    let Some((headers, body)) = request(input) else { return };
    let taken = check(&headers, body, read(&headers, body));

    // Who reports a failure is in trouble already: a body is not refused because of what it reports.
    let mut turned = headers.clone();
    match failed(&headers) {
        true => turned.remove(X_JOB_ERROR),
        false => turned.insert(X_JOB_ERROR, HeaderValue::from_static("true")),
    };
    let turned_taken = check(&turned, body, read(&turned, body));
    assert_eq!(taken, turned_taken, "a body is taken with one outcome and refused with the other");
}

/// What the server makes of a request.
type Read<'a> = Result<Option<(Attempt<'a>, Outcome)>, Malformed>;

fn read<'a>(headers: &'a HeaderMap, body: &[u8]) -> Read<'a> {
    let query = headers.get("query").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some(attempt) = read_attempt(headers, query)? else { return Ok(None) };
    Ok(Some((attempt, read_outcome(headers, body)?)))
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
    let last = matches!(outcome, Outcome::FailForGood(_));
    assert!(failed(headers) || last || outcome == Outcome::Complete, "X-Job-Error alone says that an attempt failed");
    assert!(!failed(headers) || outcome != Outcome::Complete, "X-Job-Error alone says that an attempt failed");
    if let Outcome::Fail(message) | Outcome::FailForGood(message) = &outcome {
        assert!(!message.is_empty(), "a failure without words");
        assert!(!message.contains('\0'), "Postgres cannot store a NUL");
        if let Some(expected) = reported(headers, body) {
            assert_eq!(*message, expected);
        }
    }
    true
}

fn failed(headers: &HeaderMap) -> bool {
    headers.get(X_JOB_ERROR).is_some_and(|value| value == "true")
}

/// What the body reports, where that is beyond doubt.
fn reported(headers: &HeaderMap, body: &[u8]) -> Option<String> {
    if !headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(is_json) {
        return Some(UNKNOWN_ERROR.to_owned());
    }
    let body: Value = serde_json::from_slice(body).ok()?;
    let said = |name: &str| body.get(name).filter(|value| !value.is_null() && *value != "");
    match said("error").or_else(|| said("message")) {
        None => Some(UNKNOWN_ERROR.to_owned()),
        Some(Value::String(text)) => Some(text.replace('\0', "\u{fffd}")),
        // How JSON is written as text is a matter of taste.
        Some(_) => None,
    }
}

/// The headers and the body; None when it could not be sent over HTTP.
fn request(input: &[u8]) -> Option<(HeaderMap, &[u8])> {
    let mut headers = HeaderMap::new();
    let mut rest = input;
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let line = rest[..end].trim_ascii();
        rest = rest.get(end + 1..).unwrap_or_default();
        if line.is_empty() {
            return Some((headers, rest));
        }
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        headers.append(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(outcome: Outcome) -> bool {
        let (headers, body) =
            request(b"X-Job-Id: 7\nX-Worker-Id: worker-0\nX-Job-Error: true\n\n{\"error\":\"a\"}").unwrap();
        let (attempt, _) = read(&headers, body).unwrap().unwrap();
        check(&headers, body, Ok(Some((attempt, outcome))))
    }

    #[test]
    fn what_is_read_as_sent_passes() {
        // Without a content type the body says nothing.
        assert!(asked(Outcome::Fail(UNKNOWN_ERROR.to_owned())));
    }

    #[test]
    #[should_panic(expected = "X-Job-Error alone")]
    fn a_failure_that_is_read_as_a_success_is_told() {
        asked(Outcome::Complete);
    }

    #[test]
    #[should_panic(expected = "left: \"a\"")]
    fn another_message_is_told() {
        asked(Outcome::Fail("a".to_owned()));
    }
}
