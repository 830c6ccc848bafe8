//! Tests: what is read of callbacks.

use std::io::Write;

use http::HeaderValue;

use super::*;

/// Of a callback with a JSON body or another, and with `X-Job-Error` or not.
fn headers(failed: bool, json: bool) -> HeaderMap {
    let content_type = if json { "application/json" } else { "text/plain" };
    let mut headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))]);
    if failed {
        headers.insert(X_JOB_ERROR, HeaderValue::from_static("true"));
    }
    headers
}

#[test]
fn a_failure_carries_error_then_message_then_a_default() {
    let fail = |body: &str| match read_outcome(&headers(true, true), body.as_bytes(), false) {
        Ok(Outcome::Retry { error, after: None }) => error,
        other => panic!("{body}: {other:?}"),
    };
    assert_eq!(fail(r#"{"error":"a","message":"b"}"#), "a");
    assert_eq!(fail(r#"{"error":"","message":"b"}"#), "b");
    assert_eq!(fail(r#"{"error":{"code":5}}"#), r#"{"code":5}"#);
    assert_eq!(fail(r#"{"error":"a\u0000b"}"#), "a\u{fffd}b");
    assert_eq!(fail(r#"{"error":null}"#), UNKNOWN_ERROR);
    assert_eq!(fail("[]"), UNKNOWN_ERROR);
    assert_eq!(fail(""), UNKNOWN_ERROR);
}

#[test]
fn a_failure_can_be_one_for_good() {
    let last = |message: &str| Some(Outcome::discard(message));
    let read = |failed, body: &[u8]| read_outcome(&headers(failed, true), body, false).ok();
    for job_error in [true, false] {
        let outcome = read(job_error, br#"{"status":"error","error":"gone","retry":false}"#);
        assert_eq!(outcome, last("gone"), "{job_error}");
    }
    assert_eq!(read(true, br#"{"retry":false}"#), last(UNKNOWN_ERROR));
    assert_eq!(read(false, br#"{"retry":false}"#), Some(Outcome::Complete));
    assert_eq!(read(true, br#"{"error":"a","retry":true}"#), Some(Outcome::retry("a")));
    let ended = |error: &'static str, retry: &'static str| {
        let pairs = [(X_JOB_ERROR, error), (X_JOB_RETRY, retry)];
        let headers: Vec<_> =
            pairs.into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        read_outcome(&HeaderMap::from_iter(headers), b"", false).ok()
    };
    assert_eq!(ended("true", "false"), last(UNKNOWN_ERROR));
    assert_eq!(ended("true", "true"), Some(Outcome::retry(UNKNOWN_ERROR)));
    assert_eq!(ended("false", "false"), Some(Outcome::Complete));
    let mut said = headers(false, true);
    said.insert(X_JOB_RETRY, HeaderValue::from_static("false"));
    assert_eq!(read_outcome(&said, br#"{"error":"gone"}"#, false).ok(), last("gone"));
    let report = Report::from(&Outcome::discard("gone"));
    assert_eq!(serde_json::to_string(&report).unwrap(), r#"{"status":"error","error":"gone","retry":false}"#);
}

#[test]
fn an_extension_is_a_time_that_can_be_waited_for() {
    let read = |body: &str| read_extension(&HeaderMap::new(), body.as_bytes(), false).ok();
    assert_eq!(read(r#"{"seconds": 1.5}"#), Some(Some(Duration::from_millis(1500))));
    for none in ["", " ", "{}", "[]", r#"{"seconds": null}"#] {
        assert_eq!(read(none), Some(None), "{none}");
    }
    for bad in ["{", r#"{"seconds": 0}"#, r#"{"seconds": -1}"#, r#"{"seconds": "9"}"#, r#"{"seconds": 604801}"#] {
        assert_eq!(read(bad), None, "{bad}");
    }
}

#[test]
fn a_long_message_of_a_body_is_cut() {
    let body = format!(r#"{{"error":"{}"}}"#, "x".repeat(500_000));
    let outcome = read_outcome(&headers(true, true), body.as_bytes(), false).unwrap();
    assert_eq!(outcome.error(), Some(&*format!("{}… (500000 bytes)", "x".repeat(4000))));
}

#[test]
fn only_a_json_body_without_x_job_error_can_be_broken() {
    let read = |failed, json, body: &[u8]| read_outcome(&headers(failed, json), body, false).ok();
    for broken in [&b"{"[..], b"{} {}", b"[1,]", b"'x'", b"{\"status\":NaN}"] {
        assert_eq!(read(false, true, broken), None, "{broken:?}");
        assert_eq!(read(true, true, broken), Some(Outcome::retry(UNKNOWN_ERROR)), "{broken:?}");
    }
    assert_eq!(read(true, true, b"{\"error\":\"boom\",\"at\":NaN"), Some(Outcome::retry("boom")));
    assert_eq!(read(false, true, br#" {"status":"success"} "#), Some(Outcome::Complete));
    assert_eq!(read(false, false, b"{"), Some(Outcome::Complete));
    assert_eq!(read(true, false, b"boom"), Some(Outcome::retry(UNKNOWN_ERROR)));
}

#[test]
fn a_body_is_read_however_it_is_written_and_encoded() {
    let read = |failed, encoding: &'static str, body: &[u8]| {
        let mut headers = headers(failed, true);
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
        read_outcome(&headers, body, false).ok()
    };
    let gzip = |body: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    };
    let failed = |message: &str| Some(Outcome::retry(message));
    assert_eq!(read(true, "identity", b"\xef\xbb\xbf{\"error\":\"boom\"}"), failed("boom"));
    assert_eq!(read(true, "", b"{\"error\":\"caf\xe9\"}"), failed("caf\u{fffd}"));
    assert_eq!(read(true, "gzip", &gzip(b"{\"error\":\"boom\"}")), failed("boom"));
    assert_eq!(read(false, "gzip", &gzip(b"{\"status\":\"success\"}")), Some(Outcome::Complete));
    assert_eq!(read(false, "identity", b"\xef\xbb\xbf{\"status\":\"\xff\"}"), Some(Outcome::Complete));
    // What is not understood ends an attempt only where the header says that it has failed.
    for (encoding, body) in [("br", &b"\x0b\x02"[..]), ("gzip", b"{\"status\":\"success\"}"), ("gzip", b"\x1f\x8b")] {
        assert_eq!(read(false, encoding, body), None, "{encoding}");
        assert_eq!(read(true, encoding, body), failed(UNKNOWN_ERROR), "{encoding}");
    }
}
