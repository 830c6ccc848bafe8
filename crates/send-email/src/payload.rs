//! A payload as a message.

use mailer::Message;
use serde_json::Value;

/// What a payload lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Incomplete {
    /// A field that every message needs.
    #[error("Missing required field '{0}'")]
    Field(&'static str),
    /// A message needs a body.
    #[error("Either 'html' or 'text' must be provided")]
    Body,
}

/// Reads a payload; an empty field counts as missing.
///
/// ```
/// let payload = serde_json::json!({ "to": "ada@example.com", "subject": "Hello" });
/// let error = send_email::payload::read(&payload).unwrap_err();
/// assert_eq!(error.to_string(), "Either 'html' or 'text' must be provided");
/// ```
pub fn read(payload: &Value) -> Result<Message, Incomplete> {
    let field = |name: &str| payload.get(name)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let required = |name| field(name).ok_or(Incomplete::Field(name));
    let (to, subject) = (required("to")?, required("subject")?);
    let (html, text) = (field("html"), field("text"));
    if html.is_none() && text.is_none() {
        return Err(Incomplete::Body);
    }
    Ok(Message { from: field("from"), to, subject, html, text, reply_to: field("replyTo") })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_missing_is_named_in_the_order_to_subject_body() {
        for (payload, error) in [
            (json!(null), "Missing required field 'to'"),
            (json!({}), "Missing required field 'to'"),
            (json!({ "to": "" }), "Missing required field 'to'"),
            (json!({ "to": 5, "subject": "s", "text": "t" }), "Missing required field 'to'"),
            (json!({ "to": "a" }), "Missing required field 'subject'"),
            (
                json!({ "to": "a", "subject": "s", "html": "", "text": null }),
                "Either 'html' or 'text' must be provided",
            ),
        ] {
            assert_eq!(read(&payload).unwrap_err().to_string(), error, "{payload}");
        }
        assert!(read(&json!({ "to": "a", "subject": "s", "text": "t" })).is_ok());
        assert!(read(&json!({ "to": "a", "subject": "s", "html": "h" })).is_ok());
    }
}
