//! The function's settings.

use job_utils::config::{ConfigError, Env, Reader, Var};
use job_utils::variables;
use mailer::Senders;

variables! {
    /// Log the e-mail's recipient and subject instead of sending it.
    pub SEND_EMAIL_DRY_RUN = "false" for "send-email";
}

/// Every variable that this crate reads.
pub const VARS: &[&Var] = &[&SEND_EMAIL_DRY_RUN];

/// The function's settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub listen: job_fn::Config,
    /// How to send; in a dry run, not at all.
    pub mail: mailer::Config,
}

impl Config {
    /// Reads every setting, and reports every fault.
    pub fn from_env(env: &dyn Env) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(env);
        let listen = job_fn::Config::read(&mut reader);
        let dry_run = mailer::dry_run(&mut reader, &[&SEND_EMAIL_DRY_RUN]);
        let mail = mailer::Config::read(&mut reader, dry_run, Senders::OfMessages);
        reader.finish(Self { listen, mail })
    }
}
