//! Addresses: lists and single mailboxes, domains as DNS and SMTP know them, and the redirection of all mail.

use lettre::Address;
use lettre::message::{Mailbox, Mailboxes};

use crate::error::MailError;

/// The longest local part that SMTP has to take.
const LONGEST_LOCAL_PART: usize = 64;

/// What separates addresses, opens a group or a comment, or takes a separator's meaning away; with line breaks that are
/// no control characters, and with what Unicode's compatibility forms make such a character of.
const SEPARATORS: &str = ",，﹐︐;；﹔︔\u{37e}:：﹕︓()（）﹙﹚\\＼﹨＜＞﹤﹥\u{2028}\u{2029}";

/// Whether a text names one mailbox at most, by any reading of it.
///
/// For addresses that somebody else chose and that a secret goes to. Programs disagree on what separates addresses and
/// on what quotes protect. So everything that some program could take for a second mailbox is refused wherever it
/// stands: separators and groups, comments, line breaks, encoded words, another `@`, and brackets that are not one pair
/// at the end. A placeholder without an `@` passes: it names no mailbox.
///
/// ```
/// assert!(mailer::names_one_mailbox_at_most("Ada <ada@example.com>"));
/// assert!(mailer::names_one_mailbox_at_most("[email protected]"));
/// assert!(!mailer::names_one_mailbox_at_most("ada@example.com, mallory@example.net"));
/// ```
pub fn names_one_mailbox_at_most(text: &str) -> bool {
    let separates = |c: char| c.is_control() || SEPARATORS.contains(c);
    let at = text.chars().filter(|c| matches!(c, '@' | '＠' | '﹫')).count();
    let text = text.trim();
    let brackets = match text.split_once('<') {
        None => !text.contains('>'),
        Some((_, rest)) => rest.strip_suffix('>').is_some_and(|address| !address.contains(['<', '>'])),
    };
    !text.is_empty() && !text.contains(separates) && !text.contains("=?") && at <= 1 && brackets
}

/// One mailbox, and nothing that could be read as another.
pub(crate) fn single(text: &str, field: &'static str) -> Result<Mailbox, MailError> {
    if !names_one_mailbox_at_most(text) {
        return Err(MailError::Mailboxes(field));
    }
    one(text, field).map_err(|_| MailError::Mailboxes(field))
}

/// One mailbox, written in whatever way.
pub(crate) fn one(text: &str, field: &'static str) -> Result<Mailbox, MailError> {
    // Mailboxes::into_single takes the first of several.
    let mut mailboxes = list(text, field)?.into_iter();
    match (mailboxes.next(), mailboxes.next()) {
        (Some(mailbox), None) => Ok(mailbox),
        _ => Err(MailError::Address(field)),
    }
}

/// One mailbox or several between commas, their domains in ASCII.
pub(crate) fn list(text: &str, field: &'static str) -> Result<Mailboxes, MailError> {
    let invalid = || MailError::Address(field);
    if text.contains(char::is_control) {
        return Err(invalid());
    }
    let mailboxes: Mailboxes = text.trim().parse().map_err(|_| invalid())?;
    // The parser stops where it understands no more; what it left out must not be lost silently.
    let written = text.matches('@').count();
    let understood = mailboxes.to_string().matches('@').count();
    if mailboxes.iter().next().is_none() || written != understood {
        return Err(invalid());
    }
    mailboxes.into_iter().map(|mailbox| with_ascii_domain(mailbox).ok_or_else(invalid)).collect()
}

/// The mailbox with its domain as DNS knows it (`xn--…`), which every server takes. A local part beyond ASCII stays,
/// for there is no other way to write it: only then a server must know SMTPUTF8.
fn with_ascii_domain(mailbox: Mailbox) -> Option<Mailbox> {
    if mailbox.email.domain().is_ascii() {
        return Some(mailbox);
    }
    let domain = idna::domain_to_ascii_strict(mailbox.email.domain()).ok()?;
    let email = Address::new(mailbox.email.user(), domain).ok()?;
    Some(Mailbox { email, ..mailbox })
}

/// Where all mail goes instead of to its recipients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Redirect(Address);

impl Redirect {
    pub(crate) fn new(text: &str, field: &'static str) -> Result<Self, MailError> {
        Ok(Self(single(text, field)?.email))
    }

    /// The recipients with their addresses in the local part of the one that gets everything.
    pub(crate) fn apply(&self, recipients: Mailboxes) -> Result<Mailboxes, MailError> {
        let redirected = recipients.into_iter().map(|recipient| {
            let local = format!("{}+{}_at_{}", self.0.user(), recipient.email.user(), recipient.email.domain());
            // Unquoted, and in ASCII, so that every server takes it.
            let plain = |c: char| if c.is_ascii_alphanumeric() || ".!#$%&'*+-/=?^_`{|}~".contains(c) { c } else { '_' };
            let local: String = local.chars().map(plain).take(LONGEST_LOCAL_PART).collect();
            let address = Address::new(local.trim_end_matches('.'), self.0.domain());
            Ok(Mailbox::new(None, address.map_err(|_| MailError::Address("to"))?))
        });
        redirected.collect()
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
            assert!(list(good, "to").is_ok(), "{good}");
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
            "a@exämple_x.com",
            "a@b.co＠ä.org",
        ] {
            assert!(list(bad, "to").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_domain_is_written_in_ascii_and_a_local_part_as_it_is() {
        let written = |text| list(text, "to").unwrap().to_string();
        assert_eq!(written("jose@exämple.com"), "jose@xn--exmple-cua.com");
        assert_eq!(written("José <josé@EXÄMPLE.com>, b@c.org"), "José <josé@xn--exmple-cua.com>, b@c.org");
        assert_eq!(written("ada@My_Host.example.com"), "ada@My_Host.example.com");
    }

    #[test]
    fn one_mailbox_is_one_by_any_reading() {
        for good in
            ["ada@example.com", " ada+x@b.co ", "Ada L. <ada@example.com>", "\"Ada L\" <a@b.co>", "josé@exämple.com"]
        {
            assert!(single(good, "email").is_ok(), "{good}");
        }
        for bad in [
            "victim@example.com, attacker@evil.example",
            "victim@example.com,attacker@evil.example",
            "victim@example.com; attacker@evil.example",
            "victim@example.com attacker@evil.example",
            "victim@example.com\nattacker@evil.example",
            "victim@example.com\r\nBcc: attacker@evil.example",
            "victim@example.com\u{2028}attacker@evil.example",
            "all: victim@example.com, attacker@evil.example;",
            "all:victim@example.com;",
            "undisclosed-recipients:;",
            "<victim@example.com><attacker@evil.example>",
            "victim@example.com <attacker@evil.example>",
            "\"victim@example.com\" <attacker@evil.example>",
            "<victim@example.com>, <attacker@evil.example>",
            "<victim@example.com> attacker",
            "x <victim@example.com",
            "victim@example.com>",
            "\"victim@example.com,\"@evil.example",
            "victim@example.com(,attacker@evil.example)",
            "victim(comment)@example.com",
            "=?utf-8?q?attacker=40evil.example=2C?= <victim@example.com>",
            "=?x?q?attacker=40evil.example=3e=00?=victim@example.com",
            "victim@example.com，attacker＠evil.example",
            "victim@example.com\u{37e}attacker",
            "victim＜attacker@evil.example＞",
            "victim@example.com\\,attacker",
            "victim@example.com,",
            "",
            "  ",
        ] {
            assert!(!names_one_mailbox_at_most(bad) && single(bad, "email").is_err(), "{bad:?}");
        }
        for placeholder in ["[email protected]", "user", "<email>"] {
            assert!(names_one_mailbox_at_most(placeholder) && single(placeholder, "email").is_err(), "{placeholder}");
        }
    }

    #[test]
    fn all_mail_is_redirected_with_the_recipient_in_the_local_part() {
        let redirected = |dev: &str, to: &str| {
            let redirect = Redirect::new(dev, "MAILGUN_DEV_EMAIL").unwrap();
            redirect.apply(list(to, "to").unwrap()).unwrap().to_string()
        };
        assert_eq!(redirected("dev@host.example", "ada@example.com"), "dev+ada_at_example.com@host.example");
        assert_eq!(
            redirected("Dev <dev@host.example>", "Ada <ada@example.com>, josé@exämple.com"),
            "dev+ada_at_example.com@host.example, dev+jos__at_xn--exmple-cua.com@host.example"
        );
        let long = format!("{}@{}.com", "a".repeat(60), "b".repeat(60));
        let address = redirected("dev@host.example", &long);
        assert_eq!(address, format!("dev+{}@host.example", "a".repeat(60)));
        let dot = format!("{}.b@example.com", "a".repeat(59));
        assert_eq!(redirected("dev@host.example", &dot), format!("dev+{}@host.example", "a".repeat(59)));
        assert!(Redirect::new("dev@host.example, b@c.org", "MAILGUN_DEV_EMAIL").is_err());
    }
}
