//! Enqueueing on sqlx's pools, connections and transactions: the same statements, with the same parameters, in its
//! driver.
//!
//! Both drivers speak the binary format, so a parameter is written, and a column read, by postgres-types in either.

use bytes::BytesMut;
use postgres_types::{FromSqlOwned, ToSql, Type};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::pool::PoolConnection;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgConnection, PgPool, PgRow, PgTypeInfo, Postgres};
use sqlx::{Arguments, AssertSqlSafe, Encode, Executor, Row as _, Transaction, ValueRef};

use crate::connection::statement::Parameters;
use crate::error::DbError;
use crate::jobs::enqueue::EnqueueClient;
use crate::jobs::enqueue::client::sealed;
use crate::jobs::enqueue::row::Row;

/// A parameter with its type.
struct Parameter<'a>(&'a (dyn ToSql + Sync), &'a Type);

impl Encode<'_, Postgres> for Parameter<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let mut bytes = BytesMut::new();
        match self.0.to_sql_checked(self.1, &mut bytes)? {
            postgres_types::IsNull::Yes => Ok(IsNull::Yes),
            postgres_types::IsNull::No => {
                buffer.extend_from_slice(&bytes);
                Ok(IsNull::No)
            }
        }
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(Oid(self.1.oid())))
    }
}

impl sqlx::Type<Postgres> for Parameter<'_> {
    // Not asked: each has its own.
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(Type::UNKNOWN.oid()))
    }
}

/// Runs a statement and returns its rows.
async fn run<'c>(
    client: impl Executor<'c, Database = Postgres>,
    operation: &'static str,
    sql: &str,
    parameters: Parameters<'_>,
) -> Result<Vec<Row>, DbError> {
    let mut arguments = PgArguments::default();
    for (value, ty) in parameters {
        let added = arguments.add(Parameter(*value, ty));
        added.map_err(|error| DbError::sqlx(operation)(sqlx::Error::Encode(error)))?;
    }
    // Our own texts, with a schema's name that was checked and quoted.
    let rows = sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_all(client).await;
    Ok(rows.map_err(DbError::sqlx(operation))?.into_iter().map(Row::Sqlx).collect())
}

/// A column's value.
pub(super) fn get<T: FromSqlOwned>(row: &PgRow, column: usize) -> Result<T, sqlx::Error> {
    let refused = |source: BoxDynError| sqlx::Error::ColumnDecode { index: column.to_string(), source };
    let value = row.try_get_raw(column)?;
    let ty = value.type_info().oid().and_then(|oid| Type::from_oid(oid.0)).unwrap_or(Type::UNKNOWN);
    if !T::accepts(&ty) {
        return Err(refused(format!("of type {ty}").into()));
    }
    let bytes = if value.is_null() { None } else { Some(value.as_bytes().map_err(refused)?) };
    T::from_sql_nullable(&ty, bytes).map_err(refused)
}

macro_rules! on {
    ($($client:ty => |$self:ident| $executor:expr),* $(,)?) => {$(
        impl sealed::Rows for $client {
            async fn rows(
                &mut self,
                operation: &'static str,
                sql: &str,
                parameters: Parameters<'_>,
            ) -> Result<Vec<Row>, DbError> {
                let $self = self;
                run($executor, operation, sql, parameters).await
            }
        }
        impl EnqueueClient for $client {}
    )*};
}
on! {
    &PgPool => |pool| &**pool,
    &mut PgConnection => |connection| &mut **connection,
    &mut PoolConnection<Postgres> => |connection| &mut ***connection,
    &mut Transaction<'_, Postgres> => |transaction| &mut ***transaction,
}
