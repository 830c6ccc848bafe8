//! The session of a migration: what it needs to be as it is written, whatever the role or the database has set.

/// Settings that change what the texts mean or end them half-way, and their values here. What is called without a
/// schema is PostgreSQL's own: the owner's search_path begins with a schema of its name, and ends with one that others
/// may be able to create in; what they put there would run as the owner.
const SETTINGS: &[(&str, &str)] = &[
    ("search_path", "pg_catalog, pg_temp"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("default_transaction_isolation", "'read committed'"),
    // Signatures of functions are compared as text.
    ("quote_all_identifiers", "off"),
    ("standard_conforming_strings", "on"),
    ("transform_null_equals", "off"),
    ("DateStyle", "'ISO, MDY'"),
    ("IntervalStyle", "postgres"),
    ("row_security", "on"),
    ("plpgsql.extra_errors", "'none'"),
];

/// What only some versions have, or only a superuser may set: set where it is another.
const WHERE_ANOTHER: &[(&str, &str)] = &[("transaction_timeout", "0"), ("session_replication_role", "origin")];

/// Statements that make every setting what a migration needs: for the session, or for the transaction (`local`).
pub(crate) fn settings(local: bool) -> String {
    let scope = if local { "LOCAL " } else { "" };
    let mut statements: String =
        SETTINGS.iter().map(|(name, value)| format!("SET {scope}{name} = {value};\n")).collect();
    for (name, value) in WHERE_ANOTHER {
        statements.push_str(&format!(
            "SELECT set_config('{name}', '{value}', {local}) WHERE current_setting('{name}', true) <> '{value}';\n"
        ));
    }
    statements
}
