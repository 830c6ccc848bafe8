//! Why a job was not enqueued: which of its fields is refused, and why.

use tokio_postgres::error::SqlState;

use crate::config::SchemaName;
use crate::error::Answer;
use crate::error::DbError;
use crate::jobs::NewJob;

/// A field of a job, by the name that it has in `NewJob`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Field {
    /// The task identifier.
    Task,
    /// The payload: too large, not JSON, or not to be written as JSON.
    Payload,
    /// The key, or its mode.
    Key,
    /// The named queue.
    Queue,
    /// When to run, as an instant or a delay.
    RunAt,
    /// How many attempts there are.
    MaxAttempts,
    /// The tenant, given or from the setting `jwt.claims.database_id`.
    Tenant,
    /// The actor, given or from the setting `jwt.claims.user_id`.
    Actor,
    /// The rule of a schedule.
    Rule,
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Task => "task",
            Self::Payload => "payload",
            Self::Key => "key",
            Self::Queue => "queue",
            Self::RunAt => "run_at",
            Self::MaxAttempts => "max_attempts",
            Self::Tenant => "tenant",
            Self::Actor => "actor",
            Self::Rule => "rule",
        })
    }
}

/// A job that was not enqueued.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum EnqueueError {
    /// The rules of the schema refuse a field.
    #[error("{}{field}: {message}", place(*position))]
    Refused {
        /// Which of many jobs, counted from 0; None for a single one.
        position: Option<usize>,
        /// The field that is refused.
        field: Field,
        /// Why.
        message: String,
        /// What Postgres answered, when it was asked.
        #[source]
        source: Option<DbError>,
    },
    /// A trigger on the table `jobs` returned NULL, which keeps a row out: these jobs were not made there, whatever the
    /// trigger made of them instead. It is no error to the transaction, in which everything else stays as it is.
    #[error("{}", kept_out(positions))]
    KeptOut {
        /// Which of many jobs, counted from 0; the others were enqueued. Empty for a single one.
        positions: Vec<usize>,
    },
    /// There is no jobs schema, or an older one. `migrate(&db)` makes it, or brings it up to date.
    #[error("there is no jobs schema {schema} in this version; {}", crate::schema::ready::HOW_TO_MAKE_IT)]
    NoSchema {
        /// The schema's quoted name.
        schema: String,
        /// What Postgres answered.
        #[source]
        source: DbError,
    },
    /// The database did not do it.
    #[error(transparent)]
    Db(#[from] DbError),
}

job_utils::debug_as_chain!(EnqueueError);

/// An error of the application's own statements, so that one type does for all of its transaction.
impl From<tokio_postgres::Error> for EnqueueError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Db(error.into())
    }
}

fn kept_out(positions: &[usize]) -> String {
    let told = "a trigger on the table jobs returned NULL, which kept";
    match positions {
        [] => format!("{told} the job out: it was not enqueued"),
        [one] => format!("{told} jobs[{one}] out: the others were enqueued"),
        [first, ..] => format!("{told} {} jobs out, first jobs[{first}]: the others were enqueued", positions.len()),
    }
}

fn place(position: Option<usize>) -> String {
    position.map(|position| format!("jobs[{position}].")).unwrap_or_default()
}

impl EnqueueError {
    pub(crate) fn refused(field: Field, message: String) -> Self {
        Self::Refused { position: None, field, message, source: None }
    }

    /// It is one of many.
    pub(crate) fn at(self, index: usize) -> Self {
        match self {
            Self::Refused { field, message, source, .. } => {
                Self::Refused { position: Some(index), field, message, source }
            }
            other => other,
        }
    }

    /// Reads Postgres's answer to what was asked of a schema.
    pub(crate) fn read(error: DbError, schema: &SchemaName) -> Self {
        let Some(answer) = error.answer() else { return Self::Db(error) };
        if is_missing(&answer, schema) {
            return Self::NoSchema { schema: schema.to_string(), source: error };
        }
        let (position, said) = split(answer.message);
        let Some((field, message)) = fault(&answer, said) else { return Self::Db(error) };
        Self::Refused { position, field, message, source: Some(error) }
    }

    /// The database says that a right is missing, and not whether for the tenant or for the actor: the job says which
    /// it names.
    pub(crate) fn about(self, job: &NewJob) -> Self {
        let denied = self.sql_state() == Some(&SqlState::INSUFFICIENT_PRIVILEGE);
        match self {
            Self::Refused { position, field: Field::Tenant, message, source }
                if denied && job.tenant.is_none() && job.actor.is_some() =>
            {
                Self::Refused { position, field: Field::Actor, message, source }
            }
            other => other,
        }
    }

    /// [`EnqueueError::about`] the one of these that it names.
    pub(crate) fn about_one_of(self, jobs: &[NewJob]) -> Self {
        let position = if let Self::Refused { position, .. } = &self { *position } else { None };
        match position.and_then(|position| jobs.get(position)) {
            Some(job) => self.about(job),
            None => self,
        }
    }

    /// Which field is refused; None when none is.
    pub fn field(&self) -> Option<Field> {
        match self {
            Self::Refused { field, .. } => Some(*field),
            Self::KeptOut { .. } | Self::NoSchema { .. } | Self::Db(_) => None,
        }
    }

    /// Whether the same call may succeed a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            // Objects that are not there at this moment may be, as during a restore; a schema that nobody has made will
            // not be.
            Self::Refused { .. } | Self::KeptOut { .. } | Self::NoSchema { .. } => false,
            Self::Db(error) => error.is_transient(),
        }
    }

    /// The SQLSTATE, when Postgres answered with an error.
    pub fn sql_state(&self) -> Option<&SqlState> {
        match self {
            Self::Refused { source, .. } => source.as_ref()?.sql_state(),
            Self::KeptOut { .. } => None,
            Self::NoSchema { source, .. } => source.sql_state(),
            Self::Db(error) => error.sql_state(),
        }
    }
}

/// Whether the schema, or the function of it that was called, is not there. What a trigger of the application's calls
/// is not meant.
fn is_missing(answer: &Answer<'_>, schema: &SchemaName) -> bool {
    match answer.state {
        state if *state == SqlState::INVALID_SCHEMA_NAME => answer.message.contains(schema.as_str()),
        state if *state == SqlState::UNDEFINED_FUNCTION => answer.message.contains(&format!("{}.", schema.as_str())),
        _ => false,
    }
}

/// `job 17: …` as the place, counted from 0, and the rest.
fn split(message: &str) -> (Option<usize>, &str) {
    let read = || {
        let (number, rest) = message.strip_prefix("job ")?.split_once(": ")?;
        Some((number.parse::<usize>().ok()?.checked_sub(1)?, rest))
    };
    read().map_or((None, message), |(position, rest)| (Some(position), rest))
}

/// Which field of a job an answer is about, and why it is refused.
pub(crate) fn fault(answer: &Answer<'_>, message: &str) -> Option<(Field, String)> {
    let state = answer.state;
    let (field, message) = match answer.constraint.filter(|name| !name.is_empty()) {
        Some("jobs_task_identifier_length") => (Field::Task, "the task identifier has more than 126 characters"),
        Some("jobs_queue_name_length") => (Field::Queue, "the queue name has more than 126 characters"),
        Some("jobs_key_length") => (Field::Key, "the job key has more than 512 characters"),
        Some("jobs_max_attempts_positive" | "scheduled_jobs_max_attempts_positive") => {
            (Field::MaxAttempts, "max_attempts is not greater than 0")
        }
        Some("jobs_payload_size" | "scheduled_jobs_payload_size") => (Field::Payload, message),
        Some("scheduled_jobs_schedule_info_size") => (Field::Rule, message),
        Some(_) => return None,
        None if *state == SqlState::DATETIME_FIELD_OVERFLOW => (Field::RunAt, "run_at is out of range"),
        None if message.contains("jwt.claims.user_id") => (Field::Actor, message),
        None if message.contains("jwt.claims.database_id") => (Field::Tenant, message),
        // The cast of a payload's text: its answer quotes nothing of it.
        None if *state == SqlState::INVALID_TEXT_REPRESENTATION && message.contains("json") => {
            (Field::Payload, message)
        }
        // What the schema's own functions raise is written for the caller.
        None if *state == SqlState::UNIQUE_VIOLATION => (Field::Key, message),
        None if *state == SqlState::INVALID_PARAMETER_VALUE => (Field::Task, message),
        None if *state == SqlState::INSUFFICIENT_PRIVILEGE && message.contains("_for_any_tenant") => {
            (Field::Tenant, "a tenant or an actor other than the transaction's own needs a right (docs/roles.md)")
        }
        None => return None,
    };
    Some((field, message.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_read_from_the_message() {
        assert_eq!(split("job 17: no"), (Some(16), "no"));
        assert_eq!(split("job 0: no"), (None, "job 0: no"));
        assert_eq!(split("job x"), (None, "job x"));
        let error = EnqueueError::refused(Field::Queue, "no".into()).at(16);
        assert_eq!(error.to_string(), "jobs[16].queue: no");
    }
}
