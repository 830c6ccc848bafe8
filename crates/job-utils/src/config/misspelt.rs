//! Misspelt variables: what is set under a name that no program reads, and nearly is one.
//!
//! A variable of somebody else's must not be taken for one of ours. So a name is told only when it differs by a
//! character or two from a variable that is unset, and what Kubernetes sets for its services is left out.

use std::collections::HashSet;

use crate::config::nearest::nearest;
use crate::config::shared::{LOG_FORMAT, RUST_LOG};
use crate::config::{Env, Var};

/// A shorter name is near to too many others.
const SHORTEST: usize = 6;
/// From this length on two characters may differ, else one.
const LONG: usize = 14;

/// The variables that a program knows.
#[derive(Debug, Clone)]
pub struct Known {
    read: Vec<&'static Var>,
    ignored: fn(&str) -> bool,
}

impl Known {
    /// The variables that the program reads, and those of its logging.
    pub fn new(read: &[&[&'static Var]]) -> Self {
        let mut read = read.concat();
        read.extend([&RUST_LOG, &LOG_FORMAT]);
        let mut names = HashSet::new();
        read.retain(|var| names.insert(var.name));
        Self { read, ignored: |_| false }
    }

    /// Names for which `ignored` is true belong to somebody else, although they may be near to one of ours.
    #[must_use]
    pub fn but(self, ignored: fn(&str) -> bool) -> Self {
        Self { ignored, ..self }
    }

    /// The variables that the program reads, each once.
    pub fn read(&self) -> &[&'static Var] {
        &self.read
    }
}

/// Names that are set and not known, each with the unset variable that was probably meant.
///
/// ```
/// use job_utils::config::{Known, Var, misspelt};
/// const LIMIT: Var = Var { name: "UPLOAD_LIMIT", default: "5", used_by: "functions", about: "Files an hour." };
/// let env = std::collections::BTreeMap::from([("UPLOAD_LIMITS", "4"), ("DOWNLOADS", "on")]);
/// assert_eq!(misspelt(&env, &Known::new(&[&[&LIMIT]])), [("UPLOAD_LIMITS".to_owned(), "UPLOAD_LIMIT")]);
/// ```
pub fn misspelt(env: &dyn Env, known: &Known) -> Vec<(String, &'static str)> {
    let mut unknown = env.names();
    unknown.sort_unstable();
    unknown.retain(|name| {
        known.read.iter().all(|var| var.name != name) && !(known.ignored)(name) && !is_of_kubernetes(env, name)
    });
    let unset = known.read.iter().map(|var| var.name).filter(|name| env.get(name).is_none());
    let (long, short): (Vec<_>, Vec<_>) = unset.filter(|name| name.len() >= SHORTEST).partition(|n| n.len() >= LONG);
    let meant = |name: &str| nearest(name, short.iter().copied(), 1).or_else(|| nearest(name, long.iter().copied(), 2));
    unknown.into_iter().filter_map(|name| meant(&name).map(|meant| (name, meant))).collect()
}

/// Whether Kubernetes (or Docker's links) has set a variable: for a service jobs-callback,
/// JOBS_CALLBACK_PORT=tcp://10.0.0.1:8080 and more of the kind.
fn is_of_kubernetes(env: &dyn Env, name: &str) -> bool {
    let of_service = ["_SERVICE_HOST", "_SERVICE_PORT", "_TCP", "_TCP_ADDR", "_TCP_PORT", "_TCP_PROTO"];
    of_service.iter().any(|end| name.ends_with(end))
        || env.get(name).is_some_and(|value| value.starts_with("tcp://") || value.starts_with("udp://"))
}
