#![doc = include_str!("../README.md")]

mod address;
pub mod config;
mod error;
mod mailgun;
mod memory;
mod message;
mod smtp;

use job_utils::error::chain;
use reqwest::Client;

pub use address::names_one_mailbox_at_most;
pub use config::{Config, Security, Senders, Transport, VARS, dry_run};
pub use error::MailError;
pub use memory::Outbox;
pub use message::{Message, header_text};

use address::Redirect;
use memory::Memory;
use message::{Defaults, Prepared};

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// A server has taken it.
    Sent,
    /// Nothing was sent, on purpose.
    DryRun,
}

enum Way {
    DryRun,
    Mailgun(mailgun::Mailgun),
    Smtp(smtp::Smtp),
    Memory(Memory),
}

/// Sends messages.
pub struct Mailer {
    way: Way,
    defaults: Defaults,
}

impl Mailer {
    /// A mailer for this configuration. Nothing is connected yet.
    pub fn new(config: Config) -> Result<Self, MailError> {
        let way = match config.transport {
            Transport::DryRun => Way::DryRun,
            Transport::Mailgun { url, domain, key } => {
                // No proxy from the environment: every setting is in the configuration.
                let client = Client::builder().timeout(mailgun::TIMEOUT).no_proxy().build();
                let client = client.map_err(|error| MailError::Setup(chain(&error)))?;
                Way::Mailgun(mailgun::Mailgun::new(client, &url, &domain, key)?)
            }
            Transport::Smtp(config) => Way::Smtp(smtp::Smtp::new(config)?),
        };
        let redirect = config.redirect_to.map(|address| Redirect::new(&address, "redirect_to")).transpose()?;
        Ok(Self { way, defaults: Defaults { from: config.from, reply_to: config.reply_to, redirect } })
    }

    /// A mailer that keeps messages instead of sending them, after the same checks; for tests.
    pub fn memory(from: impl Into<String>) -> (Self, Outbox) {
        let outbox = Outbox::default();
        let defaults = Defaults { from: Some(from.into()), ..Defaults::default() };
        (Self { way: Way::Memory(Memory(outbox.clone())), defaults }, outbox)
    }

    /// Whether this mailer sends nothing.
    pub fn is_dry_run(&self) -> bool {
        matches!(self.way, Way::DryRun)
    }

    /// Checks an address that somebody else chose and that a secret goes to: it must name one mailbox, by any reading
    /// of it. In a dry run a placeholder will do, which names none.
    ///
    /// # Errors
    /// [`MailError::Mailboxes`] with the field's name.
    pub fn check_single(&self, address: &str, field: &'static str) -> Result<(), MailError> {
        if self.is_dry_run() {
            return if names_one_mailbox_at_most(address) { Ok(()) } else { Err(MailError::Mailboxes(field)) };
        }
        address::single(address, field).map(drop)
    }

    /// Sends a message; what it leaves open comes from the configuration. In a dry run it is not even looked at.
    pub async fn send(&self, message: &Message) -> Result<Delivery, MailError> {
        if self.is_dry_run() {
            return Ok(Delivery::DryRun);
        }
        let prepared = Prepared::new(message, &self.defaults)?;
        match &self.way {
            Way::DryRun => return Ok(Delivery::DryRun),
            Way::Mailgun(mailgun) => mailgun.send(&prepared).await?,
            Way::Smtp(smtp) => smtp.send(prepared).await?,
            Way::Memory(memory) => memory.send(&prepared),
        }
        Ok(Delivery::Sent)
    }
}
