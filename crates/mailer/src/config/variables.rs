//! The variables of the transports.

use job_utils::config::Var;
use job_utils::variables;

const FUNCTIONS: &str = "send-verification-link, send-email";

variables! {
    /// Key of Mailgun's API.
    pub MAILGUN_API_KEY = "" for FUNCTIONS;
    /// Older name of `MAILGUN_API_KEY`.
    pub MAILGUN_KEY = "" for FUNCTIONS;
    /// Domain that Mailgun sends from.
    pub MAILGUN_DOMAIN = "" for FUNCTIONS;
    /// Sender of messages that name none.
    pub MAILGUN_FROM = "" for FUNCTIONS;
    /// Reply-To of messages that name none.
    pub MAILGUN_REPLY = "" for FUNCTIONS;
    /// When set, every message goes to this address, by Mailgun and by SMTP: a recipient `ada@example.com` becomes
    /// `dev+ada_at_example.com@host` for `dev@host`.
    pub MAILGUN_DEV_EMAIL = "" for FUNCTIONS;
    /// Base URL of Mailgun's API; https://api.eu.mailgun.net for domains in the EU region.
    pub MAILGUN_URL = "https://api.mailgun.net" for FUNCTIONS;
    /// Send by SMTP instead of Mailgun.
    pub EMAIL_SEND_USE_SMTP = "false" for FUNCTIONS;
    /// SMTP server.
    pub SMTP_HOST = "" for FUNCTIONS;
    /// Port of the SMTP server; when unset 465 with `SMTP_SECURE=true`, else 587.
    pub SMTP_PORT = "" for FUNCTIONS;
    /// User for the SMTP server, if it wants one.
    pub SMTP_USER = "" for FUNCTIONS;
    /// Password of `SMTP_USER`.
    pub SMTP_PASS = "" for FUNCTIONS;
    /// Sender of messages that name none, when sending by SMTP; when unset `MAILGUN_FROM`.
    pub SMTP_FROM = "" for FUNCTIONS;
    /// `true`: TLS from the first byte; `starttls`: STARTTLS required; `false`: STARTTLS when the server offers it.
    pub SMTP_SECURE = "false" for FUNCTIONS;
    /// Reply-To of messages that name none, when sending by SMTP; when unset `MAILGUN_REPLY`.
    pub SMTP_REPLY_TO = "" for FUNCTIONS;
    /// `true`: nothing is sent without TLS, as with `SMTP_SECURE=starttls`.
    pub SMTP_REQUIRE_TLS = "false" for FUNCTIONS;
    /// `false`: take any certificate of the SMTP server, so that whoever is in between can read the mail and the
    /// password.
    pub SMTP_TLS_REJECT_UNAUTHORIZED = "true" for FUNCTIONS;
    /// Name that the SMTP server is greeted with; when unset the machine's.
    pub SMTP_NAME = "" for FUNCTIONS;
    /// Dry run of each function whose own variable for that is unset.
    pub SIMPLE_EMAIL_DRY_RUN = "false" for FUNCTIONS;
}

/// What the original reads besides. Nothing of it changes what is sent, or where to.
pub(super) const WITHOUT_EFFECT: &[Var] = &[
    without_effect("SMTP_POOL"),
    without_effect("SMTP_MAX_CONNECTIONS"),
    without_effect("SMTP_MAX_MESSAGES"),
    without_effect("SMTP_LOGGER"),
    without_effect("SMTP_DEBUG"),
];

const fn without_effect(name: &'static str) -> Var {
    Var { name, default: "", used_by: FUNCTIONS, about: "Has no effect here." }
}

/// Every variable that this crate reads.
pub const VARS: &[&Var] = &[
    &MAILGUN_API_KEY,
    &MAILGUN_KEY,
    &MAILGUN_DOMAIN,
    &MAILGUN_FROM,
    &MAILGUN_REPLY,
    &MAILGUN_DEV_EMAIL,
    &MAILGUN_URL,
    &EMAIL_SEND_USE_SMTP,
    &SMTP_HOST,
    &SMTP_PORT,
    &SMTP_USER,
    &SMTP_PASS,
    &SMTP_FROM,
    &SMTP_SECURE,
    &SMTP_REPLY_TO,
    &SMTP_REQUIRE_TLS,
    &SMTP_TLS_REJECT_UNAUTHORIZED,
    &SMTP_NAME,
    &SIMPLE_EMAIL_DRY_RUN,
];
