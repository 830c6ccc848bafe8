//! Why a message was not sent.

/// Why a message was not sent. No text holds a key, a password or an address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MailError {
    /// An address that no mail can go to or come from.
    #[error("the message's '{0}' is not a valid e-mail address")]
    Address(&'static str),
    /// A text that is to name one mailbox and does not.
    #[error("'{0}' must name exactly one mailbox, such as ada@example.com")]
    Mailboxes(&'static str),
    /// A message without a sender, and no sender in the configuration.
    #[error("the message has no 'from', and neither MAILGUN_FROM nor SMTP_FROM is set")]
    NoSender,
    /// A message with neither HTML nor text.
    #[error("the message has neither 'html' nor 'text'")]
    NoBody,
    /// Mailgun did not take it.
    #[error("Mailgun did not take the message: {0}")]
    Mailgun(String),
    /// The SMTP server did not take it.
    #[error("the SMTP server {server} did not take the message: {reason}")]
    Smtp {
        /// Its host and port.
        server: String,
        /// What went wrong.
        reason: String,
    },
    /// The HTTP client or the TLS settings cannot be made.
    #[error("cannot set up sending: {0}")]
    Setup(String),
}
