//! How a handler says that its job failed.

use std::borrow::Cow;
use std::fmt;

use axum::http::StatusCode;
use job_utils::error::chain;

/// Why a handler failed: with an HTTP status of its choice, or "thrown" by `?`.
///
/// Any error converts into a thrown one, so it must not be an error itself.
///
/// ```
/// use job_fn::FunctionError;
/// fn parse(text: &str) -> Result<u32, FunctionError> {
///     if text.is_empty() {
///         return Err(FunctionError::status(400, "Missing required field: count"));
///     }
///     Ok(text.parse()?)
/// }
/// assert_eq!(parse("").unwrap_err().to_string(), "Missing required field: count");
/// assert_eq!(parse("x").unwrap_err().to_string(), "invalid digit found in string");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionError {
    pub(crate) status: Option<StatusCode>,
    pub(crate) message: String,
    /// Whether the job has failed for good.
    pub(crate) discard: bool,
    /// The payload was not looked at: in how many seconds to send it again, by `Retry-After`. No callback tells of it.
    pub(crate) retry_after: Option<u32>,
}

impl FunctionError {
    /// Answers with this status and `{"error": message}`. A status below 400 is no failure, so it becomes 500.
    pub fn status(status: u16, message: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(status)
            .ok()
            .filter(|status| status.is_client_error() || status.is_server_error())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status: Some(status), message: message.into(), discard: false, retry_after: None }
    }

    /// Answers 200 with `X-Job-Error: true` and `{"message": message}`, as an error by `?` does.
    pub fn thrown(message: impl Into<String>) -> Self {
        let message = message.into();
        let message = if message.is_empty() { "the function failed without a message".to_owned() } else { message };
        Self { status: None, message, discard: false, retry_after: None }
    }

    /// The job failed for good: trying again is useless. Else as a thrown one.
    ///
    /// ```
    /// use job_fn::FunctionError;
    /// fn find(mailbox: &str) -> Result<(), FunctionError> {
    ///     Err(FunctionError::discard(format!("there is no mailbox {mailbox}")))
    /// }
    /// # assert!(find("a").is_err());
    /// ```
    pub fn discard(message: impl Into<String>) -> Self {
        Self::thrown(message).and_discard()
    }

    /// The same error, and the job failed for good: `X-Job-Retry: false` goes with it.
    ///
    /// ```
    /// use job_fn::FunctionError;
    /// let gone = FunctionError::status(410, "there is no such mailbox").and_discard();
    /// # assert_eq!(gone.to_string(), "there is no such mailbox");
    /// ```
    #[must_use]
    pub fn and_discard(self) -> Self {
        Self { discard: true, ..self }
    }

    /// What the job service is told, and what it stores as `last_error` when only the callback reaches it.
    pub(crate) fn reported(&self) -> Cow<'_, str> {
        match self.status {
            Some(status) => Cow::Owned(format!("HTTP {}", status.as_u16())),
            None => Cow::Borrowed(&self.message),
        }
    }
}

impl fmt::Display for FunctionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: Into<anyhow::Error>> From<E> for FunctionError {
    fn from(error: E) -> Self {
        let error: anyhow::Error = error.into();
        Self::thrown(chain(&*error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_the_chain_of_causes_without_repetition() {
        let cause = std::io::Error::other("disk full");
        let error = anyhow::Error::new(cause).context("cannot store the report: disk full").context("no report");
        assert_eq!(FunctionError::from(error).message, "no report: cannot store the report: disk full");
    }

    #[test]
    fn a_status_below_400_becomes_500() {
        for status in [0, 200, 302, 399, 600, 999] {
            assert_eq!(FunctionError::status(status, "").status, Some(StatusCode::INTERNAL_SERVER_ERROR), "{status}");
        }
        assert_eq!(FunctionError::status(404, "").status, Some(StatusCode::NOT_FOUND));
    }

    #[test]
    fn a_thrown_error_always_has_a_message() {
        assert_eq!(FunctionError::thrown("").message, "the function failed without a message");
    }
}
