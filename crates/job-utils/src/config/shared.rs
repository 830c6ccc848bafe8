//! Variables that more than one program reads, and how they are read.

use std::time::Duration;

use crate::config::{LONGEST, Reader, in_words};
use crate::wire::signature::CallbackSecrets;

crate::variables! {
    /// Worker and scheduler id, at least 4 characters; unset: `worker-0` and `scheduler-0`. Two live processes need two
    /// ids.
    pub HOSTNAME = "" for "worker, scheduler, service";
    /// Take every task (`true`), or only those in JOBS_SUPPORTED (`false`).
    pub JOBS_SUPPORT_ANY = "true" for "worker, scheduler, service";
    /// Task identifiers between commas, used when JOBS_SUPPORT_ANY is false.
    pub JOBS_SUPPORTED = "" for "worker, scheduler, service";
    /// How often to poll, without a notification: what LISTEN missed is found then.
    pub JOBS_POLL_INTERVAL = "5s" for "worker, scheduler, service";
    /// How long a stop waits for jobs in flight before it gives them back (Kubernetes kills after 30 s, Docker after
    /// 10: `--stop-timeout 30`; the compose file sets it).
    pub JOBS_SHUTDOWN_GRACE = "25s" for "worker, server, scheduler, service";
    /// Port for /healthz and /readyz of a worker or scheduler that runs alone; off when unset.
    pub JOBS_HEALTH_PORT = "" for "worker, scheduler";
    /// Port of the callback server, on all interfaces; it serves /healthz and /readyz as well.
    pub INTERNAL_JOBS_CALLBACK_PORT = "12345" for "worker, server, service";
    /// URL of the callback server as functions reach it; without a path, `/callback` is meant. The service tries it at
    /// its start, and warns when it leads elsewhere.
    pub INTERNAL_JOBS_CALLBACK_URL = "" for "worker, service, functions";
    /// Signs the callback URL of every attempt; then a callback without a valid signature is refused with 401. Two
    /// secrets between commas while one is replaced: the first signs, both are accepted.
    pub JOBS_CALLBACK_SECRET = "" for "worker, server, service";
    /// How long after a function has accepted a job its callback may come before the job fails. The function can have
    /// this extended.
    pub JOBS_CALLBACK_TIMEOUT = "4h" for "worker, server, service";
}

// Of RUST_LOG's default: the pool repeats each failed connection that its user reports anyway, refinery what migrate
// says.
crate::variables! {
    /// What to log, as `level` or `target=level,…` (levels error, warn, info, debug, trace).
    pub RUST_LOG = "info,deadpool.postgres=error,refinery_core=warn" for "all";
    /// Log lines for people (`text`) or as JSON (`json`).
    pub LOG_FORMAT = "text" for "all";
}

/// More than nothing.
pub const LEAST: Duration = Duration::from_nanos(1);

/// Why a duration will not do that is to be `least` at least.
pub fn duration_problem(duration: Duration, least: Duration) -> Option<String> {
    match duration {
        _ if duration > LONGEST => Some(format!("is longer than {}", in_words(LONGEST))),
        _ if duration >= least => None,
        _ if least == LEAST => Some("must be longer than 0".to_owned()),
        _ => Some(format!("must be at least {}", in_words(least))),
    }
}

/// Reads JOBS_HEALTH_PORT.
pub fn read_health_port(reader: &mut Reader<'_>) -> Option<u16> {
    let set = reader.optional(&JOBS_HEALTH_PORT).is_some();
    set.then(|| reader.number(&JOBS_HEALTH_PORT))
}

/// Reads JOBS_CALLBACK_SECRET.
pub fn read_secrets(reader: &mut Reader<'_>) -> Option<CallbackSecrets> {
    let list = reader.secret(&JOBS_CALLBACK_SECRET)?;
    let secrets = CallbackSecrets::parse(&list);
    match secrets.as_ref().map(CallbackSecrets::count) {
        None => reader.fault(&JOBS_CALLBACK_SECRET, "holds no secret: unset it, or give one"),
        Some(1 | 2) => {}
        Some(_) => reader.fault(&JOBS_CALLBACK_SECRET, "holds more than two secrets; a secret cannot hold a comma"),
    }
    secrets
}
