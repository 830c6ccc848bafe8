//! What jobs can be enqueued on: a pool, a connection, an open transaction.

use deadpool_postgres::Object;
use postgres_types::{ToSql, Type};

use crate::config::SchemaName;
use crate::connection::Db;
use crate::connection::statement::Parameters;
use crate::error::DbError;
use crate::jobs::enqueue::row::Row;

/// A pool, a connection, or a transaction, that can enqueue. Statements are prepared once per connection where the
/// client keeps them (deadpool_postgres, sqlx, [`Db`]), and sent in one round trip, unprepared, where it does not
/// (tokio_postgres).
///
/// | of | it is |
/// |---|---|
/// | this crate | `&db` |
/// | deadpool-postgres | `&pool`, `&object`, `&transaction` |
/// | tokio-postgres | `&client`, `&transaction` |
/// | sqlx, with the feature `sqlx` | `&pool`, `&mut *connection`, `&mut *transaction` |
///
/// A future that is dropped before it is done, by a timeout say, may still enqueue: what was sent is sent. On a
/// connection or a transaction of the caller's its statement goes on, and what comes next there waits for it. A pool
/// does not get back a connection that is busy; a [`Db`] cancels the statement besides.
#[diagnostic::on_unimplemented(
    message = "jobs cannot be enqueued on `{Self}`",
    label = "no reference to a pool, a connection or a transaction that is known here",
    note = "known are: `&db`; `&pool`, `&object`, `&transaction` of deadpool-postgres and `&client`, `&transaction` of tokio-postgres, \
            in the versions that this crate re-exports",
    note = "with its feature `sqlx` also `&mut *transaction`, `&mut *connection` and `&pool` of sqlx 0.9",
    note = "everything else that runs SQL enqueues by `SELECT id FROM app_jobs.enqueue('task', …)`: see docs/library.md"
)]
pub trait EnqueueClient: sealed::Rows + Send {}

pub(crate) mod sealed {
    use super::{DbError, Parameters, Row, SchemaName};

    pub trait Rows {
        /// The schema that it is for.
        fn schema(&self) -> SchemaName {
            SchemaName::default()
        }

        fn rows(
            &mut self,
            operation: &'static str,
            sql: &str,
            parameters: Parameters<'_>,
        ) -> impl Future<Output = Result<Vec<Row>, DbError>> + Send;
    }
}

/// The rows of a client, as those of any.
pub(super) fn of_client(rows: Vec<tokio_postgres::Row>) -> Vec<Row> {
    rows.into_iter().map(Row::Client).collect()
}

macro_rules! unprepared {
    ($($client:ty),*) => {$(
        impl sealed::Rows for $client {
            async fn rows(&mut self, operation: &'static str, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, DbError> {
                self.query_typed(sql, parameters).await.map(of_client).map_err(DbError::query(operation))
            }
        }
        impl EnqueueClient for $client {}
    )*};
}
unprepared!(&tokio_postgres::Client, &tokio_postgres::Transaction<'_>);

macro_rules! prepared {
    ($($client:ty),*) => {$(
        impl sealed::Rows for $client {
            async fn rows(&mut self, operation: &'static str, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, DbError> {
                let (types, values): (Vec<Type>, Vec<&(dyn ToSql + Sync)>) =
                    parameters.iter().map(|(value, ty)| (ty.clone(), *value)).unzip();
                let statement = self.prepare_typed_cached(sql, &types).await.map_err(DbError::query(operation))?;
                self.query(&statement, &values).await.map(of_client).map_err(DbError::query(operation))
            }
        }
        impl EnqueueClient for $client {}
    )*};
}
prepared!(&Object, &deadpool_postgres::ClientWrapper, &deadpool_postgres::Transaction<'_>);

impl sealed::Rows for &deadpool_postgres::Pool {
    async fn rows(
        &mut self,
        operation: &'static str,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, DbError> {
        let mut connection = CheckedOut(None);
        let mut object: &Object = connection.0.insert(self.get().await.map_err(DbError::Connect)?);
        let rows = sealed::Rows::rows(&mut object, operation, sql, parameters).await;
        // Back into the pool.
        connection.0 = None;
        rows
    }
}

/// A pool's connection, whose statement is under way as long as it is here. Dropped then, it leaves the pool.
struct CheckedOut(Option<Object>);

impl Drop for CheckedOut {
    fn drop(&mut self) {
        self.0.take().map(Object::take);
    }
}

impl EnqueueClient for &deadpool_postgres::Pool {}

/// In the schema of its settings.
impl sealed::Rows for &Db {
    fn schema(&self) -> SchemaName {
        Db::schema(self).clone()
    }

    async fn rows(
        &mut self,
        operation: &'static str,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, DbError> {
        // Dropped before the answer, it cancels the statement, and the connection leaves the pool.
        let connection = self.operation().await?;
        let asked = async {
            if self.is_pooled() {
                return connection.query_typed(sql, parameters).await.map(of_client).map_err(DbError::query(operation));
            }
            let mut object: &Object = &connection;
            sealed::Rows::rows(&mut object, operation, sql, parameters).await
        };
        connection.run_without_limit(asked).await
    }
}
impl EnqueueClient for &Db {}

macro_rules! as_shared {
    ($($client:ty),*) => {$(
        impl sealed::Rows for &mut $client {
            fn schema(&self) -> SchemaName {
                sealed::Rows::schema(&&**self)
            }

            async fn rows(&mut self, operation: &'static str, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, DbError> {
                sealed::Rows::rows(&mut &**self, operation, sql, parameters).await
            }
        }
        impl EnqueueClient for &mut $client {}
    )*};
}
as_shared!(Db, deadpool_postgres::Pool, Object, deadpool_postgres::ClientWrapper, deadpool_postgres::Transaction<'_>);
as_shared!(tokio_postgres::Client, tokio_postgres::Transaction<'_>);
