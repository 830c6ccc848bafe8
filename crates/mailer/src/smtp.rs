//! SMTP, a connection a message: mails are rare, and an idle connection is one that the server may have closed.

use std::time::Duration;

use email_encoding::headers::rfc2047;
use email_encoding::headers::writer::EmailWriter;
use lettre::message::header::{ContentType, Header, HeaderValue, ReplyTo, Subject, To};
use lettre::message::{MultiPart, SinglePart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};

use crate::config::{Security, Smtp as Config};
use crate::error::MailError;
use crate::message::Prepared;

/// For each step of the conversation.
const TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) struct Smtp {
    server: String,
    transport: AsyncSmtpTransport<Tokio1Executor>,
}

impl Smtp {
    pub(crate) fn new(config: Config) -> Result<Self, MailError> {
        let Config { host, port, credentials, security, verify, name } = config;
        let tls = TlsParameters::builder(host.clone())
            .dangerous_accept_invalid_certs(!verify)
            .dangerous_accept_invalid_hostnames(!verify)
            .build()
            .map_err(|error| MailError::Setup(error.to_string()))?;
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
        if let Some(name) = name {
            builder = builder.hello_name(ClientId::Domain(name));
        }
        Ok(Self { server, transport: builder.build() })
    }

    pub(crate) async fn send(&self, message: Prepared) -> Result<(), MailError> {
        let mut builder = lettre::Message::builder()
            .message_id(None)
            .from(message.from)
            .mailbox(To::from(message.to))
            .raw_header(subject(message.subject));
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

/// The subject as it is to be read. lettre writes what is ASCII as it stands; a reader would decode what looks like an
/// encoded word, and see another subject than was written.
fn subject(text: String) -> HeaderValue {
    if !text.contains("=?") {
        return Subject::from(text).display();
    }
    let mut encoded = String::new();
    let written = rfc2047::encode(&text, &mut EmailWriter::new(&mut encoded, "Subject: ".len(), 0, false));
    match written {
        Ok(()) => HeaderValue::dangerous_new_pre_encoded(Subject::name(), text, encoded),
        // Writing to a string does not fail.
        Err(_) => Subject::from(text).display(),
    }
}

#[cfg(test)]
mod tests {
    use lettre::message::header::Headers;

    use super::*;

    #[test]
    fn what_looks_like_an_encoded_word_is_encoded_itself() {
        let written = |text: &str| {
            let mut headers = Headers::new();
            headers.insert_raw(subject(text.to_owned()));
            headers.to_string()
        };
        assert_eq!(written("Plain = subject?"), "Subject: Plain = subject?\r\n");
        assert_eq!(written("=?UTF-8?Q?a?="), "Subject: =?utf-8?b?PT9VVEYtOD9RP2E/PQ==?=\r\n");
        let long = written(&"=?UTF-8?Q?word?= ".repeat(20));
        assert!(long.lines().all(|line| line.len() <= 78), "{long}");
    }
}
