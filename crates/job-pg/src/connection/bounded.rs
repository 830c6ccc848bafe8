//! Bounded reading: rows up to a number of bytes, which several look-ups may share.
//!
//! A limit of rows does not bound memory, for a payload can have any size. So rows are taken one by one as they arrive,
//! and when the bytes are used up the statement is cancelled: what it would still have sent is not waited for.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::TryStreamExt;
use postgres_types::{ToSql, Type};
use tokio_postgres::{Error, Row};

use crate::connection::Db;
use crate::error::DbError;

/// Bytes that may still be read. Look-ups that run at once take from the same.
#[derive(Debug)]
pub struct ReadBudget {
    left: AtomicUsize,
}

impl ReadBudget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self { left: AtomicUsize::new(bytes) }
    }

    /// Takes bytes. False when there are not as many left; then none are left for anybody.
    pub fn take(&self, bytes: usize) -> bool {
        let take = |left: usize| Some(left.saturating_sub(bytes));
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok_and(|left| left >= bytes)
    }

    /// How many are left.
    pub fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }
}

impl Db {
    /// The rows of a statement; None when they are more than the budget has bytes for.
    ///
    /// # Errors
    /// The database did not answer, or not with such rows.
    pub async fn rows_within<T>(
        &self,
        operation: &'static str,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
        budget: &ReadBudget,
        read: impl Fn(&Row) -> Result<T, Error>,
    ) -> Result<Option<Vec<T>>, DbError> {
        let client = self.operation().await?;
        let work = async {
            let parameters = parameters.iter().map(|(value, kind)| (*value, kind.clone()));
            // Not prepared: a pooler may be in between.
            let mut stream = pin!(client.query_typed_raw(sql, parameters).await?);
            let mut rows = Vec::new();
            while let Some(row) = stream.try_next().await? {
                if !budget.take(row.raw_size_bytes()) {
                    return Ok(None);
                }
                rows.push(read(&row)?);
            }
            Ok(Some(rows))
        };
        client.run_or_leave(operation, work).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_up_is_used_up_for_everybody() {
        let budget = ReadBudget::new(10);
        assert!(budget.take(4) && budget.take(6));
        assert!(budget.take(0) && !budget.take(1));
        let budget = ReadBudget::new(10);
        assert!(!budget.take(11));
        assert_eq!(budget.left(), 0);
    }
}
