//! The id of a worker or a scheduler.

use crate::config::Reader;
use crate::config::shared::HOSTNAME;

/// An id for a worker or a scheduler that nobody has named: two live ones need two.
pub fn random_id(kind: &str) -> String {
    format!("{kind}-{}", uuid::Uuid::new_v4().simple())
}

/// Reads HOSTNAME, or takes `fallback`. Ids have at least 4 characters in the database.
pub fn read_id(reader: &mut Reader<'_>, fallback: &str) -> String {
    let id = reader.optional(&HOSTNAME).unwrap_or_else(|| fallback.to_owned());
    if let Some(message) = id_problem(&id) {
        reader.fault(&HOSTNAME, message);
    }
    id
}

/// Why an id cannot be one.
pub fn id_problem(id: &str) -> Option<String> {
    let fits = id.chars().count() >= 4 && id.chars().all(|c| c.is_ascii_graphic());
    (!fits).then(|| format!("{id:?} cannot be a worker id: at least 4 visible ASCII characters"))
}
