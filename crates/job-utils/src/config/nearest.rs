//! The nearest name: what somebody meant who wrote one that is not known.

/// The name that differs least, if it differs by no more than `most` characters added, left out, replaced or swapped.
pub fn nearest<'a>(written: &str, names: impl IntoIterator<Item = &'a str>, most: usize) -> Option<&'a str> {
    let written = written.to_ascii_lowercase();
    let distance = |name: &str| strsim::osa_distance(&written, &name.to_ascii_lowercase());
    let near = names.into_iter().map(|name| (distance(name), name)).filter(|(distance, _)| *distance <= most);
    near.min().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_least_is_meant() {
        let names = ["sslmode", "sslrootcert", "sslcert"];
        assert_eq!(nearest("sslmod", names, 3), Some("sslmode"));
        assert_eq!(nearest("SSLROOTCRET", names, 3), Some("sslrootcert"));
        assert_eq!(nearest("schema", names, 3), None);
    }
}
