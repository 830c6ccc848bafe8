//! Headers of a request, as text, and what of them goes back.

use axum::http::HeaderMap;
use job_utils::wire::headers::ECHOED;

/// Puts what a request says of its job into the headers of an answer or a callback.
pub(crate) fn echo(request: &HeaderMap, headers: &mut HeaderMap) {
    for name in ECHOED {
        if let Some(value) = text(request, name).and(request.get(name)) {
            headers.insert(name, value.clone());
        }
    }
}

/// A header as text; an empty one, or one that is not text, counts as absent.
pub(crate) fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?.trim();
    (!value.is_empty()).then(|| value.to_owned())
}
