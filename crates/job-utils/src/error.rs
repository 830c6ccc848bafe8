//! How errors are told: the message and its causes, in one line. The `Debug` of our errors is the same, since it is
//! what `main() -> Result<(), Box<dyn Error>>`, `unwrap` and `?error` in a log show.

use std::error::Error;

/// An error and its causes in one line, for logs and `last_error`. A cause that the message already ends with is not
/// repeated.
///
/// ```
/// #[derive(Debug, thiserror::Error)]
/// #[error("cannot claim")]
/// struct Outer(#[source] std::io::Error);
/// let error = Outer(std::io::Error::other("connection reset"));
/// assert_eq!(job_utils::error::chain(&error), "cannot claim: connection reset");
/// ```
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.ends_with(&next_text) {
            text.push_str(": ");
            text.push_str(&next_text);
        }
        cause = next.source();
    }
    text
}

/// The `Debug` of errors: [`chain`].
#[macro_export]
#[doc(hidden)]
macro_rules! debug_as_chain {
    ($($error:ty),* $(,)?) => {$(
        impl ::std::fmt::Debug for $error {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(&$crate::error::chain(self))
            }
        }
    )*};
}
