//! Row: what a client of whatever kind has answered.

use postgres_types::FromSqlOwned;

use crate::error::DbError;

/// A row of an answer.
pub enum Row {
    /// Of tokio-postgres, also by deadpool.
    Client(tokio_postgres::Row),
    #[cfg(feature = "sqlx")]
    Sqlx(sqlx::postgres::PgRow),
}

impl Row {
    /// How many columns there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Client(row) => row.len(),
            #[cfg(feature = "sqlx")]
            Self::Sqlx(row) => sqlx::Row::len(row),
        }
    }

    /// A column's value, in what answers an operation.
    pub(crate) fn get<T: FromSqlOwned>(&self, column: usize, operation: &'static str) -> Result<T, DbError> {
        match self {
            Self::Client(row) => row.try_get(column).map_err(DbError::query(operation)),
            #[cfg(feature = "sqlx")]
            Self::Sqlx(row) => super::sqlx::get(row, column).map_err(DbError::sqlx(operation)),
        }
    }
}
