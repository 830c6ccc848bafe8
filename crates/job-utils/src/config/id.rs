//! The id of a worker or a scheduler.

use crate::config::Reader;
use crate::config::worker::HOSTNAME;

/// An id for a worker or a scheduler that nobody has named: two live ones need two.
pub(crate) fn random_id(kind: &str) -> String {
    format!("{kind}-{}", uuid::Uuid::new_v4().simple())
}

/// Reads HOSTNAME, or takes `fallback`. Ids have at least 4 characters in the database.
pub(crate) fn read_id(reader: &mut Reader<'_>, fallback: &str) -> String {
    let id = reader.optional(&HOSTNAME).unwrap_or_else(|| fallback.to_owned());
    if let Some(message) = id_problem(&id) {
        reader.fault(&HOSTNAME, message);
    }
    id
}

/// Why an id cannot be one.
pub(super) fn id_problem(id: &str) -> Option<String> {
    let fits = id.chars().count() >= 4 && id.chars().all(|c| c.is_ascii_graphic());
    (!fits).then(|| format!("{id:?} cannot be a worker id: at least 4 visible ASCII characters"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::config::{SchedulerConfig, WorkerConfig};

    #[test]
    fn who_is_not_named_has_an_id_of_its_own() {
        let ids = [WorkerConfig::default(), WorkerConfig::default()].map(|config| config.worker_id);
        assert_ne!(ids[0], ids[1]);
        assert!(ids[0].starts_with("worker-") && ids[0] != "worker-0", "{}", ids[0]);
        assert!(WorkerConfig::default().problems().is_empty());
        let ids = [SchedulerConfig::default(), SchedulerConfig::default()].map(|config| config.scheduler_id);
        assert_ne!(ids[0], ids[1]);
        assert!(ids[0].starts_with("scheduler-") && ids[0] != "scheduler-0", "{}", ids[0]);
        // In the environment's stead it is the contract's.
        assert_eq!(SchedulerConfig::from_env(&BTreeMap::new()).unwrap().scheduler_id, "scheduler-0");
    }
}
