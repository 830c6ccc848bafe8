//! Cancel: end jobs for good, whether they wait or run.

use postgres_types::Type;
use tokio_postgres::error::SqlState;

use crate::connection::statement::Parameters;
use crate::error::DbError;
use crate::handles::admin::AdminDb;

const CANCEL: &str = "SELECT id FROM @extschema@.cancel_jobs($1, $2)";

const LEFT: &str = "SELECT id FROM @extschema@.jobs WHERE id = ANY ($1) ORDER BY id";

/// What became of jobs that were to be cancelled. Ids of jobs that are done, or never were, are in neither list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CancelledJobs {
    /// They are gone.
    pub cancelled: Vec<i64>,
    /// They are still there: another transaction holds them, such as that of their handler, or they have failed for
    /// good.
    pub left: Vec<i64>,
}

/// Jobs that were not cancelled.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum CancelError {
    /// An argument cannot be used: what is wrong, and what to do.
    #[error("{0}")]
    Refused(String),
    /// The database did not do it.
    #[error(transparent)]
    Db(#[from] DbError),
}

job_utils::debug_as_chain!(CancelError);

impl AdminDb {
    /// Ends jobs for good. Those that wait are gone at once. Of those that run the attempt ends within two seconds: its
    /// request is closed, or its handler is told and ended. Of those that a function has accepted the callback does
    /// nothing any more. None is tried again.
    ///
    /// # Errors
    /// [`CancelError::Refused`] for a reason of more than 1000 characters.
    pub async fn cancel_jobs(&self, ids: &[i64], reason: Option<&str>) -> Result<CancelledJobs, CancelError> {
        let client = self.db.operation().await?;
        let (cancel, left) = (self.db.sql(CANCEL), self.db.sql(LEFT));
        let ids_parameter = (&ids as _, Type::INT8_ARRAY);
        let with_reason: Parameters<'_> = &[ids_parameter.clone(), (&reason, Type::TEXT)];
        let result = async {
            let rows = client.query_typed(&cancel, with_reason).await?;
            let cancelled: Vec<i64> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
            let rows = client.query_typed(&left, &[ids_parameter]).await?;
            let left = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
            Ok(CancelledJobs { cancelled, left })
        };
        client.run("cancel jobs", result).await.map_err(|error| match &error {
            DbError::Query { source, .. } => match source.as_db_error() {
                Some(told) if *told.code() == SqlState::INVALID_PARAMETER_VALUE => {
                    let help = told.hint().map(|hint| format!(". {hint}")).unwrap_or_default();
                    CancelError::Refused(format!("{}{help}", told.message()))
                }
                _ => CancelError::Db(error),
            },
            _ => CancelError::Db(error),
        })
    }
}
