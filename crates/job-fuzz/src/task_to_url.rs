//! Target `task_to_url`: the URL that a task's jobs are posted to.
//!
//! The input's first line is the base URL, what follows the task identifier. A line break at the end is none of it.

use http::uri::PathAndQuery;
use job_utils::config::parse_http_url;
use job_utils::wire::dispatch::{NoPath, function_url};
use percent_encoding::percent_decode_str;
use url::{Position, Url};

/// Makes a URL of the input.
pub fn task_to_url(input: &[u8]) {
    let input = String::from_utf8_lossy(input);
    let input = input.strip_suffix('\n').unwrap_or(&input);
    let (base, task) = input.split_once('\n').unwrap_or(("http://gateway:8080", input));
    let Ok(base) = parse_http_url(base) else { return };
    check(&base, task, &function_url(&base, task));
}

fn check(base: &Url, task: &str, made: &Result<Url, NoPath>) {
    let Ok(url) = made else {
        assert!(matches!(task, "" | "." | ".."), "{task:?} can be a path");
        return;
    };
    let place = Position::BeforeScheme..Position::BeforePath;
    assert_eq!(url[place.clone()], base[place], "{task:?} leads to another server");
    assert_eq!((url.query(), url.fragment()), (None, None), "{task:?} has a query or a fragment");
    let path = url.path();
    let below = path.strip_prefix(base.path().trim_end_matches('/')).and_then(|rest| rest.strip_prefix('/'));
    assert!(below.is_some(), "{task:?} leads out of its base: {path}");
    let below = below.unwrap_or_default();
    assert_eq!(percent_decode_str(below).collect::<Vec<u8>>(), task.as_bytes(), "{path} is another task's");
    for segment in below.split('/') {
        let segment: Vec<u8> = percent_decode_str(segment).collect();
        assert!(!matches!(segment.as_slice(), b"" | b"." | b".."), "{path} has a segment that parsers resolve");
    }
    // What others make of the URL, and what goes over the wire.
    let parsed = Url::parse(url.as_str());
    assert_eq!(parsed.as_ref(), Ok(url), "{url} is another URL when it is parsed");
    let sent = PathAndQuery::try_from(path);
    assert!(sent.is_ok_and(|sent| sent.as_str() == path), "{path} cannot be sent");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Url {
        "http://user:password@gateway:8080/base/".parse().unwrap()
    }

    /// The task put behind the base as it is, which is what one writes first.
    fn plainly(task: &str) {
        check(&base(), task, &Ok(base().join(task).unwrap()));
    }

    #[test]
    fn a_plain_name_passes() {
        plainly("send_verification_link");
        plainly("a/b");
    }

    #[test]
    #[should_panic(expected = "out of its base")]
    fn a_way_up_is_told() {
        plainly("../x");
    }

    #[test]
    #[should_panic(expected = "another server")]
    fn another_server_is_told() {
        plainly("//evil/x");
    }

    #[test]
    #[should_panic(expected = "query or a fragment")]
    fn a_query_is_told() {
        plainly("x?y");
    }

    #[test]
    #[should_panic(expected = "another task's")]
    fn a_url_that_two_tasks_share_is_told() {
        plainly("a/../b");
    }

    #[test]
    #[should_panic(expected = "can be a path")]
    fn a_task_without_need_of_refusal_is_told() {
        check(&base(), "x", &Err(NoPath("x".to_owned())));
    }
}
