//! The names of the jobs schema and of the schema beside it.

use std::fmt;

/// The end of the name of the schema beside the jobs schema: internal functions are there, and the interface alone is
/// in the jobs schema.
const INTERNAL: &str = "_internal";

/// What PostgreSQL keeps of a name.
const LONGEST_NAME: usize = 63;

/// The jobs schema's name: a plain identifier, so that quoting it is enough everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaName(String);

impl SchemaName {
    /// Takes letters, digits and underscores, beginning with no digit, at most 54 characters, not PostgreSQL's own
    /// `pg_…`, and not the name of a schema of internals. The error says what to write.
    pub fn new(name: &str) -> Result<Self, String> {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && name.chars().next().is_some_and(|c| !c.is_ascii_digit());
        let longest = LONGEST_NAME - INTERNAL.len();
        if !plain {
            return Err(format!(
                "{name:?} is not a plain identifier: use letters, digits and underscores, at most {longest}, not a digit first"
            ));
        }
        if name.len() > longest {
            return Err(format!(
                "{name:?} has {} characters: use at most {longest}, as a schema {name}{INTERNAL} is made beside it and \
                 PostgreSQL takes {LONGEST_NAME}",
                name.len()
            ));
        }
        if name.ends_with(INTERNAL) {
            return Err(format!(
                "{name:?} ends with {INTERNAL}, as the schema beside a jobs schema does: choose another name"
            ));
        }
        if name.starts_with("pg_") || name == "information_schema" {
            return Err(format!("{name:?} is reserved by PostgreSQL: choose another name"));
        }
        Ok(Self(name.to_owned()))
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The quoted name of the schema of internal functions.
    pub fn internal(&self) -> String {
        format!("\"{}{INTERNAL}\"", self.0)
    }

    /// SQL text with every `@extschema@` replaced by the quoted name, and every `@internal@` by that of the internal
    /// functions.
    pub fn apply(&self, sql: &str) -> String {
        // Every statement of a service comes by here.
        let mut applied = String::with_capacity(sql.len() + 2 * LONGEST_NAME);
        let mut rest = sql;
        while let Some((before, after)) = rest.split_once('@') {
            applied.push_str(before);
            rest = if let Some(after) = after.strip_prefix("extschema@") {
                applied.extend(["\"", &self.0, "\""]);
                after
            } else if let Some(after) = after.strip_prefix("internal@") {
                applied.extend(["\"", &self.0, INTERNAL, "\""]);
                after
            } else {
                applied.push('@');
                after
            };
        }
        applied.push_str(rest);
        applied
    }
}

impl Default for SchemaName {
    fn default() -> Self {
        Self(super::postgres::JOBS_SCHEMA.default.to_owned())
    }
}

/// The name in double quotes.
impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_name_is_a_plain_identifier() {
        for good in ["app_jobs", "Jobs2", "_x"] {
            assert!(SchemaName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "2x", "a-b", "a\"b", "a;drop", "größe", "pg_jobs", "a.b", &"x".repeat(64), "jobs_internal"] {
            assert!(SchemaName::new(bad).is_err(), "{bad}");
        }
        assert!(SchemaName::new(&"x".repeat(54)).is_ok());
        let long = SchemaName::new(&"x".repeat(55)).unwrap_err();
        assert!(long.contains("has 55 characters: use at most 54"), "{long}");
        assert_eq!(SchemaName::new("Jobs").unwrap().apply("@extschema@.t"), "\"Jobs\".t");
        let jobs = SchemaName::new("Jobs").unwrap();
        assert_eq!(jobs.apply("a @ b, @extschema@.t, @@internal@.f()@"), "a @ b, \"Jobs\".t, @\"Jobs_internal\".f()@");
        assert_eq!(jobs.internal(), "\"Jobs_internal\"");
    }
}
