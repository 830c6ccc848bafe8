//! A message as a function writes it, and the same message checked and safe for headers.

use lettre::message::{Mailbox, Mailboxes};

use crate::address::{Redirect, list, one};
use crate::error::MailError;

/// One e-mail.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// The sender; None means the configured one.
    pub from: Option<String>,
    /// One recipient, or several between commas.
    pub to: String,
    /// The subject. Line breaks become spaces.
    pub subject: String,
    /// The body as HTML.
    pub html: Option<String>,
    /// The body as plain text.
    pub text: Option<String>,
    /// Where answers go; None means the configured address.
    pub reply_to: Option<String>,
}

/// What a message leaves to the configuration.
#[derive(Debug, Default)]
pub(crate) struct Defaults {
    pub(crate) from: Option<String>,
    pub(crate) reply_to: Option<String>,
    pub(crate) redirect: Option<Redirect>,
}

/// A message whose addresses are valid and whose headers are single lines.
pub(crate) struct Prepared {
    pub(crate) from: Mailbox,
    pub(crate) to: Mailboxes,
    pub(crate) subject: String,
    pub(crate) html: Option<String>,
    pub(crate) text: Option<String>,
    pub(crate) reply_to: Option<Mailboxes>,
}

impl Prepared {
    pub(crate) fn new(message: &Message, defaults: &Defaults) -> Result<Self, MailError> {
        if message.html.is_none() && message.text.is_none() {
            return Err(MailError::NoBody);
        }
        let from = message.from.as_deref().or(defaults.from.as_deref()).ok_or(MailError::NoSender)?;
        let from = one(from, "from")?;
        let reply_to = message.reply_to.as_deref().or(defaults.reply_to.as_deref());
        let reply_to = reply_to.map(|text| list(text, "replyTo")).transpose()?;
        let to = list(&message.to, "to")?;
        Ok(Self {
            from,
            to: match &defaults.redirect {
                Some(redirect) => redirect.apply(to)?,
                None => to,
            },
            subject: header_text(&message.subject),
            html: message.html.as_deref().map(body_text),
            text: message.text.as_deref().map(body_text),
            reply_to,
        })
    }
}

/// A text as one header line: control characters, line breaks among them, become single spaces.
///
/// ```
/// assert_eq!(mailer::header_text("Hi\r\nBcc: all@example.com"), "Hi Bcc: all@example.com");
/// ```
pub fn header_text(text: &str) -> String {
    let broken = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    text.split(broken).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// A body whose line breaks are all `\n`, which the transports write as their protocols want it, and without NUL, which
/// none of them takes. Servers disagree on a carriage return alone: some end a line there.
fn body_text(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n").replace('\0', "\u{FFFD}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_one_line() {
        assert_eq!(header_text("a\r\n\r\nb\tc\0d\u{2028}e"), "a b c d e");
        assert_eq!(header_text(" Ünïcode “quotes” <b> "), "Ünïcode “quotes” <b>");
    }

    #[test]
    fn a_body_has_one_kind_of_line_break_and_no_nul() {
        assert_eq!(body_text("a\r\nb\rc\nd\r\r\n.\r\ne\0f"), "a\nb\nc\nd\n\n.\ne\u{FFFD}f");
    }
}
