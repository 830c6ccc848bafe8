//! Header names, in the lower case in which HTTP libraries compare them, and how headers that are flags are read.

use http::HeaderMap;

/// The id of the worker that holds the job.
pub const X_WORKER_ID: &str = "x-worker-id";
/// The job's id, a decimal number.
pub const X_JOB_ID: &str = "x-job-id";
/// The tenant's database, a uuid; absent when the job has none.
pub const X_DATABASE_ID: &str = "x-database-id";
/// Who caused the job, a uuid; absent when unknown.
pub const X_ACTOR_ID: &str = "x-actor-id";
/// The entity that the job is for, a uuid; absent when the job has none.
pub const X_ENTITY_ID: &str = "x-entity-id";
/// The organization that the job is for, a uuid; absent when the job has none.
pub const X_ORGANIZATION_ID: &str = "x-organization-id";
/// What a function sends back, with its answer and with its callback: which job it was, and for whom.
pub const ECHOED: [&str; 6] = [X_WORKER_ID, X_JOB_ID, X_DATABASE_ID, X_ACTOR_ID, X_ENTITY_ID, X_ORGANIZATION_ID];
/// Where the function reports how the job ended. Its query string comes back unchanged.
pub const X_CALLBACK_URL: &str = "x-callback-url";
/// Names the attempt for the SQL function `complete_in_transaction`.
pub const X_JOB_TOKEN: &str = "x-job-token";
/// `true` on a function's answer or on a callback: the attempt failed. Read by [`flag`].
pub const X_JOB_ERROR: &str = "x-job-error";
/// `false` on a function's answer or on a callback that says that the attempt failed: another would fail as well. Read
/// by [`flag`].
pub const X_JOB_RETRY: &str = "x-job-retry";
/// Which attempt of the job this is, from 1.
pub const X_JOB_ATTEMPT: &str = "x-job-attempt";
/// How many attempts the job has.
pub const X_JOB_MAX_ATTEMPTS: &str = "x-job-max-attempts";
/// The job's task identifier; what is not a visible ASCII character, and `%`, is percent-encoded.
pub const X_JOB_TASK: &str = "x-job-task";
/// On the callback server's answer to a request without a job: which process it is, so that one can tell whether a URL
/// leads there.
pub const X_CALLBACK_SERVER: &str = "x-callback-server";

/// Whether a header that is a flag is set: anything but `false`, `0` and nothing is true, as functions are written in
/// languages that spell it `True`, `TRUE` or `1`. Of several, one that is true counts. None when it is absent or empty.
///
/// ```
/// use http::{HeaderMap, HeaderValue};
/// use job_utils::wire::headers::{X_JOB_ERROR, flag};
/// let read = |value| flag(&HeaderMap::from_iter([(X_JOB_ERROR.parse().unwrap(), HeaderValue::from_static(value))]), X_JOB_ERROR);
/// assert_eq!([read("true"), read("True"), read("1"), read("yes")], [Some(true); 4]);
/// assert_eq!([read("false"), read(" False "), read("0")], [Some(false); 3]);
/// assert_eq!([read("false, true"), read("0,0")], [Some(true), Some(false)]);
/// assert_eq!([read(""), read(" "), flag(&HeaderMap::new(), X_JOB_ERROR)], [None; 3]);
/// ```
pub fn flag(headers: &HeaderMap, name: &str) -> Option<bool> {
    // A proxy may have joined several into one.
    let values = headers.get_all(name).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let set = values.map(<[u8]>::trim_ascii).filter(|value| !value.is_empty());
    set.map(|value| value != b"0" && !value.eq_ignore_ascii_case(b"false")).reduce(|one, other| one || other)
}
