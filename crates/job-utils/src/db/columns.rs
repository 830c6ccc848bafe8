//! Column types that the client does not have as we need them.

use jiff::Timestamp;
use postgres_types::{FromSql, Type};

/// A json value as text, neither parsed nor written anew: numbers keep every digit.
pub(crate) struct RawJson(pub(crate) String);

impl<'a> FromSql<'a> for RawJson {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(std::str::from_utf8(raw)?.to_owned()))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSON
    }
}

/// A timestamptz; `infinity` and `-infinity`, which Postgres allows and an instant cannot be, are the far ends of time.
pub(crate) struct Instant(pub(crate) Timestamp);

impl<'a> FromSql<'a> for Instant {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(match postgres_types::Timestamp::from_sql(ty, raw)? {
            postgres_types::Timestamp::Value(value) => value,
            postgres_types::Timestamp::PosInfinity => Timestamp::MAX,
            postgres_types::Timestamp::NegInfinity => Timestamp::MIN,
        }))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }
}
