//! One job: check the payload, look up, write, send.

use job_fn::{Context, FunctionError};
use mailer::{Delivery, Mailer, Message, header_text};
use serde_json::{Value, json};

use crate::config::Config;
use crate::links::{link, site_url};
use crate::lookup::{Lookup, Site};
use crate::payload::{Kind, Payload};
use crate::render::{Words, html, text};

/// The task that this function serves.
pub const TASK: &str = "email:send_verification_link";

const NO_DATABASE: &str = "Missing X-Database-Id header or DEFAULT_DATABASE_ID";

pub(crate) struct Function {
    lookup: Lookup,
    mailer: Mailer,
    default_database_id: Option<String>,
    local_app_port: Option<u16>,
}

impl Function {
    pub(crate) fn new(config: Config) -> anyhow::Result<Self> {
        Ok(Self {
            lookup: Lookup::new(config.graphql)?,
            mailer: Mailer::new(config.mail)?,
            default_database_id: config.default_database_id,
            local_app_port: config.local_app_port,
        })
    }

    pub(crate) async fn handle(&self, context: Context, payload: Value) -> Result<Value, FunctionError> {
        let refuse = |message: String| FunctionError::status(400, message);
        let payload = Payload::read(&payload).map_err(|missing| refuse(missing.to_string()))?;
        // The link is worth an account: it goes to one mailbox, whatever else the text could be read as.
        self.mailer.check_single(&payload.email, "email").map_err(|error| refuse(error.to_string()))?;
        let database_id = context.database_id.as_ref().or(self.default_database_id.as_ref());
        let database_id = database_id.ok_or_else(|| refuse(NO_DATABASE.to_owned()))?;

        let site = self.lookup.site(database_id).await?;
        let url = site_url(site.subdomain.as_deref(), &site.domain, self.local_app_port)?;
        let link = link(&url, &payload);
        let subject = header_text(&self.subject(&payload.kind, &site, database_id).await?);
        let (line, button) = match payload.kind {
            Kind::Invite { .. } => (format!("You've been invited to {}", site.nick), "Join Us"),
            Kind::ForgotPassword { .. } => ("Click below to reset your password".to_owned(), "Reset Password"),
            Kind::Verification { .. } => ("Please confirm your email address".to_owned(), "Confirm Email"),
        };
        let words = Words { subject: &subject, line: &line, button, link: &link };
        let message = Message {
            to: payload.email.clone(),
            subject: subject.clone(),
            html: Some(html(&words, &site)?),
            text: Some(text(&words, &site)),
            ..Message::default()
        };

        let (job_id, email_type) = (context.job_id.as_deref(), payload.kind.name());
        match self.mailer.send(&message).await? {
            Delivery::Sent => {
                tracing::info!(job.id = job_id, job.task = TASK, email_type, "e-mail sent");
                Ok(json!({ "complete": true }))
            }
            Delivery::DryRun => {
                let (email, subject, link) = (payload.email.as_str(), subject.as_str(), link.as_str());
                tracing::info!(
                    job.id = job_id,
                    job.task = TASK,
                    email_type,
                    email,
                    subject,
                    link,
                    "dry run: e-mail not sent"
                );
                Ok(json!({ "complete": true, "dryRun": true }))
            }
        }
    }

    async fn subject(&self, kind: &Kind, site: &Site, database_id: &str) -> Result<String, FunctionError> {
        let nick = &site.nick;
        Ok(match kind {
            Kind::Invite { sender_id, .. } => match self.lookup.display_name(database_id, sender_id).await? {
                Some(sender) => format!("{sender} invited you to {nick}!"),
                None => format!("Welcome to {nick}!"),
            },
            Kind::ForgotPassword { .. } => format!("{nick} Password Reset Request"),
            Kind::Verification { .. } => format!("{nick} Email Verification"),
        })
    }
}
