//! Mailgun's HTTP API: one POST a message.

use std::time::Duration;

use job_utils::config::Secret;
use job_utils::error::chain;
use reqwest::{Client, StatusCode};
use url::{Position, Url};

use crate::error::MailError;
use crate::message::Prepared;

pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);
/// How much of an unexpected answer is worth showing, in characters.
const EXCERPT: usize = 200;

pub(crate) struct Mailgun {
    client: Client,
    endpoint: Url,
    key: Secret,
}

impl Mailgun {
    pub(crate) fn new(client: Client, base: &Url, domain: &str, key: Secret) -> Result<Self, MailError> {
        let mut endpoint = base.clone();
        let versioned = base.path().trim_end_matches('/').ends_with("/v3");
        endpoint
            .path_segments_mut()
            .map_err(|()| MailError::Setup("MAILGUN_URL cannot hold a path".to_owned()))?
            .pop_if_empty()
            .extend((!versioned).then_some("v3"))
            .extend([domain, "messages"]);
        Ok(Self { client, endpoint, key })
    }

    pub(crate) async fn send(&self, message: &Prepared) -> Result<(), MailError> {
        let mut form = vec![
            ("from", message.from.to_string()),
            ("to", message.to.to_string()),
            ("subject", message.subject.clone()),
        ];
        form.extend(message.html.clone().map(|html| ("html", html)));
        form.extend(message.text.clone().map(|text| ("text", text)));
        form.extend(message.reply_to.as_ref().map(|reply_to| ("h:Reply-To", reply_to.to_string())));
        let request = self.client.post(self.endpoint.clone()).basic_auth("api", Some(self.key.expose())).form(&form);
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let body = response.text().await.unwrap_or_default();
        Err(MailError::Mailgun(self.refused(status, &body)))
    }

    fn unreachable(&self, error: reqwest::Error) -> MailError {
        let place = &self.endpoint[Position::BeforeHost..Position::AfterPort];
        MailError::Mailgun(format!("{place} cannot be reached ({})", chain(&error.without_url())))
    }

    fn refused(&self, status: StatusCode, body: &str) -> String {
        let advice = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "; check MAILGUN_API_KEY",
            StatusCode::NOT_FOUND => "; check MAILGUN_DOMAIN, and MAILGUN_URL if the domain is in the EU region",
            StatusCode::TOO_MANY_REQUESTS => "; it limits the rate",
            _ => "",
        };
        // A server that echoes what it was sent must not bring the key into a log or a last_error.
        let body = body.replace(self.key.expose(), "…");
        let excerpt: String = body.trim().chars().filter(|c| !c.is_control()).take(EXCERPT).collect();
        let separator = if excerpt.is_empty() { "" } else { ": " };
        format!("HTTP {}{advice}{separator}{excerpt}", status.as_u16())
    }
}
