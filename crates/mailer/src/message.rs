//! A message as a function writes it, and the same message checked and safe for headers.

use lettre::message::{Mailbox, Mailboxes};

use crate::MailError;

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
    pub(crate) fn new(message: &Message, from: Option<&str>, reply_to: Option<&str>) -> Result<Self, MailError> {
        if message.html.is_none() && message.text.is_none() {
            return Err(MailError::NoBody);
        }
        let from = message.from.as_deref().or(from).ok_or(MailError::NoSender)?;
        let from = addresses(from, "from")?.into_single().ok_or(MailError::Address("from"))?;
        let reply_to = message.reply_to.as_deref().or(reply_to).map(|text| addresses(text, "replyTo")).transpose()?;
        Ok(Self {
            from,
            to: addresses(&message.to, "to")?,
            subject: header_text(&message.subject),
            html: message.html.clone(),
            text: message.text.clone(),
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

fn addresses(text: &str, field: &'static str) -> Result<Mailboxes, MailError> {
    if text.contains(char::is_control) {
        return Err(MailError::Address(field));
    }
    let mailboxes: Mailboxes = text.trim().parse().map_err(|_| MailError::Address(field))?;
    // The parser stops where it understands no more; what it left out must not be lost silently.
    let written = text.matches('@').count();
    let understood = mailboxes.to_string().matches('@').count();
    if mailboxes.iter().next().is_none() || written != understood {
        Err(MailError::Address(field))
    } else {
        Ok(mailboxes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_with_names_and_in_lists() {
        for good in [
            "ada@example.com",
            "Ada Lovelace <ada@example.com>",
            "\"L, Ada\" <a@b.co>",
            "a@b.co, B <c@d.org>",
            "José <jose@exämple.com>",
            "root@localhost",
            " a@b.co ",
        ] {
            assert!(addresses(good, "to").is_ok(), "{good}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in [
            "",
            "ada",
            "[email protected]",
            "a@",
            "@b.co",
            "a@b.co\r\nBcc: c@d.org",
            "A\n <a@b.co>",
            "a@b.co c@d.org",
            "a@b.co; c@d.org",
            "a b@c.co",
            "a@b.co>, <c@d.org",
        ] {
            assert!(addresses(bad, "to").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_header_is_one_line() {
        assert_eq!(header_text("a\r\n\r\nb\tc\0d\u{2028}e"), "a b c d e");
        assert_eq!(header_text(" Ünïcode “quotes” <b> "), "Ünïcode “quotes” <b>");
    }
}
