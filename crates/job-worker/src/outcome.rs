//! What handlers return: nothing, an [`Outcome`], or an error that may say how the attempt ends.

use std::error::Error;
use std::time::Duration;

use job_pg::is_conflict;

pub use job_utils::outcome::{BoxError, Outcome};

/// What handlers return as a rule: `?` works on every error in them, and on texts.
pub type HandlerResult<T = ()> = Result<T, BoxError>;

/// An error that says how the attempt ends. It can be returned from deep inside: as a cause in other errors, `anyhow`'s
/// included, it still counts.
///
/// ```
/// use std::time::Duration;
/// use job_worker::{HandlerResult, JobError};
///
/// fn send(status: u16) -> HandlerResult {
///     match status {
///         200 => Ok(()),
///         410 => Err(JobError::discard("there is no such mailbox"))?,
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
    Discard,
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
    pub fn discard(error: impl Into<BoxError>) -> Self {
        Self::new(Kind::Discard, error.into())
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

/// What a handler may return: nothing, an [`Outcome`], or a `Result` of either. Any error will do, a text included; it
/// is a failed attempt, unless there is a [`JobError`] in it.
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
        Outcome::Complete
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
        match ending {
            None if conflict => Outcome::release(error),
            None => Outcome::retry(error),
            Some(Kind::RetryAfter(after)) => Outcome::retry_after(after, error),
            Some(Kind::Discard) => Outcome::discard(error),
            Some(Kind::Snooze(after)) => Outcome::snooze(after),
        }
    }
}

/// An error and its causes, outermost first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    // A method of the reference itself would return what lives no longer than that.
    std::iter::successors(Some(error), |error| <dyn Error>::source(*error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<E: Into<BoxError>>(error: E) -> Outcome {
        Err::<(), E>(error).into_outcome()
    }

    fn retry(error: &str) -> Outcome {
        Outcome::retry(error)
    }

    #[test]
    fn every_error_is_a_failed_attempt_with_its_causes() {
        assert_eq!(of("no"), retry("no"));
        assert_eq!(of("no".to_owned()), retry("no"));
        assert_eq!(of(std::io::Error::other("no")), retry("no"));
        assert_eq!(of(anyhow::anyhow!("inner").context("outer")), retry("outer: inner"));
        assert_eq!(Ok::<(), BoxError>(()).into_outcome(), Outcome::Complete);
        assert_eq!(of("a\0b"), retry("a\u{fffd}b"));
    }

    #[test]
    fn a_job_error_counts_wherever_it_is_in_the_chain() {
        #[derive(Debug, thiserror::Error)]
        #[error("wrapped")]
        struct Wrapped(#[source] JobError);
        let second = Duration::from_secs(1);
        let discard = |error: &str| Outcome::discard(error);
        assert_eq!(of(JobError::discard("no")), discard("no"));
        assert_eq!(of(BoxError::from(JobError::discard("no"))), discard("no"));
        assert_eq!(of(Wrapped(JobError::discard("no"))), discard("wrapped: no"));
        assert_eq!(of(anyhow::Error::new(JobError::discard("no"))), discard("no"));
        assert_eq!(of(anyhow::Error::new(JobError::discard("no")).context("outer")), discard("outer: no"));
        let causes = JobError::discard(Wrapped(JobError::snooze(second)));
        assert_eq!(of(causes), discard("wrapped: not to be done yet"), "the outermost counts");
        let retry = Outcome::retry_after(second, "soon");
        assert_eq!(of(JobError::retry_after(second, "soon")), retry);
        assert_eq!(of(JobError::snooze(second)), Outcome::snooze(second));
    }
}
