//! SMTP, a connection a message: mails are rare, and an idle connection is one that the server may have closed.

use std::time::Duration;

use job_utils::config::Secret;
use lettre::message::header::{ContentType, ReplyTo, To};
use lettre::message::{MultiPart, SinglePart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};

use crate::MailError;
use crate::config::Security;
use crate::message::Prepared;

/// For each step of the conversation.
const TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) struct Smtp {
    server: String,
    transport: AsyncSmtpTransport<Tokio1Executor>,
}

impl Smtp {
    pub(crate) fn new(
        host: String,
        port: u16,
        credentials: Option<(String, Secret)>,
        security: Security,
    ) -> Result<Self, MailError> {
        let tls = TlsParameters::new(host.clone()).map_err(|error| MailError::Setup(error.to_string()))?;
        let tls = match security {
            Security::Tls => Tls::Wrapper(tls),
            Security::StartTls => Tls::Required(tls),
            Security::Opportunistic => Tls::Opportunistic(tls),
        };
        let server = format!("{host}:{port}");
        let mut builder =
            AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host).port(port).tls(tls).timeout(Some(TIMEOUT));
        if let Some((user, password)) = credentials {
            builder = builder.credentials(Credentials::new(user, password.expose().to_owned()));
        }
        Ok(Self { server, transport: builder.build() })
    }

    pub(crate) async fn send(&self, message: Prepared) -> Result<(), MailError> {
        let mut builder = lettre::Message::builder()
            .message_id(None)
            .from(message.from)
            .mailbox(To::from(message.to))
            .subject(message.subject);
        if let Some(reply_to) = message.reply_to {
            builder = builder.mailbox(ReplyTo::from(reply_to));
        }
        let part = |kind, body| SinglePart::builder().header(kind).body(body);
        let message = match (message.text, message.html) {
            (Some(text), Some(html)) => builder.multipart(MultiPart::alternative_plain_html(text, html)),
            (Some(text), None) => builder.singlepart(part(ContentType::TEXT_PLAIN, text)),
            (None, html) => builder.singlepart(part(ContentType::TEXT_HTML, html.unwrap_or_default())),
        };
        let message = message.map_err(|error| self.failed(error.to_string()))?;
        self.transport.send(message).await.map_err(|error| self.failed(error.to_string()))?;
        Ok(())
    }

    fn failed(&self, reason: String) -> MailError {
        MailError::Smtp { server: self.server.clone(), reason }
    }
}
