//! Outcome: how a handler ends an attempt, by what it returns.

use std::error::Error;
use std::time::Duration;

use job_pg::is_conflict;
use job_utils::wire::callback::storable;

/// Any error, as a handler may return it.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// What handlers return as a rule: `?` works on every error in them, and on texts.
pub type HandlerResult<T = ()> = Result<T, BoxError>;

/// How an attempt ends.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Outcome {
    /// The job is done, and its row is removed.
    Done,
    /// The attempt failed. Another follows, unless it was the last one.
    Retry {
        /// For `last_error`.
        error: String,
        /// How long from now; None: as the task's [`Retry`](crate::Retry) says.
        after: Option<Duration>,
    },
    /// The job failed for good: no attempt follows, however many are left.
    Fail {
        /// For `last_error`.
        error: String,
    },
    /// The job is not to be done yet. It waits, and no attempt is used up.
    Snooze {
        /// How long from now.
        after: Duration,
    },
    /// The attempt could not do its work, through no fault of the job's: no connection could be had for
    /// [`Context::transaction`](crate::Context::transaction), or Postgres undid the transaction because another one was in its way (a
    /// deadlock, or a serialization failure: SQLSTATE 40P01, 40001 among the causes of the error). It is made again in a moment, and none
    /// is used up, unless ten in a row have ended so in this worker: what follows them is a failed attempt. The worker finds this out;
    /// nothing else makes it.
    #[non_exhaustive]
    GivenBack {
        /// For `last_error`.
        error: String,
    },
}

impl Outcome {
    /// The attempt failed, with the error's message and those of its causes.
    pub fn retry(error: impl Into<BoxError>) -> Self {
        Self::Retry { error: told(&*error.into()), after: None }
    }

    /// What went wrong, when something did.
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Retry { error, .. } | Self::Fail { error } | Self::GivenBack { error } => Some(error),
            Self::Done | Self::Snooze { .. } => None,
        }
    }
}

/// An error that says how the attempt ends. It can be returned from deep inside: as a cause in other errors, `anyhow`'s included,
/// it still counts.
///
/// ```
/// use std::time::Duration;
/// use job_worker::{HandlerResult, JobError};
///
/// fn send(status: u16) -> HandlerResult {
///     match status {
///         200 => Ok(()),
///         410 => Err(JobError::fail("there is no such mailbox"))?,
///         429 => Err(JobError::snooze(Duration::from_secs(30)))?,
///         503 => Err(JobError::retry_after(Duration::from_secs(5), "down for maintenance"))?,
///         _ => Err(format!("status {status}"))?, // tried again, as the task's policy says
///     }
/// }
/// ```
#[derive(thiserror::Error)]
#[error("{}", source.inner)]
pub struct JobError {
    source: Ending,
}

job_utils::debug_as_chain!(JobError);

/// A link in the chain of causes that is found by its type, whatever wraps it. It says nothing itself.
#[derive(Debug)]
struct Ending {
    kind: Kind,
    inner: BoxError,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    RetryAfter(Duration),
    Fail,
    Snooze(Duration),
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

impl Error for Ending {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.inner.source()
    }
}

impl JobError {
    /// The job failed for good: no attempt follows.
    pub fn fail(error: impl Into<BoxError>) -> Self {
        Self::new(Kind::Fail, error.into())
    }

    /// The attempt failed, and the next one follows after exactly this wait.
    pub fn retry_after(after: Duration, error: impl Into<BoxError>) -> Self {
        Self::new(Kind::RetryAfter(after), error.into())
    }

    /// The job is not to be done yet: it waits, and no attempt is used up.
    pub fn snooze(after: Duration) -> Self {
        Self::new(Kind::Snooze(after), "not to be done yet".into())
    }

    fn new(kind: Kind, inner: BoxError) -> Self {
        Self { source: Ending { kind, inner } }
    }
}

/// What a handler may return: nothing, an [`Outcome`], or a `Result` of either. Any error will do, a text included; it is a
/// failed attempt, unless there is a [`JobError`] in it.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    note = "it returns nothing, an `Outcome`, or a `Result` of either, such as `HandlerResult`, with any error that is `Send + Sync`"
)]
pub trait IntoOutcome {
    /// The outcome it stands for.
    fn into_outcome(self) -> Outcome;
}

impl IntoOutcome for () {
    fn into_outcome(self) -> Outcome {
        Outcome::Done
    }
}

impl IntoOutcome for Outcome {
    fn into_outcome(self) -> Outcome {
        self
    }
}

impl<T: IntoOutcome, E: Into<BoxError>> IntoOutcome for Result<T, E> {
    fn into_outcome(self) -> Outcome {
        let error: BoxError = match self {
            Ok(value) => return value.into_outcome(),
            Err(error) => error.into(),
        };
        let ending = causes(&*error).find_map(|cause| cause.downcast_ref::<Ending>()).map(|ending| ending.kind);
        let conflict = causes(&*error).any(is_conflict);
        let error = told(&*error);
        match ending {
            None if conflict => Outcome::GivenBack { error },
            None => Outcome::Retry { error, after: None },
            Some(Kind::RetryAfter(after)) => Outcome::Retry { error, after: Some(after) },
            Some(Kind::Fail) => Outcome::Fail { error },
            Some(Kind::Snooze(after)) => Outcome::Snooze { after },
        }
    }
}

/// An error and its causes, outermost first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    // A method of the reference itself would return what lives no longer than that.
    std::iter::successors(Some(error), |error| <dyn Error>::source(*error))
}

/// The message and those of its causes in one line, for `last_error`.
fn told(error: &(dyn Error + 'static)) -> String {
    storable(&job_utils::error::chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<E: Into<BoxError>>(error: E) -> Outcome {
        Err::<(), E>(error).into_outcome()
    }

    fn retry(error: &str) -> Outcome {
        Outcome::Retry { error: error.to_owned(), after: None }
    }

    #[test]
    fn every_error_is_a_failed_attempt_with_its_causes() {
        assert_eq!(of("no"), retry("no"));
        assert_eq!(of("no".to_owned()), retry("no"));
        assert_eq!(of(std::io::Error::other("no")), retry("no"));
        assert_eq!(of(anyhow::anyhow!("inner").context("outer")), retry("outer: inner"));
        assert_eq!(Ok::<(), BoxError>(()).into_outcome(), Outcome::Done);
        assert_eq!(of("a\0b"), retry("a\u{fffd}b"));
    }

    #[test]
    fn a_job_error_counts_wherever_it_is_in_the_chain() {
        #[derive(Debug, thiserror::Error)]
        #[error("wrapped")]
        struct Wrapped(#[source] JobError);
        let second = Duration::from_secs(1);
        let fail = |error: &str| Outcome::Fail { error: error.to_owned() };
        assert_eq!(of(JobError::fail("no")), fail("no"));
        assert_eq!(of(BoxError::from(JobError::fail("no"))), fail("no"));
        assert_eq!(of(Wrapped(JobError::fail("no"))), fail("wrapped: no"));
        assert_eq!(of(anyhow::Error::new(JobError::fail("no"))), fail("no"));
        assert_eq!(of(anyhow::Error::new(JobError::fail("no")).context("outer")), fail("outer: no"));
        let causes = JobError::fail(Wrapped(JobError::snooze(second)));
        assert_eq!(of(causes), fail("wrapped: not to be done yet"), "the outermost counts");
        let retry = Outcome::Retry { error: "soon".into(), after: Some(second) };
        assert_eq!(of(JobError::retry_after(second, "soon")), retry);
        assert_eq!(of(JobError::snooze(second)), Outcome::Snooze { after: second });
    }
}
