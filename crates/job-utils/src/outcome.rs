//! Outcome: how an attempt ends, whoever says so. Handlers and hooks return it, answers and callbacks of functions are
//! read as one, and it is what is stored.

use std::error::Error;
use std::time::Duration;

use crate::error::chain;

/// Any error, as a handler may return it.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// How an attempt ends.
///
/// | outcome | the attempt | the job |
/// |---|---|---|
/// | `Complete` | | is done, and its row is removed |
/// | `Retry` | counts | is tried again, unless this was the last attempt |
/// | `Discard` | counts | has failed for good: no attempt follows |
/// | `Snooze` | does not count | waits |
/// | `Release` | does not count | is tried again in a moment |
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// The job is done, and its row is removed.
    Complete,
    /// The attempt failed. Another follows, unless it was the last one.
    Retry {
        /// For `last_error`.
        error: String,
        /// How long from now, exactly; None: as the task's policy says, or the usual wait. A `run_at` that somebody has
        /// put further ahead while the job ran stays.
        after: Option<Duration>,
    },
    /// The job failed for good: no attempt follows, however many are left.
    Discard {
        /// For `last_error`.
        error: String,
    },
    /// The job is not to be done yet. It waits, and no attempt is used up.
    Snooze {
        /// How long from now, exactly. A `run_at` that somebody has put further ahead while the job ran stays.
        after: Duration,
        /// For `last_error`; None leaves what is there.
        error: Option<String>,
    },
    /// The attempt could not do its work, through no fault of the job's: no connection could be had for its
    /// transaction, or Postgres undid the transaction because another one was in its way (a deadlock, or a
    /// serialization failure: SQLSTATE 40P01, 40001 among the causes of the error). It is made again in a moment, and
    /// none is used up, unless ten in a row have ended so in this worker: what follows them is a failed attempt. The
    /// worker finds this out, and stores it as a `Snooze` or a `Retry`.
    #[non_exhaustive]
    Release {
        /// For `last_error`.
        error: String,
    },
}

impl Outcome {
    /// The attempt failed, with the error's message and those of its causes.
    pub fn retry(error: impl Into<BoxError>) -> Self {
        Self::Retry { error: message(&*error.into()), after: None }
    }

    /// The attempt failed, and the next one follows after exactly this wait.
    pub fn retry_after(after: Duration, error: impl Into<BoxError>) -> Self {
        Self::Retry { error: message(&*error.into()), after: Some(after) }
    }

    /// The job failed for good.
    pub fn discard(error: impl Into<BoxError>) -> Self {
        Self::Discard { error: message(&*error.into()) }
    }

    /// The job waits, and nothing has failed.
    pub fn snooze(after: Duration) -> Self {
        Self::Snooze { after, error: None }
    }

    /// The attempt could not do its work, through no fault of the job's. For the worker.
    #[doc(hidden)]
    pub fn release(error: impl Into<BoxError>) -> Self {
        Self::Release { error: message(&*error.into()) }
    }

    /// What went wrong, when something did.
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Complete => None,
            Self::Retry { error, .. } | Self::Discard { error } | Self::Release { error } => Some(error),
            Self::Snooze { error, .. } => error.as_deref(),
        }
    }

    /// The same with another text in place of what went wrong, when something did.
    pub fn map_error(self, change: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Complete => self,
            Self::Retry { error, after } => Self::Retry { error: change(error), after },
            Self::Discard { error } => Self::Discard { error: change(error) },
            Self::Snooze { after, error } => Self::Snooze { after, error: error.map(change) },
            Self::Release { error } => Self::Release { error: change(error) },
        }
    }
}

/// What the retry policy of a job's task says of an attempt, should it fail. The policy is the worker's, and the
/// callback server does not know it: the callback URL carries this
/// ([`CallbackUrls`](crate::wire::signature::CallbackUrls)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AfterFailure {
    /// Another attempt after the usual wait, while the job has any left.
    #[default]
    Usual,
    /// Another attempt after exactly this wait, while the job has any left.
    Retry(Duration),
    /// No other attempt.
    Last,
}

impl AfterFailure {
    /// The outcome as the policy has it. A wait that the outcome itself asks for stays.
    ///
    /// ```
    /// use job_utils::outcome::{AfterFailure, Outcome};
    /// assert_eq!(AfterFailure::Last.applied_to(Outcome::retry("no")), Outcome::discard("no"));
    /// assert_eq!(AfterFailure::Last.applied_to(Outcome::Complete), Outcome::Complete);
    /// ```
    pub fn applied_to(self, outcome: Outcome) -> Outcome {
        match (self, outcome) {
            (Self::Last, Outcome::Retry { error, .. }) => Outcome::Discard { error },
            (Self::Retry(wait), Outcome::Retry { error, after: None }) => Outcome::Retry { error, after: Some(wait) },
            (_, outcome) => outcome,
        }
    }
}

/// The longest message that is stored, in bytes: more than a person reads, and room for a stack trace.
pub const MESSAGE_LIMIT: usize = 4096;

/// How much of a longer message is kept, in bytes. What is missing to the limit is room for the mark of the cut.
const KEPT: usize = 4000;

/// A message as it is stored: every message of a function or handler goes through here. Postgres text holds every
/// character but NUL. What is longer than [`MESSAGE_LIMIT`] is cut between two characters and says how long it was.
///
/// ```
/// use job_utils::outcome::{MESSAGE_LIMIT, storable};
/// assert_eq!(storable("a\0b"), "a\u{fffd}b");
/// let cut = storable(&"ü".repeat(5000));
/// assert!(cut.len() <= MESSAGE_LIMIT && cut.ends_with("ü… (10000 bytes)"));
/// assert_eq!(storable(&cut), cut);
/// ```
pub fn storable(text: &str) -> String {
    let text = text.replace('\0', "\u{fffd}");
    if text.len() <= MESSAGE_LIMIT {
        return text;
    }
    format!("{}… ({} bytes)", &text[..text.floor_char_boundary(KEPT)], text.len())
}

/// The message of an error and those of its causes in one line, for `last_error`.
fn message(error: &(dyn Error + 'static)) -> String {
    storable(&chain(error))
}

/// How long the database has a job wait after this attempt, from 1, unless somebody says otherwise (`retry_at` in SQL).
pub fn usual_wait(attempt: i32) -> Duration {
    Duration::from_secs_f64(f64::from(attempt.clamp(0, 10)).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let whole = "x".repeat(MESSAGE_LIMIT);
        assert_eq!(storable(&whole), whole);
        // Each start shifts the characters of four bytes against the place of the cut.
        for start in ["", "x", "xx", "xxx"] {
            let long = format!("{start}{}", "😀".repeat(300_000));
            let cut = storable(&long);
            let (kept, mark) = cut.rsplit_once('…').unwrap();
            assert!(long.starts_with(kept) && kept.len() > 3990 && cut.len() <= MESSAGE_LIMIT, "{} bytes", cut.len());
            assert_eq!(mark, format!(" ({} bytes)", long.len()));
        }
        // A replaced NUL is longer than it was.
        assert!(storable(&"\0".repeat(MESSAGE_LIMIT)).len() <= MESSAGE_LIMIT);
    }

    #[test]
    fn a_policy_changes_failed_attempts_alone_and_no_wait_that_was_asked_for() {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        let all = || {
            let retry = |after| Outcome::Retry { error: "no".into(), after };
            let ends = [Outcome::Complete, Outcome::discard("no"), Outcome::snooze(second), Outcome::release("no")];
            (retry(None), retry(Some(second)), ends)
        };
        for (policy, usual, asked) in [
            (AfterFailure::Usual, all().0, all().1),
            (AfterFailure::Retry(minute), Outcome::retry_after(minute, "no"), all().1),
            (AfterFailure::Last, Outcome::discard("no"), Outcome::discard("no")),
        ] {
            let (retry, retry_after, ends) = all();
            assert_eq!(policy.applied_to(retry), usual, "{policy:?}");
            assert_eq!(policy.applied_to(retry_after), asked, "{policy:?}");
            assert_eq!(ends.clone().map(|end| policy.applied_to(end)), ends, "{policy:?}");
        }
    }
}
