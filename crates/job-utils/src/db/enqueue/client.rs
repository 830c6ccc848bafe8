//! What jobs can be enqueued on: a pool, a connection, an open transaction.

use deadpool_postgres::Object;
use postgres_types::{ToSql, Type};
use tokio_postgres::Row;

use crate::config::SchemaName;
use crate::db::statement::Parameters;
use crate::db::{Db, DbError};

/// A pool, a connection, or a transaction, that can enqueue. Statements are prepared once per connection where the client keeps
/// them (deadpool_postgres, [`Db`]), and sent in one round trip, unprepared, where it does not (tokio_postgres).
///
/// A future that is dropped before it is done, by a timeout say, may still enqueue: what was sent is sent. On a connection or a
/// transaction of the caller's its statement goes on, and what comes next there waits for it. A pool does not get back a
/// connection that is busy; a [`Db`] cancels the statement besides.
pub trait EnqueueClient: sealed::Rows + Sync {}

pub(crate) mod sealed {
    use super::{DbError, Parameters, Row, SchemaName};

    pub trait Rows {
        /// The schema that it is for; None: the usual one.
        fn schema(&self) -> Option<&SchemaName> {
            None
        }

        fn rows(
            &self,
            operation: &'static str,
            sql: &str,
            parameters: Parameters<'_>,
        ) -> impl Future<Output = Result<Vec<Row>, DbError>> + Send;
    }
}

macro_rules! unprepared {
    ($($client:ty),*) => {$(
        impl sealed::Rows for $client {
            async fn rows(&self, operation: &'static str, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, DbError> {
                self.query_typed(sql, parameters).await.map_err(DbError::query(operation))
            }
        }
        impl EnqueueClient for $client {}
    )*};
}
unprepared!(tokio_postgres::Client, tokio_postgres::Transaction<'_>);

macro_rules! prepared {
    ($($client:ty),*) => {$(
        impl sealed::Rows for $client {
            async fn rows(&self, operation: &'static str, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, DbError> {
                let types: Vec<Type> = parameters.iter().map(|(_, ty)| ty.clone()).collect();
                let statement = self.prepare_typed_cached(sql, &types).await.map_err(DbError::query(operation))?;
                let values: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|(value, _)| *value).collect();
                self.query(&statement, &values).await.map_err(DbError::query(operation))
            }
        }
        impl EnqueueClient for $client {}
    )*};
}
prepared!(Object, deadpool_postgres::ClientWrapper, deadpool_postgres::Transaction<'_>);

impl sealed::Rows for deadpool_postgres::Pool {
    async fn rows(&self, operation: &'static str, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, DbError> {
        let mut lent = Lent(None);
        let rows = lent.0.insert(self.get().await.map_err(DbError::Connect)?).rows(operation, sql, parameters).await;
        // Back into the pool.
        lent.0 = None;
        rows
    }
}

/// A pool's connection, whose statement is under way as long as it is here. Dropped then, it leaves the pool.
struct Lent(Option<Object>);

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.take().map(Object::take);
    }
}

impl EnqueueClient for deadpool_postgres::Pool {}

/// In the schema of its settings.
impl sealed::Rows for Db {
    fn schema(&self) -> Option<&SchemaName> {
        Some(Db::schema(self))
    }

    async fn rows(&self, operation: &'static str, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, DbError> {
        // Dropped before the answer, it cancels the statement, and the connection leaves the pool.
        let lent = self.operation().await?;
        let asked = async {
            if self.is_pooled() {
                return lent.query_typed(sql, parameters).await.map_err(DbError::query(operation));
            }
            Object::rows(&lent, operation, sql, parameters).await
        };
        lent.run_without_limit(asked).await
    }
}
impl EnqueueClient for Db {}
