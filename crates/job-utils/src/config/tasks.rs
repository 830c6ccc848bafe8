//! Which tasks a program takes: JOBS_SUPPORT_ANY and JOBS_SUPPORTED.

use crate::config::Reader;
use crate::config::shared::{JOBS_SUPPORT_ANY, JOBS_SUPPORTED};

/// Which tasks a worker or scheduler takes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tasks {
    /// Every task.
    Any,
    /// Only these; none when empty.
    Only(Vec<String>),
}

impl Tasks {
    /// Reads JOBS_SUPPORT_ANY and JOBS_SUPPORTED.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        if !reader.flag(&JOBS_SUPPORT_ANY) {
            return Self::Only(reader.list(&JOBS_SUPPORTED));
        }
        if reader.optional(&JOBS_SUPPORT_ANY).is_none() && !reader.list(&JOBS_SUPPORTED).is_empty() {
            let message = "has no effect while JOBS_SUPPORT_ANY is not false: every task is taken. Set \
                           JOBS_SUPPORT_ANY=false to take these only, or true to take every task without this warning";
            reader.warn(&JOBS_SUPPORTED, message);
        }
        Self::Any
    }

    /// As the SQL functions take it: None is every task.
    pub fn as_filter(&self) -> Option<&[String]> {
        match self {
            Self::Any => None,
            Self::Only(tasks) => Some(tasks),
        }
    }

    /// Whether the task is among them.
    pub fn include(&self, task: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Only(tasks) => tasks.iter().any(|only| only == task),
        }
    }

    /// Says so when the settings leave nothing to take.
    pub fn warn_when_empty(&self) {
        if matches!(self, Self::Only(tasks) if tasks.is_empty()) {
            tracing::warn!("JOBS_SUPPORT_ANY is false and JOBS_SUPPORTED is empty: no task will be taken");
        }
    }
}
