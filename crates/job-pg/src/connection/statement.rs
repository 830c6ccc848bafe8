//! Statement: one parameterised statement on a pooled connection.
//!
//! Prepared once per connection where connections are sessions of our own. Behind a pooler in transaction mode a
//! prepared statement stays in a session that the next transaction may not get, and its name may be another process's
//! there: so the statement goes out unnamed, parsed, bound and executed in one flush, with its parameters' types given.

use deadpool_postgres::ClientWrapper;
use postgres_types::{ToSql, Type};
use tokio_postgres::{Error, Row, Statement};

use crate::connection::Db;

/// Values with their types.
pub(crate) type Parameters<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

impl Db {
    /// Runs a statement whose text has the schema's placeholder, and returns its rows. What runs seldom is better run
    /// by the client's own `query_typed`, which is safe everywhere.
    pub(crate) async fn rows(
        &self,
        client: &ClientWrapper,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Error> {
        let sql = self.sql(sql);
        if self.is_pooled() {
            return client.query_typed(&sql, parameters).await;
        }
        let (statement, values) = prepare(client, &sql, parameters).await?;
        client.query(&statement, &values).await
    }

    /// [`Db::rows`] of a statement that has exactly one.
    pub(crate) async fn row(
        &self,
        client: &ClientWrapper,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<Row, Error> {
        let sql = self.sql(sql);
        if self.is_pooled() {
            return client.query_typed_one(&sql, parameters).await;
        }
        let (statement, values) = prepare(client, &sql, parameters).await?;
        client.query_one(&statement, &values).await
    }
}

async fn prepare<'a>(
    client: &ClientWrapper,
    sql: &str,
    parameters: Parameters<'a>,
) -> Result<(Statement, Vec<&'a (dyn ToSql + Sync)>), Error> {
    let types: Vec<Type> = parameters.iter().map(|(_, ty)| ty.clone()).collect();
    let statement = client.prepare_typed_cached(sql, &types).await?;
    Ok((statement, parameters.iter().map(|(value, _)| *value).collect()))
}
