//! The real program over real HTTP: a GraphQL server, a fake Mailgun, a real SMTP server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod emails;
mod graphql;
mod lookups;
mod program;

use serde_json::{Value, json};

use graphql::GraphQl;
use program::Program;

const DATABASE_ID: &str = "5b720132-17d5-424d-9bcb-ee7b17c13d43";
const SENDER_ID: &str = "0e0bd09e-7e6d-4a3a-a0ad-1b6a1e1f6a11";

fn invitation() -> Value {
    json!({
        "email_type": "invite_email",
        "email": "ada@example.com",
        "invite_token": "invite-token-123",
        "sender_id": SENDER_ID,
    })
}

fn reset() -> Value {
    json!({
        "email_type": "forgot_password",
        "email": "ada@example.com",
        "user_id": SENDER_ID,
        "reset_token": "reset-token-123",
    })
}

fn verification() -> Value {
    json!({
        "email_type": "email_verification",
        "email": "ada@example.com",
        "email_id": "b8f4d2f6-55a4-4c8e-9f3e-6f6a4b7f0a01",
        "verification_token": "verify-token-123",
    })
}

/// A GraphQL server with one whole site and one user, and the program in dry run against it.
async fn dry_run() -> (GraphQl, Program) {
    let graphql = GraphQl::start().await;
    let program = Program::start(&[("GRAPHQL_URL", &graphql.url()), ("SEND_VERIFICATION_LINK_DRY_RUN", "true")]).await;
    (graphql, program)
}
