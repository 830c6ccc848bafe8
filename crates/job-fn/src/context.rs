//! What a handler is told about its job besides the payload.

use axum::http::HeaderMap;
use job_utils::config::Secret;
use job_utils::wire::headers::{
    X_ACTOR_ID, X_DATABASE_ID, X_ENTITY_ID, X_JOB_ATTEMPT, X_JOB_ID, X_JOB_MAX_ATTEMPTS, X_JOB_TASK, X_JOB_TOKEN,
    X_ORGANIZATION_ID, X_WORKER_ID,
};
use percent_encoding::percent_decode_str;

use crate::callback::Extension;
use crate::headers::text;

/// The job that a handler runs for. Every field is None when the caller did not send it, so a function can be tried
/// with curl alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Context {
    /// The worker that holds the job.
    pub worker_id: Option<String>,
    /// The job's id, a decimal number.
    pub job_id: Option<String>,
    /// The tenant's database, a uuid.
    pub database_id: Option<String>,
    /// Who caused the job, a uuid.
    pub actor_id: Option<String>,
    /// The entity that the job is for, a uuid.
    pub entity_id: Option<String>,
    /// The organization that the job is for, a uuid.
    pub organization_id: Option<String>,
    /// The task's identifier.
    pub task: Option<String>,
    /// Which attempt of the job this is, from 1.
    pub attempt: Option<u32>,
    /// How many attempts the job has.
    pub max_attempts: Option<u32>,
    /// Names this attempt for the SQL function `complete_in_transaction`, for a function that shares the database.
    pub token: Option<Secret>,
    /// How to ask for more time.
    pub(crate) extension: Option<Extension>,
}

impl Context {
    pub(crate) fn from_headers(headers: &HeaderMap) -> Self {
        Self {
            worker_id: text(headers, X_WORKER_ID),
            job_id: text(headers, X_JOB_ID),
            database_id: text(headers, X_DATABASE_ID),
            actor_id: text(headers, X_ACTOR_ID),
            entity_id: text(headers, X_ENTITY_ID),
            organization_id: text(headers, X_ORGANIZATION_ID),
            task: text(headers, X_JOB_TASK).map(|task| percent_decode_str(&task).decode_utf8_lossy().into_owned()),
            attempt: text(headers, X_JOB_ATTEMPT).and_then(|number| number.parse().ok()),
            max_attempts: text(headers, X_JOB_MAX_ATTEMPTS).and_then(|number| number.parse().ok()),
            token: text(headers, X_JOB_TOKEN).map(Secret::new),
            extension: None,
        }
    }
}
