//! Header names, in the lower case in which HTTP libraries compare them.

/// The id of the worker that holds the job.
pub const X_WORKER_ID: &str = "x-worker-id";
/// The job's id, a decimal number.
pub const X_JOB_ID: &str = "x-job-id";
/// The tenant's database, a uuid; absent when the job has none.
pub const X_DATABASE_ID: &str = "x-database-id";
/// Who caused the job, a uuid; absent when unknown.
pub const X_ACTOR_ID: &str = "x-actor-id";
/// Where the function reports how the job ended. Its query string comes back unchanged.
pub const X_CALLBACK_URL: &str = "x-callback-url";
/// Names the attempt for the SQL function `complete_in_transaction`.
pub const X_JOB_TOKEN: &str = "x-job-token";
/// `true` on a function's answer or on a callback: the attempt failed.
pub const X_JOB_ERROR: &str = "x-job-error";
