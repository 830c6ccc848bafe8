//! Scalars as PostGraphile names and writes them: BigInt, Datetime, JSON. UUID is async-graphql's own.

use async_graphql::{InputValueError, InputValueResult, Scalar, ScalarType, Value};
use jiff::Timestamp;
use serde_json::value::RawValue;

use crate::request::exact_number;

/// A whole number of 64 bits: a string in answers, because JavaScript's numbers would round it; a string or a number in
/// arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BigInt(pub(crate) i64);

#[Scalar(name = "BigInt")]
impl ScalarType for BigInt {
    fn parse(value: Value) -> InputValueResult<Self> {
        let number = match &value {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.parse().ok(),
            _ => return Err(InputValueError::expected_type(value)),
        };
        number.map(Self).ok_or_else(|| InputValueError::custom("not a whole number of 64 bits"))
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.to_string())
    }
}

/// An instant in ISO 8601 with an offset, such as 2026-01-31T12:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Datetime(pub(crate) Timestamp);

#[Scalar(name = "Datetime")]
impl ScalarType for Datetime {
    fn parse(value: Value) -> InputValueResult<Self> {
        let Value::String(text) = &value else { return Err(InputValueError::expected_type(value)) };
        text.parse().map(Self).map_err(|_| InputValueError::custom("not an instant such as 2026-01-31T12:00:00Z"))
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.to_string())
    }
}

/// Any JSON value, itself and not a string that holds it. Its text passes through unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Json(pub(crate) String);

#[Scalar(name = "JSON")]
impl ScalarType for Json {
    fn parse(value: Value) -> InputValueResult<Self> {
        let mut text = String::new();
        write(&value, &mut text).map_err(InputValueError::custom)?;
        Ok(Self(text))
    }

    fn to_value(&self) -> Value {
        // Only a raw value is written into the answer as it is.
        let raw = RawValue::from_string(self.0.clone()).map(|raw| async_graphql::to_value(&raw));
        raw.ok().and_then(Result::ok).unwrap_or_default()
    }
}

/// From here on a number that a query (not its variables) holds has already lost digits, if it had them.
const FIRST_ROUNDED: f64 = 18_446_744_073_709_551_616.0;

fn write(value: &Value, out: &mut String) -> Result<(), String> {
    match value {
        Value::Number(number)
            if number.as_f64().is_some_and(|float| number.is_f64() && float.abs() >= FIRST_ROUNDED) =>
        {
            return Err("a number of more than 64 bits keeps its digits only in a variable".to_owned());
        }
        Value::Enum(name) => match exact_number(name) {
            Some(digits) => out.push_str(digits),
            None => return Err(format!("{name} is not JSON; a string needs quotes")),
        },
        Value::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, out)?;
            }
            out.push(']');
        }
        Value::Object(entries) => {
            out.push('{');
            for (index, (name, item)) in entries.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&serde_json::Value::from(name.as_str()).to_string());
                out.push(':');
                write(item, out)?;
            }
            out.push('}');
        }
        Value::Null | Value::Boolean(_) | Value::String(_) | Value::Number(_) => {
            out.push_str(&serde_json::to_string(value).map_err(|error| error.to_string())?);
        }
        Value::Binary(_) => return Err("bytes are not JSON".to_owned()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_graphql::{Name, value};

    #[test]
    fn json_passes_through_unchanged() {
        let text = r#"{"z":1,"a":[123456789012345678901234567890,1.10,"\" ;drop"],"n":null,"t":true}"#;
        let written = serde_json::to_string(&Json(text.to_owned()).to_value()).unwrap();
        assert_eq!(written, text);
    }

    #[test]
    fn json_is_written_in_the_order_it_was_given() {
        let value = value!({"z": 1, "a": ["x\"y", null, true, {}], "m": 1.5});
        assert_eq!(Json::parse(value).unwrap().0, r#"{"z":1,"a":["x\"y",null,true,{}],"m":1.5}"#);
        let digits = Value::Enum(Name::new("123456789012345678901234567890"));
        assert_eq!(Json::parse(digits).unwrap().0, "123456789012345678901234567890");
    }

    #[test]
    fn json_that_would_be_changed_is_refused() {
        assert!(Json::parse(value!(1.0e30)).is_err());
        assert!(Json::parse(Value::Enum(Name::new("RED"))).is_err());
    }

    #[test]
    fn a_big_integer_is_a_string_or_a_number() {
        assert_eq!(BigInt::parse(value!("9007199254740993")).unwrap(), BigInt(9_007_199_254_740_993));
        assert_eq!(BigInt::parse(value!(7)).unwrap(), BigInt(7));
        assert_eq!(BigInt(9_007_199_254_740_993).to_value(), value!("9007199254740993"));
        for bad in [value!("1; drop table"), value!(1.5), value!(true), value!("9223372036854775808")] {
            assert!(BigInt::parse(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_instant_needs_an_offset() {
        assert!(Datetime::parse(value!("2026-01-31T12:00:00+01:00")).is_ok());
        assert!(Datetime::parse(value!("2026-01-31T12:00:00")).is_err());
        assert!(Datetime::parse(value!("tomorrow")).is_err());
    }
}
