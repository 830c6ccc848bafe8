//! A GraphQL request from its JSON body: numbers keep every digit, and nesting has an end.

use async_graphql::indexmap::IndexMap;
use async_graphql::{Name, Number, Request, Value, Variables};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::size::{self, SizeError};

/// How deep brackets may nest in variables. Each level is read anew, so this bounds the time as well.
const MAX_NESTING: usize = 100;

/// A body that is no GraphQL request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// Not the JSON object that is expected.
    #[error("the body is not a GraphQL request, {{\"query\": …, \"variables\": {{…}}}}: {0}")]
    Json(#[from] serde_json::Error),
    /// Too many brackets within brackets.
    #[error("the variables are nested more than {MAX_NESTING} deep")]
    Nesting,
    /// Too many fields, or fragments within fragments.
    #[error(transparent)]
    Size(#[from] SizeError),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    query: String,
    operation_name: Option<String>,
    #[serde(borrow)]
    variables: Option<&'a RawValue>,
}

/// Reads a body.
pub(crate) fn read(body: &[u8]) -> Result<Request, RequestError> {
    let body: Body<'_> = serde_json::from_slice(body)?;
    let mut request = Request::new(body.query);
    // A syntax error is a GraphQL error: it is told when the request is executed.
    if let Ok(document) = request.parsed_query() {
        size::check(document)?;
    }
    if let Some(variables) = body.variables {
        let entries: Option<IndexMap<Name, &RawValue>> = serde_json::from_str(variables.get())?;
        let entries = entries.unwrap_or_default().into_iter();
        let entries = entries.map(|(name, raw)| Ok((name, value(raw, 1)?))).collect::<Result<_, RequestError>>()?;
        request = request.variables(Variables::from_value(Value::Object(entries)));
    }
    request.operation_name = body.operation_name;
    Ok(request)
}

/// A JSON value. A number that Rust's numbers would change becomes a name made of its digits, which no GraphQL name can
/// be: [`exact_number`] tells it from one.
fn value(raw: &RawValue, depth: usize) -> Result<Value, RequestError> {
    if depth > MAX_NESTING {
        return Err(RequestError::Nesting);
    }
    let text = raw.get();
    Ok(match text.as_bytes().first() {
        Some(b'{') => {
            let entries: IndexMap<Name, &RawValue> = serde_json::from_str(text)?;
            let entries = entries.into_iter().map(|(name, raw)| Ok((name, value(raw, depth + 1)?)));
            Value::Object(entries.collect::<Result<_, RequestError>>()?)
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text)?;
            Value::List(items.into_iter().map(|raw| value(raw, depth + 1)).collect::<Result<_, _>>()?)
        }
        Some(b'-' | b'0'..=b'9') => match text.parse::<Number>() {
            Ok(number) if number.to_string() == text => Value::Number(number),
            _ => Value::Enum(Name::new(text)),
        },
        _ => serde_json::from_str(text)?,
    })
}

/// The digits of a number that [`read`] kept as they were written.
pub(crate) fn exact_number(name: &Name) -> Option<&str> {
    let text = name.as_str();
    text.starts_with(|first: char| first == '-' || first.is_ascii_digit()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(json: &str) -> Variables {
        read(format!(r#"{{"query": "{{a}}", "variables": {json}}}"#).as_bytes()).unwrap().variables
    }

    #[test]
    fn numbers_keep_every_digit() {
        let variables =
            variables(r#"{"a": 9007199254740993, "b": 123456789012345678901234567890, "c": [1.10, -0, 1.5]}"#);
        assert_eq!(variables["a"], Value::from(9_007_199_254_740_993_u64));
        assert_eq!(variables["b"], Value::Enum(Name::new("123456789012345678901234567890")));
        let Value::List(list) = &variables["c"] else { panic!("{variables}") };
        assert_eq!(list[0], Value::Enum(Name::new("1.10")));
        assert_eq!(list[1], Value::Enum(Name::new("-0")));
        assert_eq!(list[2], Value::from(1.5));
    }

    #[test]
    fn variables_may_be_null_or_absent() {
        assert!(variables("null").is_empty());
        assert!(read(br#"{"query": "{a}"}"#).unwrap().variables.is_empty());
    }

    #[test]
    fn a_body_that_is_no_request_is_refused() {
        for body in ["", "{}", "[]", r#"{"query": 1}"#, r#"{"query": "{a}", "variables": 1}"#, "{\"query\": \"{a}\""] {
            assert!(matches!(read(body.as_bytes()), Err(RequestError::Json(_))), "{body}");
        }
    }

    #[test]
    fn variables_nested_without_end_are_refused() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let json = |depth| format!("{}1{}", open.repeat(depth), close.repeat(depth));
            let body = |depth| format!(r#"{{"query": "{{a}}", "variables": {{"a": {}}}}}"#, json(depth));
            assert!(read(body(MAX_NESTING - 1).as_bytes()).is_ok());
            assert!(matches!(read(body(MAX_NESTING).as_bytes()), Err(RequestError::Nesting)));
            assert!(matches!(read(body(10_000).as_bytes()), Err(RequestError::Nesting)));
        }
    }
}
