//! The parts that every list shares: its shape, its limit, what it counts for, and its filters.

use std::borrow::Cow;

use async_graphql::{InputObject, MaybeUndefined, OutputType, Result, SimpleObject, TypeName};
use uuid::Uuid;

use crate::error::bad_input;
use crate::scalars::BigInt;

/// The most rows of a list, and what a list without `first` has.
const MAX_ROWS: i32 = 1000;

/// A list of rows, in PostGraphile's shape.
#[derive(SimpleObject)]
#[graphql(name_type)]
pub(crate) struct Connection<T: OutputType> {
    /// The rows, in a fixed order.
    pub(crate) nodes: Vec<T>,
}

/// As PostGraphile names it: `JobsConnection` of `Job`.
impl<T: OutputType> TypeName for Connection<T> {
    fn type_name() -> Cow<'static, str> {
        format!("{}sConnection", T::type_name()).into()
    }
}

/// How many rows a list gets: `first`, at most 1000.
pub(crate) fn limit(first: Option<i32>) -> Result<i64> {
    match first.unwrap_or(MAX_ROWS) {
        rows @ 0..=MAX_ROWS => Ok(rows.into()),
        rows => Err(bad_input(format!("first: {rows} is not between 0 and {MAX_ROWS}"))),
    }
}

/// How many fields a list counts for: those of one row for each row that it can have.
pub(crate) fn complexity(first: Option<i32>, row: usize) -> usize {
    let rows = usize::try_from(first.unwrap_or(MAX_ROWS)).unwrap_or(0);
    rows.saturating_mul(row).saturating_add(1)
}

/// The same for a list below a row. Without `first` it counts for one row, as sites have one domain, theme and module;
/// more are for the budget in bytes to stop.
pub(crate) fn inner_complexity(first: Option<i32>, row: usize) -> usize {
    complexity(Some(first.unwrap_or(1)), row)
}

macro_rules! filter {
    ($(#[$about:meta])* $type:ident, $name:literal, $value:ty) => {
        $(#[$about])*
        #[derive(InputObject)]
        #[graphql(name = $name)]
        pub(crate) struct $type {
            /// Equal to this value; null is refused, for it would not filter.
            equal_to: MaybeUndefined<$value>,
        }

        impl $type {
            /// The wanted value of a filter that may be absent.
            pub(crate) fn wanted(filter: Option<Self>) -> Result<Option<$value>> {
                match filter.map(|filter| filter.equal_to) {
                    None | Some(MaybeUndefined::Undefined) => Ok(None),
                    Some(MaybeUndefined::Value(value)) => Ok(Some(value)),
                    Some(MaybeUndefined::Null) => Err(bad_input("equalTo must not be null")),
                }
            }
        }
    };
}

filter! {
    /// A condition on a UUID.
    UuidFilter, "UUIDFilter", Uuid
}
filter! {
    /// A condition on a text.
    StringFilter, "StringFilter", String
}
filter! {
    /// A condition on a big integer.
    BigIntFilter, "BigIntFilter", BigInt
}
