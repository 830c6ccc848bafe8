//! A body: what a callback or an answer says in JSON.
//!
//! Of a body four fields mean something; of the rest it only matters that it is JSON. A reader that builds all of it
//! refuses what others write: half a surrogate pair (a JavaScript text that was cut in the middle of an emoji), a
//! number beyond a double, a hundred brackets, a byte order mark, a byte that is not UTF-8. A callback that is refused
//! is lost, and its job waits for hours.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::outcome::storable;
use crate::wire::encoding::text;

/// The fields of a body that mean something.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Body {
    /// Whether `complete` is true.
    pub(crate) complete: bool,
    /// Whether `retry` is false: another attempt would fail as well.
    pub(crate) no_retry: bool,
    error: Option<String>,
    message: Option<String>,
}

impl Body {
    /// Reads any JSON; what is no object says nothing.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, serde_json::Error> {
        let text = &*text(body);
        let mut read = Self::default();
        if text.trim_ascii_start().starts_with('{') {
            let mut json = serde_json::Deserializer::from_str(text);
            json.deserialize_map(Fields(&mut read))?;
            json.end()?;
        } else {
            serde_json::from_str::<IgnoredAny>(text)?;
        }
        Ok(read)
    }

    /// Reads the beginning of a body: what it says up to where it is cut, which may be within a character, or is no
    /// longer JSON.
    pub(crate) fn beginning(body: &[u8]) -> Self {
        let mut read = Self::default();
        // It ends with an error there.
        let _ = serde_json::Deserializer::from_str(&text(body)).deserialize_map(Fields(&mut read));
        read
    }

    /// Whether it says what went wrong.
    pub(crate) fn has_failed(&self) -> bool {
        self.error.is_some() || self.message.is_some()
    }

    /// What went wrong: `error`, else `message`. A value that is not a string is its JSON text, an empty string or null
    /// counts as absent.
    pub(crate) fn failure(self) -> Option<String> {
        self.error.or(self.message)
    }
}

/// The value of `error` or `message`.
fn said(value: &RawValue) -> Option<String> {
    let json = value.get();
    let text = match json.as_bytes() {
        b"null" | b"\"\"" => return None,
        [b'"', ..] => serde_json::from_str(json).map_or_else(|_| json.to_owned(), |Text(text)| text),
        _ => json.to_owned(),
    };
    Some(storable(&text))
}

/// Fills a body from an object.
struct Fields<'a>(&'a mut Body);

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let body = self.0;
        // Of a field that is there twice the last counts, as everywhere.
        while let Some(field) = map.next_key()? {
            match field {
                Field::Complete => body.complete = map.next_value::<&RawValue>()?.get() == "true",
                Field::Retry => body.no_retry = map.next_value::<&RawValue>()?.get() == "false",
                Field::Error => body.error = said(map.next_value()?),
                Field::Message => body.message = said(map.next_value()?),
                Field::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

enum Field {
    Complete,
    Retry,
    Error,
    Message,
    Other,
}

/// As bytes: they alone may hold half a surrogate pair.
impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(Bytes(|name: &[u8]| match name {
            b"complete" => Self::Complete,
            b"retry" => Self::Retry,
            b"error" => Self::Error,
            b"message" => Self::Message,
            _ => Self::Other,
        }))
    }
}

/// A string in which a replacement character stands for half a surrogate pair.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(Bytes(|bytes: &[u8]| {
            let mut text = String::with_capacity(bytes.len());
            for chunk in bytes.utf8_chunks() {
                text.push_str(chunk.valid());
                // Half a pair is written as if it were a character of its own, in three bytes from ED on.
                if chunk.invalid().first() == Some(&0xed) {
                    text.push('\u{fffd}');
                }
            }
            Self(text)
        }))
    }
}

/// Makes something of the bytes of a string.
struct Bytes<F>(F);

impl<'de, T, F: FnOnce(&[u8]) -> T> Visitor<'de> for Bytes<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<T, E> {
        Ok((self.0)(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(body: &str) -> Option<String> {
        Body::parse(body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error}")).failure()
    }

    #[test]
    fn what_a_general_reader_refuses_is_read() {
        let (open, close) = ("[".repeat(10_000), "]".repeat(10_000));
        for (body, said) in [
            (r#"{"error":"cut \ud83d"}"#, "cut \u{fffd}"),
            (r#"{"error":"\ude00\ud83d\ude00\ud83d!"}"#, "\u{fffd}😀\u{fffd}!"),
            (r#"{"\ud83d":1,"error":"a"}"#, "a"),
            (r#"{"error":"a","value":1e999}"#, "a"),
            (r#"{"error":-1e999}"#, "-1e999"),
            (r#"{"error":123456789012345678901234567890}"#, "123456789012345678901234567890"),
            (&format!(r#"{{"cause":{open}{close},"error":"a"}}"#), "a"),
            (r#" {"error":"first","error":"last"} "#, "last"),
        ] {
            assert_eq!(failure(body).as_deref(), Some(said), "{body}");
        }
        assert!(Body::parse(br#"{"complete":true,"title":"cut \ud83d"}"#).is_ok_and(|body| body.complete));
        assert!(Body::parse(b"\xef\xbb\xbf{\"complete\":true,\"title\":\"\xff\"}").is_ok_and(|body| body.complete));
    }

    #[test]
    fn what_is_no_object_says_nothing_and_what_is_no_json_is_refused() {
        for body in ["[]", "null", "1e999", r#""\ud83d""#, "true", "{}"] {
            assert_eq!(failure(body), None, "{body}");
        }
        for body in [
            "",
            "{",
            "{} {}",
            "[1,]",
            "{\"a\"}",
            "{'a':1}",
            r#"{"error":"\u00"}"#,
            r#"{"error":nul}"#,
            "{\"error\":\"\n\"}",
        ] {
            assert!(Body::parse(body.as_bytes()).is_err(), "{body}");
        }
    }
}
