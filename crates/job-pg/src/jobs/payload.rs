//! Payload: bring a payload that was too large to come with its claim, in pieces.
//!
//! The client reads a whole row before it gives it out, and its buffer, which lasts as long as the connection, grows to
//! twice of that. So the payload comes in rows of a fixed size, and is in memory once.

use std::pin::pin;

use futures_util::TryStreamExt;
use postgres_types::{ToSql, Type};

use crate::connection::Db;
use crate::connection::statement::Parameters;
use crate::error::DbError;
use crate::jobs::Job;

/// How much comes in a row.
const PIECE: usize = 256 << 10;

/// The bytes of a payload, for a claim that stands. Where it is stored as it is, they are known without reading it.
const SIZE: &str = "SELECT CASE WHEN pg_catalog.pg_column_compression(j.payload) IS NULL THEN pg_catalog.pg_column_size(j.payload) \
                    ELSE octet_length(j.payload::text) END FROM @extschema@.jobs j WHERE j.id = $1 AND j.epoch = $2";

/// As json_send has it, the payload is bytes in the client's encoding, which is UTF-8: to cut them takes no walk over
/// the characters before. OFFSET keeps the planner from reading it for each piece anew.
const PIECES: &str = "SELECT n.i, substr(p.bytes, n.i * $3 + 1, $3) FROM \
                      (SELECT json_send(j.payload) AS bytes FROM @extschema@.jobs j WHERE j.id = $1 AND j.epoch = $2 OFFSET 0) p, \
                      LATERAL generate_series(0, (octet_length(p.bytes) - 1) / $3) AS n (i)";

impl Db {
    /// About how many bytes a claimed job's payload has; None when the claim no longer stands.
    pub(crate) async fn payload_size(&self, job: &Job) -> Result<Option<usize>, DbError> {
        let client = self.operation().await?;
        let sql = self.sql(SIZE);
        let parameters: Parameters<'_> = &[(&job.id, Type::INT8), (&job.epoch, Type::INT8)];
        let result = async {
            let rows = client.query_typed(&sql, parameters).await?;
            rows.first().map(|row| row.try_get::<_, i32>(0)).transpose()
        };
        let size = client.run("read a payload's size", result).await?;
        Ok(size.map(|size| usize::try_from(size).unwrap_or_default()))
    }

    /// Brings a claimed job's payload, of about `size` bytes; false when the claim no longer stands. Each piece has as
    /// long as a statement has.
    pub(crate) async fn load_payload(&self, job: &mut Job, size: usize) -> Result<bool, DbError> {
        let client = self.operation().await?;
        let sql = self.sql(PIECES);
        let limit = self.statement_timeout();
        let timeout = |_| DbError::Timeout { operation: "fetch a payload", limit };
        let failed = DbError::query("fetch a payload");
        let mut bytes: Vec<u8> = Vec::with_capacity(size);
        let piece = i32::try_from(PIECE).unwrap_or(i32::MAX);
        let parameters: Vec<(&(dyn ToSql + Sync), Type)> =
            vec![(&job.id, Type::INT8), (&job.epoch, Type::INT8), (&piece, Type::INT4)];
        let fetched = client.run_without_limit(async {
            let sent = tokio::time::timeout(limit, client.query_typed_raw(&sql, parameters)).await;
            let mut rows = pin!(sent.map_err(timeout)?.map_err(failed)?);
            let mut found = false;
            while let Some(row) =
                tokio::time::timeout(limit, rows.try_next()).await.map_err(timeout)?.map_err(failed)?
            {
                let number: i32 = row.try_get(0).map_err(failed)?;
                let piece: &[u8] = row.try_get(1).map_err(failed)?;
                let begin = usize::try_from(number).unwrap_or_default() * PIECE;
                if bytes.len() < begin + piece.len() {
                    bytes.resize(begin + piece.len(), 0);
                }
                bytes[begin..begin + piece.len()].copy_from_slice(piece);
                found = true;
            }
            Ok(found)
        });
        if !fetched.await? {
            return Ok(false);
        }
        job.payload =
            String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        job.deferred = false;
        Ok(true)
    }
}
