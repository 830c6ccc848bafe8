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

/// Microseconds from 1970 to 2000, where Postgres counts from.
const EPOCH: i64 = 946_684_800_000_000;

/// What `-infinity` is read as: Postgres's first instant (4714-11-24 BC), so that it can be written back.
const FIRST: i64 = -210_866_803_200_000_000;

/// A timestamptz as the nearest instant there is. Postgres has years up to 294276 and both infinities, an instant ends
/// with the year 9999: one row beyond must not keep the others from being read. Every timestamptz is read as this.
pub(crate) struct Instant(pub(crate) Timestamp);

impl<'a> FromSql<'a> for Instant {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        let microseconds = i64::from_be_bytes(raw.try_into()?).saturating_add(EPOCH).max(FIRST);
        // No instant before it lies outside the range, so what does is too late.
        Ok(Self(Timestamp::from_microsecond(microseconds).unwrap_or(Timestamp::MAX)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(microseconds: i64) -> Timestamp {
        Instant::from_sql(&Type::TIMESTAMPTZ, &microseconds.to_be_bytes()).unwrap().0
    }

    #[test]
    fn any_timestamptz_is_read_as_an_instant_that_can_be_written() {
        assert_eq!(read(0).to_string(), "2000-01-01T00:00:00Z");
        assert_eq!(read(1_234_567).to_string(), "2000-01-01T00:00:01.234567Z");
        assert_eq!(read(-EPOCH), Timestamp::UNIX_EPOCH);
        // infinity, and the last microsecond that Postgres has.
        assert_eq!([i64::MAX, 9_223_371_331_199_999_999].map(read), [Timestamp::MAX; 2]);
        // -infinity, and the first.
        assert_eq!([i64::MIN, FIRST - EPOCH].map(|at| read(at).to_string()), ["-004713-11-24T00:00:00Z"; 2]);
    }
}
