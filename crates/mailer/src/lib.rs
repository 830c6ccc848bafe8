#![doc = include_str!("../README.md")]

pub mod config;
mod mailgun;
mod memory;
mod message;
mod smtp;

use job_utils::error::chain;
use reqwest::Client;

pub use config::{Config, Security, Transport, VARS};
pub use memory::Outbox;
pub use message::{Message, header_text};

use memory::Memory;
use message::Prepared;

/// Why a message was not sent. No text holds a key, a password or an address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MailError {
    /// An address that no mail can go to or come from.
    #[error("the message's '{0}' is not a valid e-mail address")]
    Address(&'static str),
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
    from: Option<String>,
    reply_to: Option<String>,
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
            Transport::Smtp { host, port, credentials, security } => {
                Way::Smtp(smtp::Smtp::new(host, port, credentials, security)?)
            }
        };
        Ok(Self { way, from: config.from, reply_to: config.reply_to })
    }

    /// A mailer that keeps messages instead of sending them, after the same checks; for tests.
    pub fn memory(from: impl Into<String>) -> (Self, Outbox) {
        let outbox = Outbox::default();
        (Self { way: Way::Memory(Memory(outbox.clone())), from: Some(from.into()), reply_to: None }, outbox)
    }

    /// Whether this mailer sends nothing.
    pub fn is_dry_run(&self) -> bool {
        matches!(self.way, Way::DryRun)
    }

    /// Sends a message; what it leaves open comes from the configuration. In a dry run it is not even looked at.
    pub async fn send(&self, message: &Message) -> Result<Delivery, MailError> {
        if self.is_dry_run() {
            return Ok(Delivery::DryRun);
        }
        let prepared = Prepared::new(message, self.from.as_deref(), self.reply_to.as_deref())?;
        match &self.way {
            Way::DryRun => return Ok(Delivery::DryRun),
            Way::Mailgun(mailgun) => mailgun.send(&prepared).await?,
            Way::Smtp(smtp) => smtp.send(prepared).await?,
            Way::Memory(memory) => memory.send(&prepared),
        }
        Ok(Delivery::Sent)
    }
}
