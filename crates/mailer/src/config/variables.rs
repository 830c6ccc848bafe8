//! The variables of the transports.

use job_utils::config::Var;

const FUNCTIONS: &str = "send-verification-link, send-email";

/// The key of Mailgun's API.
pub const MAILGUN_API_KEY: Var =
    Var { name: "MAILGUN_API_KEY", default: "", used_by: FUNCTIONS, about: "Key of Mailgun's API." };
/// Its older name.
pub const MAILGUN_KEY: Var =
    Var { name: "MAILGUN_KEY", default: "", used_by: FUNCTIONS, about: "Older name of `MAILGUN_API_KEY`." };
/// The sending domain.
pub const MAILGUN_DOMAIN: Var =
    Var { name: "MAILGUN_DOMAIN", default: "", used_by: FUNCTIONS, about: "Domain that Mailgun sends from." };
/// The default sender.
pub const MAILGUN_FROM: Var =
    Var { name: "MAILGUN_FROM", default: "", used_by: FUNCTIONS, about: "Sender of messages that name none." };
/// The default reply address.
pub const MAILGUN_REPLY: Var =
    Var { name: "MAILGUN_REPLY", default: "", used_by: FUNCTIONS, about: "Reply-To of messages that name none." };
/// Where everything goes instead.
pub const MAILGUN_DEV_EMAIL: Var = Var {
    name: "MAILGUN_DEV_EMAIL",
    default: "",
    used_by: FUNCTIONS,
    about: "When set, every message goes to this address, by Mailgun and by SMTP: a recipient `ada@example.com` becomes \
            `dev+ada_at_example.com@host` for `dev@host`.",
};
/// Mailgun's base URL.
pub const MAILGUN_URL: Var = Var {
    name: "MAILGUN_URL",
    default: "https://api.mailgun.net",
    used_by: FUNCTIONS,
    about: "Base URL of Mailgun's API; https://api.eu.mailgun.net for domains in the EU region.",
};
/// SMTP instead of Mailgun.
pub const EMAIL_SEND_USE_SMTP: Var = Var {
    name: "EMAIL_SEND_USE_SMTP",
    default: "false",
    used_by: FUNCTIONS,
    about: "Send by SMTP instead of Mailgun.",
};
/// The SMTP server.
pub const SMTP_HOST: Var = Var { name: "SMTP_HOST", default: "", used_by: FUNCTIONS, about: "SMTP server." };
/// Its port.
pub const SMTP_PORT: Var = Var {
    name: "SMTP_PORT",
    default: "",
    used_by: FUNCTIONS,
    about: "Port of the SMTP server; when unset 465 with `SMTP_SECURE=true`, else 587.",
};
/// The user, if the server wants one.
pub const SMTP_USER: Var =
    Var { name: "SMTP_USER", default: "", used_by: FUNCTIONS, about: "User for the SMTP server, if it wants one." };
/// The user's password.
pub const SMTP_PASS: Var =
    Var { name: "SMTP_PASS", default: "", used_by: FUNCTIONS, about: "Password of `SMTP_USER`." };
/// The default sender.
pub const SMTP_FROM: Var = Var {
    name: "SMTP_FROM",
    default: "",
    used_by: FUNCTIONS,
    about: "Sender of messages that name none, when sending by SMTP; when unset `MAILGUN_FROM`.",
};
/// How the connection is protected.
pub const SMTP_SECURE: Var = Var {
    name: "SMTP_SECURE",
    default: "false",
    used_by: FUNCTIONS,
    about: "`true`: TLS from the first byte; `starttls`: STARTTLS required; `false`: STARTTLS when the server offers it.",
};
/// The reply address, by SMTP.
pub const SMTP_REPLY_TO: Var = Var {
    name: "SMTP_REPLY_TO",
    default: "",
    used_by: FUNCTIONS,
    about: "Reply-To of messages that name none, when sending by SMTP; when unset `MAILGUN_REPLY`.",
};
/// STARTTLS or nothing.
pub const SMTP_REQUIRE_TLS: Var = Var {
    name: "SMTP_REQUIRE_TLS",
    default: "false",
    used_by: FUNCTIONS,
    about: "`true`: nothing is sent without TLS, as with `SMTP_SECURE=starttls`.",
};
/// Certificates.
pub const SMTP_TLS_REJECT_UNAUTHORIZED: Var = Var {
    name: "SMTP_TLS_REJECT_UNAUTHORIZED",
    default: "true",
    used_by: FUNCTIONS,
    about: "`false`: take any certificate of the SMTP server, so that whoever is in between can read the mail and the password.",
};
/// Our own name.
pub const SMTP_NAME: Var = Var {
    name: "SMTP_NAME",
    default: "",
    used_by: FUNCTIONS,
    about: "Name that the SMTP server is greeted with; when unset the machine's.",
};
/// Send nothing, whichever function it is.
pub const SIMPLE_EMAIL_DRY_RUN: Var = Var {
    name: "SIMPLE_EMAIL_DRY_RUN",
    default: "false",
    used_by: FUNCTIONS,
    about: "Dry run of each function whose own variable for that is unset.",
};

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
