//! Misspelt variables: what is set under a name that no program reads, and nearly is one.
//!
//! A variable of somebody else's must not be taken for one of ours. So a name is told only when it differs by a character or
//! two from a variable that is unset, and what Kubernetes sets for its services is
//! left out, like the variables of libpq.

use crate::config::nearest::nearest;
use crate::config::{Env, Var, libpq};

/// A shorter name is near to too many others.
const SHORTEST: usize = 6;
/// From this length on two characters may differ, else one.
const LONG: usize = 14;

/// Names that are set and not known, each with the unset variable that was probably meant.
///
/// ```
/// use job_utils::config::{all, misspelt};
/// let env = std::collections::BTreeMap::from([("JOBS_CONCURENCY", "4"), ("JOBS_DASHBOARD", "on")]);
/// assert_eq!(misspelt(&env, &all()), [("JOBS_CONCURENCY".to_owned(), "JOBS_CONCURRENCY")]);
/// ```
pub fn misspelt(env: &dyn Env, known: &[&'static Var]) -> Vec<(String, &'static str)> {
    let mut unknown = env.names();
    unknown.sort_unstable();
    unknown.retain(|name| known.iter().all(|var| var.name != name) && !is_of_others(env, name));
    let unset = known.iter().map(|var| var.name).filter(|name| env.get(name).is_none());
    let (long, short): (Vec<_>, Vec<_>) = unset.filter(|name| name.len() >= SHORTEST).partition(|n| n.len() >= LONG);
    let meant = |name: &str| nearest(name, short.iter().copied(), 1).or_else(|| nearest(name, long.iter().copied(), 2));
    unknown.into_iter().filter_map(|name| meant(&name).map(|meant| (name, meant))).collect()
}

fn is_of_others(env: &dyn Env, name: &str) -> bool {
    libpq::is_variable(name) || is_of_kubernetes(env, name)
}

/// Whether Kubernetes (or Docker's links) has set a variable: for a service jobs-callback, JOBS_CALLBACK_PORT=tcp://10.0.0.1:8080
/// and more of the kind.
fn is_of_kubernetes(env: &dyn Env, name: &str) -> bool {
    let of_service = ["_SERVICE_HOST", "_SERVICE_PORT", "_TCP", "_TCP_ADDR", "_TCP_PORT", "_TCP_PROTO"];
    of_service.iter().any(|end| name.ends_with(end))
        || env.get(name).is_some_and(|value| value.starts_with("tcp://") || value.starts_with("udp://"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::all;

    fn found(pairs: &[(&'static str, &'static str)]) -> Vec<(String, &'static str)> {
        misspelt(&pairs.iter().copied().collect::<BTreeMap<_, _>>(), &all())
    }

    #[test]
    fn a_misspelt_variable_is_told_with_the_one_that_was_meant() {
        for (written, meant) in [
            ("JOBS_CONCURENCY", "JOBS_CONCURRENCY"),
            ("JOB_CONCURRENCY", "JOBS_CONCURRENCY"),
            ("JOBS_SUPPORT", "JOBS_SUPPORTED"),
            ("JOBS_CALLBAKC_SECRET", "JOBS_CALLBACK_SECRET"),
            ("jobs_schema", "JOBS_SCHEMA"),
            ("KNATIVE_SERVICE_URI", "KNATIVE_SERVICE_URL"),
            ("INTERNAL_JOB_CALLBACK_URL", "INTERNAL_JOBS_CALLBACK_URL"),
            ("PGHSOT", "PGHOST"),
        ] {
            assert_eq!(found(&[(written, "x")]), [(written.to_owned(), meant)]);
        }
    }

    #[test]
    fn variables_of_others_are_left_alone() {
        for name in [
            "PATH",
            "HOME",
            "PORT2",
            "TZDIR",
            "PGDATA",
            "PGSSLCRL",
            "PGPASSFILE",
            "PGSERVICE",
            "NODE_OPTIONS",
            "JOBS_DASHBOARD",
            "JOBS_QUEUE",
            "JOBS_URL",
            "JOBS_TIMEOUT",
            "DATABASE_SSL",
            "DATABASE_USER",
            "DATABASE_HOST",
            "LOG_LEVEL",
            "RUST_BACKTRACE",
            "HOST",
            "HOSTTYPE",
            "SMTP_HOST",
            "GRAPHQL_URL",
            "ADMIN_TOKEN",
            "JOBS_CALLBACK_SERVICE_HOST",
            "JOBS_CALLBACK_SERVICE_PORT",
            "JOBS_CALLBACK_PORT_8080_TCP",
        ] {
            assert_eq!(found(&[(name, "x")]), [], "{name}");
        }
        assert_eq!(found(&[("JOBS_CALLBACK_PORT", "tcp://10.0.0.1:8080")]), []);
        // Whoever has set the right one has found out, or means something else by the other.
        assert_eq!(found(&[("JOBS_CONCURENCY", "x"), ("JOBS_CONCURRENCY", "4")]), []);
        for var in all() {
            assert_eq!(found(&[(var.name, "x")]), [], "{}", var.name);
        }
    }
}
